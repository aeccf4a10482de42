"""One pass in little memory finds what sorting everything finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimcore.sampling import bottom
from mimcore.sampling.bottom import Bottom, Order

ROW = st.tuples(st.integers(0, 40), st.sampled_from([0.0, 1.0, -2.0]), st.sampled_from([3, 1, 7]))


def whole(
    rows: list[tuple[int, float, int]], images: int, scored: bool, stratified: bool, weights: dict[int, float]
) -> list[int]:
    """By sorting all; equal hashes go by key, which here is the number of the row from behind."""
    order = sorted(range(len(rows)), key=lambda n: (rows[n][1] if scored else 0, rows[n][0], -n))
    if stratified:
        turns: dict[int, int] = {}
        times = {}
        for number in order:
            stratum = rows[number][2]
            turn = turns.setdefault(stratum, 0)
            turns[stratum] += 1
            times[number] = ((turn + 0.5) / weights[stratum], stratum)
        order.sort(key=lambda number: times[number])
    return order[:images]


@given(
    st.lists(ROW, min_size=1, max_size=80),
    st.integers(0, 20),
    st.integers(1, 30),
    st.booleans(),
    st.sampled_from([None, "equal", "weighted"]),
    st.data(),
)
def test_parts_in_any_order_give_what_sorting_all_gives(
    rows: list[tuple[int, float, int]], images: int, size: int, scored: bool, strata: str | None, data: st.DataObject
) -> None:
    weights = {3: 1.0, 1: 5.0, 7: 2.0} if strata == "weighted" else {3: 1.0, 1: 1.0, 7: 1.0}
    hashes, scores, names = (np.array(values) for values in zip(*rows, strict=True))
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bottom, "_LEAST", 0)
        first = Bottom(images)
        for start in range(0, len(rows), size):
            part = order[start : start + size]
            first.add(
                part,
                hashes[part].astype(np.uint64),
                Order(
                    scores[part] if scored else None,
                    np.unique(names[part], return_inverse=True)[1] if strata else None,
                    np.unique(names[part]).astype(np.uint64) if strata else None,
                    np.array([weights[name] for name in np.unique(names[part]).tolist()])
                    if strata == "weighted"
                    else None,
                ),
            )
        found = first.result(lambda numbers: [f"{100 - number:03d}" for number in numbers.tolist()])
    assert found.tolist() == whole(rows, images, scored, strata is not None, weights)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=200), st.data())
def test_told_the_total_it_finds_the_same_or_asks_again(hashes: list[int], data: st.DataObject) -> None:
    images = data.draw(st.integers(0, len(hashes)))
    first = Bottom(images, len(hashes))
    first.add(np.arange(len(hashes)), np.array(hashes, np.uint64), Order())
    if first.enough:
        order = sorted(range(len(hashes)), key=lambda number: (hashes[number], number))
        assert first.result(lambda rows: [f"{row:03d}" for row in rows]).tolist() == order[:images]
    else:
        assert sum(value <= 2**64 * (images + 6 * images**0.5 + 16) / len(hashes) for value in hashes) < images


def test_it_holds_little() -> None:
    first = Bottom(1000)
    generator = np.random.default_rng(0)
    most = 0
    for start in range(0, 10_000_000, 1 << 17):
        rows = np.arange(start, start + (1 << 17))
        first.add(rows, generator.integers(0, 2**64, len(rows), np.uint64), Order())
        most = max(most, first._count)
    assert most < 4 * (1 << 17)
    assert len(first.result(lambda rows: [])) == 1000
