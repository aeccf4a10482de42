"""What the cells of a table are called."""

import pytest

from mimcore.scaling.mapping import text


@pytest.mark.parametrize(
    ("value", "said"), [(1281167.0, "1281167"), (14197122.0, "14197122"), (0.05, "0.05"), (192, "192")]
)
def test_a_number_is_written_whole(value, said):
    assert text(value) == said
