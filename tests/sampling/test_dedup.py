import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from drawing import check_growth, check_keep, drawing, keeping, tables
from hypothesis import given
from hypothesis import strategies as st

from mimcore.data.hashing import bottom
from mimcore.errors import UserError
from mimcore.sampling import hamming
from mimcore.sampling.strategies import dedup, random

#: A few centres with some of their bits turned: many near ones, chains of them, and equal ones.
HASHES = st.builds(
    lambda centre, bits: centre ^ sum(1 << bit for bit in set(bits)),
    st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF, 0xFFFF0000FFFF0000]),
    st.lists(st.sampled_from([0, 1, 15, 16, 31, 32, 47, 48, 62, 63]), max_size=6),
)
ROWS = tables(phash=st.one_of(st.none(), HASHES))
DISTANCES = st.integers(0, 8)


def reference(rows: pa.Table, distance: int) -> list[str]:
    """Greedily in the order of the draw, each against each: O(n^2)."""
    hashes, keys = rows["phash"].to_pylist(), rows["key"].to_pylist()
    stayed: list[int] = []
    for row in bottom(rows["key"], rows.num_rows, "s0"):
        near = (
            any((hashes[row] ^ hashes[other]).bit_count() <= distance for other in stayed)
            if hashes[row] is not None
            else False
        )
        if hashes[row] is not None and not near:
            stayed.append(row)
    return [keys[row] for row in range(len(keys)) if hashes[row] is None or row in stayed]


@given(ROWS, DISTANCES)
def test_it_keeps_what_comparing_each_with_each_keeps(rows: pa.Table, distance: int) -> None:
    assert keeping(dedup, dedup.Config(distance=distance))(rows) == reference(rows, distance)


@given(ROWS, DISTANCES, st.data())
def test_the_order_of_rows_does_not_matter(rows: pa.Table, distance: int, data: st.DataObject) -> None:
    check_keep(keeping(dedup, dedup.Config(distance=distance)), rows, data)


@given(st.lists(HASHES, max_size=60), DISTANCES, st.sampled_from([1, 2, 3, 4]))
def test_every_near_pair_is_found_whatever_the_tables(found: list[int], distance: int, shared: int) -> None:
    hashes = np.array(found, np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "_SHARED", (shared,))
        pairs = {
            (min(i, j), max(i, j))
            for a, b in hamming.near_pairs(hashes, distance)
            for i, j in zip(a.tolist(), b.tolist(), strict=True)
        }
    wanted = {(i, j) for j in range(len(found)) for i in range(j) if (found[i] ^ found[j]).bit_count() <= distance}
    assert pairs == wanted


@given(st.lists(HASHES, max_size=40), st.lists(HASHES, max_size=40), DISTANCES)
def test_near_any_is_what_comparing_each_with_each_says(found: list[int], others: list[int], distance: int) -> None:
    near = hamming.near_any(np.array(found, np.uint64), np.array(others, np.uint64), distance)
    assert near.tolist() == [any((a ^ b).bit_count() <= distance for b in others) for a in found]


def exact_then_random(rows: pa.Table, images: int) -> list[str]:
    left = rows.filter(pc.is_in(rows["key"], pa.array(keeping(dedup, dedup.Config())(rows))))
    return drawing(random, random.Config())(left, min(images, left.num_rows))


@given(ROWS, st.data())
def test_exact_and_then_random_changes_by_newcomers_alone(rows: pa.Table, data: st.DataObject) -> None:
    check_growth(exact_then_random, rows, data)


@given(tables(phash=st.integers(0, 5)), st.data())
def test_a_composition_is_nested_and_order_free(rows: pa.Table, data: st.DataObject) -> None:
    left = rows.num_rows - (rows.num_rows - len(set(rows["phash"].to_pylist())))
    large = data.draw(st.integers(0, left))
    drawn = exact_then_random(rows, large)
    assert len(set(drawn)) == len(drawn) == large
    small = data.draw(st.integers(0, large))
    assert exact_then_random(rows, small) == drawn[:small]


def test_many_hashes_agree_with_brute_force() -> None:
    generator = np.random.default_rng(0)
    centres = generator.integers(0, 2**64, 700, np.uint64)
    copies = centres[generator.integers(0, 700, 1300)]
    for _ in range(5):
        copies = copies ^ (np.uint64(1) << generator.integers(0, 64, len(copies), np.uint64))
    hashes = np.concatenate([centres, copies])
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    for distance in (1, 3, 5, 8):
        stays = np.zeros(len(hashes), bool)
        for row in range(len(hashes)):
            stays[row] = not (distances[row, :row][stays[:row]] <= distance).any()
        assert (hamming.first_of_near(hashes, distance) == stays).all()


def test_a_chain_is_not_lost_but_for_its_first() -> None:
    """0 - 1 - 3 - 7, each one bit from the next: what stays is two apart, and covers the rest."""
    hashes = np.array([0b0, 0b1, 0b11, 0b111], np.uint64)
    assert hamming.first_of_near(hashes, 1).tolist() == [True, False, True, False]
    assert hamming.first_of_near(hashes[[1, 0, 2, 3]], 1).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("distance", "golden"),
    [
        (0, ["00", "02", "05", "07", "09", "10", "13", "15", "17", "19", "20", "22"]),
        (1, ["00", "07", "10", "13", "19", "20"]),
    ],
)
def test_golden_keep(distance: int, golden: list[str]) -> None:
    rows = pa.table({"key": [f"{number:02d}" for number in range(24)], "phash": [number // 2 for number in range(24)]})
    assert keeping(dedup, dedup.Config(distance=distance))(rows) == golden


def test_hexadecimal_and_signed_columns_say_the_same() -> None:
    numbers = [0x8000000000000001, 1, 0x8000000000000001, None]
    keys = ["a", "b", "c", "d"]
    columns = [
        pa.array(numbers, pa.uint64()),
        pa.array([None if n is None else n - 2**64 if n >= 2**63 else n for n in numbers], pa.int64()),
        pa.array([None if n is None else f"{n:016x}" for n in numbers]),
    ]
    found = [keeping(dedup, dedup.Config(column="h"))(pa.table({"key": keys, "h": column})) for column in columns]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 3


def test_mistakes() -> None:
    rows = pa.table({"key": ["a"], "image_phash": ["12"], "score": [0.5]})
    for column, message in [
        ("phash", r"^options\.column: the pool's index has no column 'phash'; did you mean 'image_phash'"),
        ("image_phash", r"^options\.column: 'image_phash' holds no 64-bit hashes \(its type is string\)"),
        ("score", r"^options\.column: 'score' holds no 64-bit hashes \(its type is double\)"),
    ]:
        with pytest.raises(UserError, match=message):
            keeping(dedup, dedup.Config(column=column))(rows)
