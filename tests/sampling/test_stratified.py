from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawing import check_draw, check_growth, drawing, tables
from hypothesis import given
from hypothesis import strategies as st

from mimcore.data.hashing import hash64
from mimcore.errors import UserError
from mimcore.sampling.strategies import stratified

CLASSES = tables(label=st.sampled_from([0, 1, 2, 7]))
NUMBERS = tables(score=st.integers(0, 9).map(float))


def config(**options: Any) -> stratified.Config:
    return stratified.Config(**options)


def counts(rows: pa.Table, keys: list[str]) -> Counter[int]:
    labels = dict(zip(rows["key"].to_pylist(), rows["label"].to_pylist(), strict=True))
    return Counter(labels[key] for key in keys)


@given(CLASSES, st.data())
def test_balanced_draws_are_nested_and_order_free(rows: pa.Table, data: st.DataObject) -> None:
    assert stratified.nested(config())
    check_draw(drawing(stratified, config()), rows, data)


@given(CLASSES, st.data())
def test_proportional_draws_are_nested_and_order_free(rows: pa.Table, data: st.DataObject) -> None:
    assert stratified.nested(config(allocation="proportional"))
    check_draw(drawing(stratified, config(allocation="proportional")), rows, data)


@given(NUMBERS, st.data())
def test_quantiles_are_nested_and_order_free(rows: pa.Table, data: st.DataObject) -> None:
    check_draw(drawing(stratified, config(column="score", quantiles=3)), rows, data)


@given(CLASSES, st.data())
def test_a_grown_pool_changes_a_balanced_draw_by_newcomers_alone(rows: pa.Table, data: st.DataObject) -> None:
    check_growth(drawing(stratified, config()), rows, data)


@given(CLASSES, st.data())
def test_balanced_quotas_are_equal_but_for_what_a_class_lacks(rows: pa.Table, data: st.DataObject) -> None:
    images = data.draw(st.integers(0, rows.num_rows))
    found = counts(rows, drawing(stratified, config())(rows, images))
    whole = Counter(rows["label"].to_pylist())
    # The water level: classes below it give all that they have, the others it or one more.
    level = max((level for level in range(60) if sum(min(level, n) for n in whole.values()) <= images), default=0)
    for label, n in whole.items():
        assert found[label] in ({n} if n <= level else {level, level + 1})


@given(CLASSES, st.data())
def test_proportional_quotas_are_those_of_webster(rows: pa.Table, data: st.DataObject) -> None:
    """No image that is in had its turn after one that is not: Balinski and Young's min-max condition."""
    images = data.draw(st.integers(1, rows.num_rows))
    found = counts(rows, drawing(stratified, config(allocation="proportional"))(rows, images))
    whole = Counter(rows["label"].to_pylist())
    last = max(Fraction(2 * found[label] - 1, 2 * whole[label]) for label in found)
    following = [Fraction(2 * found[label] + 1, 2 * n) for label, n in whole.items() if found[label] < n]
    assert not following or last <= min(following)


@given(CLASSES, st.sampled_from(["balanced", "proportional"]), st.data())
def test_within_a_class_the_smallest_hashes_are_drawn(rows: pa.Table, allocation: str, data: st.DataObject) -> None:
    images = data.draw(st.integers(0, rows.num_rows))
    found = set(drawing(stratified, config(allocation=allocation))(rows, images))
    hashes = hash64(rows["key"], "s0")
    drawn = np.array([key in found for key in rows["key"].to_pylist()])
    for label in set(rows["label"].to_pylist()):
        own = rows["label"].to_numpy() == label
        if (own & drawn).any() and (own & ~drawn).any():
            assert hashes[own & drawn].max() < hashes[own & ~drawn].min()


def test_a_stratum_loses_nothing_as_the_draw_grows() -> None:
    """Of 6 : 6 : 2, the largest remainder gives the small one 2 of 10 but 1 of 11 (the 'Alabama paradox')."""
    rows = pa.table({"key": [f"{n:02d}" for n in range(14)], "label": [0] * 6 + [1] * 6 + [2] * 2})
    draw = drawing(stratified, config(allocation="proportional"))
    shares = [counts(rows, draw(rows, images))[2] for images in range(15)]
    assert shares == sorted(shares)
    assert shares[7] == 1


def test_quantiles_have_equal_numbers_and_bounds_of_their_own() -> None:
    keys = [f"{number}" for number in range(100)]
    rows = pa.table({"key": keys, "score": [float(number**2) for number in range(100)]})
    drawn = drawing(stratified, config(column="score", quantiles=4))(rows, 20)
    assert Counter((int(key)) // 25 for key in drawn) == {0: 5, 1: 5, 2: 5, 3: 5}
    alike = pa.table({"key": keys, "score": [1.0] * 100})
    assert len(drawing(stratified, config(column="score", quantiles=4))(alike, 20)) == 20


def test_no_class_is_favoured_over_all_seeds() -> None:
    rows = pa.table({"key": [f"{number}" for number in range(30)], "label": [number % 3 for number in range(30)]})
    got_more = Counter(
        counts(rows, drawing(stratified, config(), f"s{seed}")(rows, 1)).most_common()[0][0] for seed in range(300)
    )
    assert all(70 < got_more[label] < 130 for label in range(3))


@pytest.mark.parametrize(
    ("allocation", "golden"),
    [("balanced", ["060", "058", "080", "019", "020"]), ("proportional", ["058", "019", "007", "035", "060"])],
)
def test_golden_draw(allocation: str, golden: list[str]) -> None:
    keys = [f"{number:03d}" for number in range(100)]
    rows = pa.table({"key": keys, "label": [int(number % 10 == 0) for number in range(100)]})
    assert drawing(stratified, config(allocation=allocation))(rows, 5) == golden


def test_text_and_truth_are_classes_and_mistakes_are_told() -> None:
    rows = pa.table({"key": ["a", "b", "c"], "set": ["x", "x", "y"], "x": [1.5, 2, 3], "label": [1, None, None]})
    assert len({*drawing(stratified, config(column="set"))(rows, 2)} & {"c"}) == 1
    for options, message in [
        ({}, r"^options\.column: some images have no 'label'; drop them before"),
        ({"column": "x"}, r"^options\.column: 'x' holds values of type double, which are no classes; give 'quantiles'"),
        (
            {"column": "set", "quantiles": 2},
            r"^options\.column: 'set' holds values of type string; name a column of numbers",
        ),
        ({"column": "sett"}, r"^options\.column: .* no column 'sett'; did you mean 'set'"),
    ]:
        with pytest.raises(UserError, match=message):
            drawing(stratified, config(**options))(rows, 1)
