import numpy as np
import pyarrow as pa
import pytest
from drawing import check_draw, check_growth, drawing, tables
from hypothesis import given
from hypothesis import strategies as st

from mimcore.data.hashing import hash64
from mimcore.errors import UserError
from mimcore.sampling.strategies import top

ROWS = tables(score=st.integers(-3, 3).map(float))


@given(ROWS, st.booleans(), st.data())
def test_draws_are_nested_and_order_free(rows: pa.Table, descending: bool, data: st.DataObject) -> None:
    check_draw(drawing(top, top.Config(column="score", descending=descending)), rows, data)


@given(ROWS, st.data())
def test_a_grown_pool_changes_a_draw_by_newcomers_alone(rows: pa.Table, data: st.DataObject) -> None:
    check_growth(drawing(top, top.Config(column="score")), rows, data)


@given(ROWS)
def test_the_best_come_first_and_equal_ones_by_hash(rows: pa.Table) -> None:
    hashes = hash64(rows["key"], "s0").tolist()
    order = sorted(zip((-s for s in rows["score"].to_pylist()), hashes, rows["key"].to_pylist(), strict=True))
    assert drawing(top, top.Config(column="score"))(rows, rows.num_rows) == [key for *_, key in order]


def test_golden_draw() -> None:
    rows = pa.table({"key": [f"{number:03d}" for number in range(100)], "score": [number % 7 for number in range(100)]})
    assert drawing(top, top.Config(column="score"))(rows, 4) == GOLDEN
    assert drawing(top, top.Config(column="score"), "s1")(rows, 4) != GOLDEN


GOLDEN = ["048", "006", "027", "034"]


def test_mistakes() -> None:
    rows = pa.table({"key": ["a", "b"], "clip_score": [1.0, np.nan], "caption": ["x", "y"]})
    for column, message in [
        ("clip_scores", r"^options\.column: the pool's index has no column 'clip_scores'; did you mean 'clip_score'"),
        (
            "clip_score",
            r"^options\.column: some images have no 'clip_score'; drop them .* \{column: clip_score, present: true\}",
        ),
        ("caption", r"^options\.column: 'caption' holds values of type string; name a column of numbers"),
    ]:
        with pytest.raises(UserError, match=message):
            drawing(top, top.Config(column=column))(rows, 1)
