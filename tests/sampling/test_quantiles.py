from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimcore.sampling import quantiles as module
from mimcore.sampling.quantiles import quantiles

VALUES = st.lists(
    st.one_of(st.floats(allow_nan=False), st.integers(-3, 3).map(float), st.just(-0.0)), min_size=1, max_size=60
)


@given(VALUES, st.integers(2, 9), st.integers(1, 60), st.sampled_from([0, 3, 1 << 20]))
def test_bounds_are_those_of_the_sorted_values(values: list[float], parts: int, size: int, few: int) -> None:
    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(values), size):
            yield np.array(values[start : start + size])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW", few)
        found = quantiles(read, parts)
    # The i-th bound is the value at which i / parts of all are reached.
    ordered = sorted(values)
    assert found.tolist() == [ordered[-(-len(values) * part // parts) - 1] for part in range(1, parts)]


def test_nothing_has_no_bounds() -> None:
    assert len(quantiles(lambda: iter([]), 4)) == 0
