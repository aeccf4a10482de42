import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mimcore.scaling.proxy import proxy
from mimcore.scaling.statistics import spearman, student


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=4, max_size=30))
def test_spearman_is_that_of_scipy_with_ties(pairs):
    x, y = np.array(pairs, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(spearman(x, y)[0])
    else:
        assert spearman(x, y)[0] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_weights_count_as_repetition():
    rng = np.random.default_rng(0)
    x, y, counts = rng.standard_normal(12), rng.standard_normal(12), rng.integers(0, 4, 12)
    repeated = stats.spearmanr(np.repeat(x, counts), np.repeat(y, counts)).statistic
    assert spearman(x, y, counts[None].astype(float))[0] == pytest.approx(repeated, abs=1e-12)


def test_students_interval_is_that_of_scipy():
    values = np.array([0.31, 0.29, 0.36, 0.33])
    found = student(values, 0.9)
    low, high = stats.t.interval(0.9, 3, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert student(values[:1], 0.9).low is None


def test_the_interval_of_a_correlation_draws_whole_clusters():
    """Copies of a cell are no more evidence than the cell: with every run tripled the interval stays as it was."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal(15)
    y = x + rng.standard_normal(15)
    names = [str(i) for i in range(15)]

    def interval(x, y, names):
        everything = {"all": np.ones(len(x), dtype=bool)}
        return proxy(x, y, names, everything, confidence=0.95, bootstrap=500, seed=1)["all"]["spearman"]

    once = interval(x, y, names)
    tripled = interval(np.repeat(x, 3), np.repeat(y, 3), sorted(names * 3, key=names.index))
    assert (tripled["low"], tripled["high"]) == pytest.approx((once["low"], once["high"]), abs=1e-9)
    assert once["low"] < once["estimate"] < once["high"]
    assert interval(x[:3], y[:3], names[:3])["low"] is None
