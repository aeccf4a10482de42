import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mimcore.evaluation.permutations import dealt


def of_matrix(c: np.ndarray) -> tuple[float, float]:
    return dealt(float((c**2).sum()), c.sum(axis=1), c.sum(axis=0))


@settings(max_examples=30)
@given(st.integers(1, 5).flatmap(lambda n: arrays(float, (n, n), elements=st.integers(-3, 3).map(float))))
def test_mean_and_spread_are_those_of_all_permutations(c: np.ndarray) -> None:
    every = [np.mean([c[i, j] for i, j in enumerate(order)]) for order in itertools.permutations(range(len(c)))]
    assert of_matrix(c) == (pytest.approx(np.mean(every)), pytest.approx(np.std(every), abs=1e-7))


def test_the_sum_of_some_ranks_spreads_as_wilcoxons_does() -> None:
    """Ranks of m of N values, N without ties: mean m (N + 1) / 2, variance m (N - m) (N + 1) / 12."""
    m, n = 4, 11
    c = np.outer(np.arange(n) < m, np.arange(1.0, n + 1))
    mean, deviation = of_matrix(c)
    assert mean * n == pytest.approx(m * (n + 1) / 2)
    assert (deviation * n) ** 2 == pytest.approx(m * (n - m) * (n + 1) / 12)
