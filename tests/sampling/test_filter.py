import math
from typing import Any

import pyarrow as pa
import pytest
from drawing import check_keep, keeping, tables
from hypothesis import given
from hypothesis import strategies as st

from mimcore.definition import resolve
from mimcore.errors import UserError
from mimcore.sampling.strategies import filter as strategy

SCORES = st.one_of(st.none(), st.just(math.nan), st.integers(-3, 3).map(lambda number: number / 2))
ROWS = tables(
    score=SCORES,
    label=st.one_of(st.none(), st.integers(0, 3)),
    caption=st.one_of(st.none(), st.text("ab é", max_size=6)),
)


def kept(rows: pa.Table, *where: dict[str, Any]) -> list[str]:
    return keeping(strategy, resolve(strategy.Config, {"where": list(where)}, "options"))(rows)


def has(value: Any) -> bool:
    return value is not None and value == value


@given(ROWS, st.sampled_from([-1, 0, 0.5]), st.booleans())
def test_conditions_mean_what_python_means(rows: pa.Table, bound: float, missing: bool) -> None:
    for column, options, meets in [
        ("score", {"at_least": bound}, lambda v: v >= bound),
        ("score", {"at_most": bound}, lambda v: v <= bound),
        ("score", {"above": bound, "below": 1}, lambda v: bound < v < 1),
        ("caption", {"min_characters": 2, "max_characters": 4}, lambda v: 2 <= len(v) <= 4),
        ("caption", {"min_words": 1, "max_words": 2}, lambda v: 1 <= len(v.split()) <= 2),
        ("label", {"one_of": [0, 3]}, lambda v: v in (0, 3)),
        ("label", {"none_of": [0, 3], "at_most": 2}, lambda v: v not in (0, 3) and v <= 2),
        ("caption", {"one_of": ["a", "b"]}, lambda v: v in ("a", "b")),
    ]:
        wanted = [row["key"] for row in rows.to_pylist() if (meets(row[column]) if has(row[column]) else missing)]
        assert kept(rows, {"column": column, **options, "keep_missing": missing}) == wanted
    present = [row["key"] for row in rows.to_pylist() if has(row["score"])]
    assert kept(rows, {"column": "score", "present": True}) == present
    absent = kept(rows, {"column": "score", "present": False})
    assert sorted(present + absent) == sorted(rows["key"].to_pylist())


@given(tables(score=st.integers(0, 5), label=st.integers(0, 2)), st.data())
def test_all_conditions_hold_whatever_the_order(rows: pa.Table, data: st.DataObject) -> None:
    conditions = [{"column": "score", "at_least": 2}, {"column": "label", "one_of": [1, 2]}]
    config = resolve(strategy.Config, {"where": conditions}, "options")
    check_keep(keeping(strategy, config), rows, data)
    assert kept(rows, *conditions) == [r["key"] for r in rows.to_pylist() if r["score"] >= 2 and r["label"] in (1, 2)]


def test_golden_keep() -> None:
    """COYO's own recommendation for a cleaner set, on five images."""
    rows = pa.table(
        {
            "key": ["a", "b", "c", "d", "e"],
            "clip_similarity_vitb32": [0.31, 0.29, 0.4, None, 0.35],
            "watermark_score": [0.1, 0.1, 0.7, 0.1, 0.5],
            "text": ["a brown dog", "a red cat", "a blue bird", "a car", "sky"],
        }
    )
    where = [
        {"column": "clip_similarity_vitb32", "at_least": 0.3},
        {"column": "watermark_score", "at_most": 0.5},
        {"column": "text", "min_characters": 5},
    ]
    assert kept(rows, *where) == ["a"]
    assert kept(rows, {**where[0], "keep_missing": True}, where[1], where[2]) == ["a", "d"]


def test_mistakes() -> None:
    rows = pa.table({"key": ["a"], "label": [1], "caption": ["x"], "boxes": [[1.0]]})
    for condition, message in [
        (
            {"column": "labl", "at_least": 1},
            r"where\.0\.column: the pool's index has no column 'labl'; did you mean 'label'",
        ),
        ({"column": "caption", "at_least": 1}, r"where\.0\.at_least: 'caption' holds values of type string, and this"),
        (
            {"column": "label", "min_words": 1},
            r"where\.0\.min_words: 'label' holds values of type int64, and this compares text",
        ),
        ({"column": "label", "one_of": ["x"]}, r"where\.0\.one_of: 'label' holds values of type int64, and not all of"),
        ({"column": "label"}, r"options\.where\.0: 'label' is compared with nothing; give a bound"),
        ({"column": "label", "present": True, "above": 1}, r"options\.where\.0: 'present' stands alone"),
        ({"column": "label", "at_last": 1}, r"options\.where\.0\.at_last: unknown option"),
        ({"column": "label", "at_least": "__import__('os')"}, r"options\.where\.0\.at_least"),
    ]:
        with pytest.raises(UserError, match=message):
            kept(rows, condition)
    with pytest.raises(UserError, match=r"options\.where"):
        kept(rows)
