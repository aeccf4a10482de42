"""The best learning rate, from tables whose best is known."""

import math

import numpy as np
import pytest

from mimcore.errors import UserError
from mimcore.scaling.rate_sweep import fit_rates, sentences

RATES = np.array([0.25, 0.5, 1.0, 2.0, 4.0]) * 1e-3
BEST, LEAST, CURVATURE = 7e-4, 0.5, 0.01


def parabola(rates: np.ndarray) -> np.ndarray:
    return LEAST + CURVATURE * np.log2(rates / BEST) ** 2


def test_without_noise_it_is_the_truth() -> None:
    found = fit_rates(RATES[1:4], parabola(RATES[1:4]), at=1e-3)
    assert (found.rate, found.loss) == pytest.approx((BEST, LEAST))
    assert found.given_away == pytest.approx(CURVATURE * math.log2(1e-3 / BEST) ** 2)
    assert found.inside
    assert math.isnan(found.low)
    assert "three losses leave no error" in sentences(found, 0.95)[0]


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_intervals_cover_the_truth_as_often_as_they_say(confidence: float) -> None:
    random = np.random.default_rng(0)
    rates, at = np.repeat(RATES, 2), 2e-3
    given_away = CURVATURE * math.log2(at / BEST) ** 2
    rounds, covered, open_, cost = 300, 0, 0, 0
    for _ in range(rounds):
        found = fit_rates(rates, parabola(rates) + random.normal(0, 0.01, len(rates)), at, confidence)
        covered += found.low <= BEST <= found.high
        open_ += math.isinf(found.high)
        cost += found.given_away_low <= given_away <= found.given_away_high
    error = 3 * math.sqrt(confidence * (1 - confidence) / rounds)
    assert covered / rounds == pytest.approx(confidence, abs=error)
    assert cost / rounds > confidence - error
    assert open_ < 0.2 * rounds  # the coverage is not bought with open intervals


def test_a_minimum_that_is_not_shown_is_said() -> None:
    noise = np.random.default_rng(3).normal(0, 0.05, 10)
    found = fit_rates(np.repeat(RATES, 2), 0.5 + 0.0001 * np.log2(np.repeat(RATES, 2) / BEST) ** 2 + noise, 1e-3)
    assert (found.low, found.high) == (0, math.inf)
    words = sentences(found, 0.95)[0]
    assert "not shown" in words or "no minimum" in words


def test_a_minimum_outside_is_called_a_guess() -> None:
    rates = RATES[2:]
    assert not fit_rates(rates, parabola(rates), 1e-3).inside
    assert "a guess" in sentences(fit_rates(rates, parabola(rates), 1e-3), 0.95)[-1]


def test_losses_that_bend_downwards_have_none() -> None:
    found = fit_rates(RATES, 1 - parabola(RATES), 1e-3)
    assert math.isnan(found.rate)
    assert "no minimum" in sentences(found, 0.95)[0]


def test_two_rates_are_too_few() -> None:
    with pytest.raises(UserError, match="three different learning rates, and 2 are done"):
        fit_rates([1e-3, 1e-3, 2e-3], [1.0, 1.1, 1.2], 1e-3)
