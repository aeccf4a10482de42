import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimcore.data.hashing import bottom, hash64, mix, seed64

MASK = 2**64 - 1


def reference_mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def reference_hash(key: str, seed: int | str) -> int:
    number = reference_hash(seed, 0) if isinstance(seed, str) else seed % 2**64
    data = key.encode()
    state = reference_mix((number + 0x9E3779B97F4A7C15 * len(data)) & MASK)
    for begin in range(0, len(data), 8):
        state = reference_mix(state ^ int.from_bytes(data[begin : begin + 8], "little"))
    return state


def test_mix_gives_the_published_sequence_of_splitmix64() -> None:
    # First outputs for the seed 1234567, as in the reference implementation of Vigna (prng.di.unimi.it/splitmix64.c).
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + step * golden) & MASK for step in range(3)], np.uint64)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.lists(st.text(max_size=40)), st.one_of(st.integers(), st.text(max_size=12)))
def test_hash_is_the_plain_reference(keys: list[str], seed: int | str) -> None:
    keys = [key.encode(errors="replace").decode() for key in keys]
    seed = seed.encode(errors="replace").decode() if isinstance(seed, str) else seed
    assert hash64(keys, seed).tolist() == [reference_hash(key, seed) for key in keys]


def test_golden_values_never_change() -> None:
    keys = ["", "a", "000000000", "train-00000-of-00003/17", "Bild 7 \u00e4\u00f6\u00fc"]
    assert [f"{value:016x}" for value in hash64(keys, "s0").tolist()] == [
        "1b09b525502ef3e0",
        "199373e628d5829b",
        "e827b0e86d6198c4",
        "9ec1dc04fe61224d",
        "03794ec990972fc7",
    ]
    assert seed64("s0") == reference_hash("s0", 0)
    assert seed64(-1) == MASK


def test_slices_chunks_and_types_do_not_matter() -> None:
    keys = [f"{number}" * (number % 5) for number in range(70_000)]
    whole = hash64(keys, 3)
    assert np.array_equal(hash64(pa.array(keys).slice(5, 40_000), 3), whole[5:40_005])
    assert np.array_equal(hash64(pa.chunked_array([keys[:9], keys[9:]]), 3), whole)
    assert np.array_equal(hash64(pa.array(keys, pa.large_string()), 3), whole)
    assert np.array_equal(hash64(pa.array(keys).dictionary_encode(), 3), whole)
    assert len(hash64([], 3)) == len(hash64(pa.chunked_array([], pa.string()), 3)) == 0
    with pytest.raises(ValueError, match="null"):
        hash64(pa.array(["a", None]), 3)


@given(st.lists(st.text("ab", max_size=8), unique=True), st.integers(0, 300))
def test_bottom_is_the_beginning_of_the_sorted_keys(keys: list[str], count: int) -> None:
    expected = sorted(keys, key=lambda key: reference_hash(key, "s1"))[:count]
    assert [keys[place] for place in bottom(keys, count, "s1")] == expected


def test_equal_hashes_go_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimcore.data.hashing.hash64", lambda keys, seed: np.zeros(len(keys), np.uint64))
    assert bottom(["c", "a", "b"], 2, 0).tolist() == [1, 2]
