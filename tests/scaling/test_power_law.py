import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mimcore import registry
from mimcore.scaling.bootstrap import replicate_fits
from mimcore.scaling.laws.power import Law

SIZES = 1024 * 2.0 ** np.arange(6)
LAW = Law()


def predict(parameters, n):
    return LAW.predict(parameters, {"unique_images": n})


@settings(max_examples=40, deadline=None)
@given(
    floor=st.floats(0.05, 0.9),
    amplitude_at_start=st.floats(0.05, 0.9),
    exponent=st.floats(0.1, 1.5),
)
def test_noise_free_points_give_back_their_parameters(floor, amplitude_at_start, exponent):
    truth = np.array([floor, amplitude_at_start * SIZES[0] ** exponent, exponent])
    found = LAW.fit(SIZES, predict(truth, SIZES))
    np.testing.assert_allclose(found[[0, 2]], truth[[0, 2]], rtol=2e-2)
    np.testing.assert_allclose(predict(found, SIZES * 4), predict(truth, SIZES * 4), rtol=1e-4)


def test_the_optimum_is_that_of_a_general_optimiser():
    """Independent truth: Nelder and Mead on Huber's loss of the log residuals, at the fit's last threshold."""
    rng = np.random.default_rng(3)
    n = np.repeat(SIZES, 3)
    y = predict(np.array([0.4, 3.0, 0.35]), n) * np.exp(0.01 * rng.standard_normal(len(n)))
    y[4] *= 1.2
    found = LAW.fit(n, y)
    residuals = np.log(y / predict(found, n))
    limit = 1.345 * 1.4826 * np.median(np.abs(residuals)) * np.sqrt(len(n) / (len(n) - 3))

    def loss(v):
        r = np.abs(np.log(y) - np.log(np.exp(v[0]) + np.exp(v[1] - v[2] * np.log(n / 4096))))
        return np.sum(np.where(r <= limit, r**2 / 2, limit * (r - limit / 2)))

    start = np.array([np.log(0.3), np.log(0.2), 0.5])
    best = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 5000, "xatol": 1e-10, "fatol": 1e-16})
    np.testing.assert_allclose(found[[0, 2]], [np.exp(best.x[0]), best.x[2]], rtol=5e-3)


def test_an_outlier_hardly_moves_the_law():
    n = np.repeat(SIZES, 3)
    truth = np.array([0.4, 3.0, 0.35])
    y = predict(truth, n) * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(n)))
    clean = predict(LAW.fit(n, y), SIZES)
    y[7] *= 1.5
    assert np.max(np.abs(predict(LAW.fit(n, y), SIZES) / clean - 1)) < 0.004


def test_units_of_n_and_of_y_only_rescale():
    rng = np.random.default_rng(1)
    y = predict(np.array([0.4, 3.0, 0.35]), SIZES) * np.exp(0.01 * rng.standard_normal(6))
    floor, amplitude, exponent = LAW.fit(SIZES, y)
    np.testing.assert_allclose(LAW.fit(SIZES * 1000, y), [floor, amplitude * 1000**exponent, exponent], rtol=1e-6)
    np.testing.assert_allclose(LAW.fit(SIZES, y * 7), [floor * 7, amplitude * 7, exponent], rtol=1e-6)
    order = rng.permutation(6)
    np.testing.assert_allclose(LAW.fit(SIZES[order], y[order]), [floor, amplitude, exponent], rtol=1e-6)


def test_many_data_sets_at_once_are_each_fitted_as_if_alone():
    rng = np.random.default_rng(2)
    y = predict(np.array([0.4, 3.0, 0.35]), SIZES) * np.exp(0.02 * rng.standard_normal((20, 6)))
    np.testing.assert_allclose(LAW.fit(SIZES, y), np.stack([LAW.fit(SIZES, row) for row in y]), rtol=1e-9)


@pytest.mark.parametrize("y", [0.5 + 0.02 * np.arange(6), np.full(6, 0.5)])
def test_what_does_not_fall_has_no_amplitude(y):
    floor, amplitude, exponent = LAW.fit(SIZES, y)
    assert amplitude == pytest.approx(0, abs=1e-6)
    assert floor == pytest.approx(np.exp(np.mean(np.log(y))), rel=0.02)
    assert 0 < exponent <= 3


def test_the_bounds_hold():
    """A law that falls to below zero at infinity keeps a floor of 0, and a cliff keeps an exponent of at most 3."""
    falling = LAW.fit(SIZES, 1.0 - 0.09 * np.log2(SIZES / SIZES[0]))
    assert falling[0] == 0
    cliff = LAW.fit(SIZES, np.array([0.9, 0.4, 0.4, 0.4, 0.4, 0.4]))
    assert cliff[2] == pytest.approx(3)


@pytest.mark.parametrize(("seeds", "noise", "misfit"), [(3, 0.01, 0.0), (2, 0.004, 0.004), (1, 0.005, 0.0)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(seeds, noise, misfit):
    truth, repeats = np.array([0.4, 3.0, 0.35]), 120
    n = np.repeat(SIZES, seeds)
    at = np.array([SIZES[0], SIZES[-1], 4 * SIZES[-1]])
    hits = np.zeros(4)
    for i in range(repeats):
        rng = np.random.default_rng([i, seeds])
        deviation = noise * rng.standard_normal(len(n)) + np.repeat(misfit * rng.standard_normal(6), seeds)
        fits = replicate_fits(LAW, n, predict(truth, n) * np.exp(deviation), 200, rng)
        values = np.column_stack([predict(fits, at), fits[:, 2]])
        low, high = np.quantile(values, [0.025, 0.975], axis=0)
        expected = np.append(predict(truth, at), truth[2])
        hits += (low <= expected) & (expected <= high)
    # 95 % nominal; with 120 repeats a true coverage of 92 % stays above 86 % with near certainty.
    assert (hits / repeats).min() >= 0.86


def test_one_run_per_size_and_three_sizes_leave_no_interval():
    n = SIZES[:3]
    assert replicate_fits(LAW, n, predict(np.array([0.4, 3, 0.35]), n), 100, np.random.default_rng(0)) is None


def test_the_law_is_offered_by_name():
    assert "power" in registry.names("law")
    assert [p.name for p in registry.load("law", "power").Law().parameters] == ["floor", "amplitude", "exponent"]
