import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimcore.data.order import permutation, positions


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 100, 1023, 1024, 1025, 2**16 + 1])
@pytest.mark.parametrize("seed", [0, "s0", 2**64 - 1])
def test_permutation_is_a_bijection(n: int, seed: int | str) -> None:
    assert np.array_equal(np.sort(permutation(n, seed)[np.arange(n)]), np.arange(n))


@given(st.integers(1, 300), st.integers(0, 2**64 - 1), st.integers(0, 2000), st.integers(0, 700))
def test_positions_do_not_depend_on_where_they_are_cut(n: int, seed: int, start: int, count: int) -> None:
    whole = positions(n, seed, 0, start + count)
    assert np.array_equal(positions(n, seed, start, count), whole[start:])
    for epoch in range((start + count) // n):
        assert np.array_equal(np.sort(whole[epoch * n : (epoch + 1) * n]), np.arange(n))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    stream = positions(1000, "s0", 0, 3000).reshape(3, 1000)
    other = positions(1000, "s1", 0, 1000)
    for first, second in [(stream[0], stream[1]), (stream[1], stream[2]), (stream[0], other)]:
        # Two independent orders agree in one place on average (a Poisson number).
        assert np.count_nonzero(first == second) < 8
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.12
    assert abs(np.corrcoef(stream[0], np.arange(1000))[0, 1]) < 0.12


def test_places_are_uniform() -> None:
    # Where image 0 of 10 goes, over 5000 seeds: chi-squared with 9 degrees of freedom, 99.9 % below 27.9.
    places = np.array([int(permutation(10, seed)[0]) for seed in range(5000)])
    counts = np.bincount(places, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 27.9


def test_large_numbers_need_no_memory() -> None:
    found = positions(10**12, 7, 10**13, 5)
    assert found.dtype == np.int64
    assert found.max() < 10**12
    with pytest.raises(IndexError, match="outside 0"):
        permutation(10, 0)[10]
    with pytest.raises(ValueError, match="nothing to permute"):
        permutation(0, 0)
