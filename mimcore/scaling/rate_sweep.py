"""How far a run is from its best learning rate: a parabola through validation losses over the logarithm of the rate.

Near its minimum a loss is quadratic in the logarithm of the learning rate, so that a few rates around it tell where it lies and
what another rate gives away. The minimum's interval is Fieller's (Fieller 1954, 'Some problems in interval estimation', section 4):
the rates at which the parabola's slope is not significantly different from zero. Unlike the delta method's it is exact for
normal errors, and open where the curvature is not shown.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mimcore.errors import UserError

Array = NDArray[np.float64]
#: Draws behind the interval of the loss that is given away.
DRAWS = 4000


@dataclass(frozen=True)
class Optimum:
    """Where the parabola is lowest.

    Attributes:
        rate: learning rate at the minimum; NaN where the parabola opens downwards.
        low: lower end of its interval; 0 where it is open, NaN where there are too few losses to tell.
        high: upper end; infinity where it is open.
        loss: at the minimum.
        given_away: by which the parabola at ``at`` is above its minimum.
        given_away_low: lower end of its interval.
        given_away_high: upper end; infinity where a minimum is not shown.
        at: the rate that is judged.
        inside: whether the minimum lies among the rates that were tried.
    """

    rate: float
    low: float
    high: float
    loss: float
    given_away: float
    given_away_low: float
    given_away_high: float
    at: float
    inside: bool


def fit_rates(rates: ArrayLike, losses: ArrayLike, at: float, confidence: float = 0.95) -> Optimum:
    """Fit the parabola, all losses with equal weight.

    Args:
        rates: learning rate of each run, ``(N,)``; at least three different ones.
        losses: validation loss of each, ``(N,)``.
        at: the rate that is judged.
        confidence: coverage of the intervals; they need more losses than the parabola's three parameters.

    Raises:
        UserError: fewer than three rates.
    """
    x, y = np.log2(np.asarray(rates, float)), np.asarray(losses, float)
    if len(np.unique(x.round(9))) < 3:
        raise UserError(
            f"a parabola needs three different learning rates, and {len(np.unique(x.round(9)))} are done; sweep more."
        )
    middle = float(x.mean())
    design = np.vander(x - middle, 3, increasing=True)
    inverse = np.linalg.inv(design.T @ design)
    _, slope, curvature = parameters = inverse @ design.T @ y
    freedom = len(y) - 3
    where = math.log2(at) - middle
    nan = float("nan")
    lowest = -slope / (2 * curvature) if curvature > 0 else nan
    low, high, away_low, away_high = nan, nan, nan, nan
    if freedom:
        covariance = float(np.square(y - design @ parameters).sum() / freedom) * inverse
        low, high = _slope_zero(slope, curvature, covariance, float(stats.t.ppf((1 + confidence) / 2, freedom)))
        away_low, away_high = _given_away(parameters, covariance, freedom, where, confidence)
    with np.errstate(over="ignore"):
        low, high = (float(np.exp2(end + middle)) for end in (low, high))
    return Optimum(
        rate=float(2 ** (lowest + middle)),
        low=low,
        high=high,
        loss=float(np.polynomial.polynomial.polyval(lowest, parameters)),
        given_away=float(curvature * (where - lowest) ** 2),
        given_away_low=away_low,
        given_away_high=away_high,
        at=at,
        inside=bool(x.min() <= lowest + middle <= x.max()),
    )


def _slope_zero(slope: float, curvature: float, covariance: Array, t: float) -> tuple[float, float]:
    """Where (slope + 2 curvature x)^2 <= t^2 of its variance, if curvature is shown; else everywhere."""
    a = 4 * (curvature**2 - t**2 * covariance[2, 2])
    b = 4 * (slope * curvature - t**2 * covariance[1, 2])
    c = slope**2 - t**2 * covariance[1, 1]
    if curvature <= 0 or a <= 0:
        return -math.inf, math.inf
    root = math.sqrt(max(b**2 - 4 * a * c, 0.0))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def _given_away(
    parameters: Array, covariance: Array, freedom: int, where: float, confidence: float
) -> tuple[float, float]:
    """Quantiles over parabolas drawn from the multivariate t of the fit; one that opens downwards gives away without bound."""
    drawn = stats.multivariate_t.rvs(parameters, covariance, df=freedom, size=DRAWS, random_state=0)
    slope, curvature = drawn[:, 1], drawn[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.where(curvature > 0, (slope + 2 * curvature * where) ** 2 / (4 * curvature), np.inf)
    low, high = np.quantile(away, [(1 - confidence) / 2, (1 + confidence) / 2], method="nearest")
    return float(low), float(high)


def sentences(found: Optimum, confidence: float) -> list[str]:
    """What is found, in words."""
    if math.isnan(found.rate):
        return [
            f"The losses have no minimum over the rates: they bend downwards around {found.at:.3g}. Sweep further apart."
        ]
    percent = f"{confidence:.0%}"
    said = f"Best learning rate {found.rate:.3g}"
    if math.isnan(found.low):
        said += "; three losses leave no error to tell an interval from: sweep more rates or seeds."
    elif found.low == 0 and math.isinf(found.high):
        said += f"; at {percent} a minimum is not shown: sweep more rates or seeds."
    else:
        said += f", {percent} interval {found.low:.3g} to {found.high:.3g}."
    away = f"At {found.at:.3g} the loss is {found.given_away:.4f} above the least"
    if math.isfinite(found.given_away_high):
        away += f", {percent} interval {found.given_away_low:.4f} to {found.given_away_high:.4f}"
    lines = [said, away + f", {found.loss:.4f}."]
    if not found.inside:
        lines.append("It lies outside the rates that were tried, where a parabola is a guess: sweep on that side.")
    return lines
