"""Profile-likelihood intervals: how far a parameter can go before the best fit of all others is too bad."""

import numpy as np
from scipy import special

from mimcore.scaling.estimate import Fit, scaled
from mimcore.scaling.solve import solve
from mimcore.scaling.table import Array

#: How far from the optimum a parameter is tried: standard errors of the curvature at the optimum, and the points on each side.
REACH, POINTS = 8.0, 40


def profile_intervals(fit: Fit, confidence: float) -> dict[str, tuple[float | None, float | None]]:
    """Return the ends of each parameter's interval; None where the profile stays below its limit as far as was tried.

    Also None for an amplitude whose unit depends on an exponent: it is the law's value where the variable is 1, far from any run.

    A parameter is held at values on both sides of its optimum and all others are fitted again, every value of every parameter in one
    batch. The limit is that of Student's t: the loss may rise by t ** 2 / 2 times the variance of its slope over its mean
    curvature, which is the residuals' variance in least squares (Venzon & Moolgavkar 1988; Huber & Ronchetti 2009, section 7.6).
    """
    law = fit.law
    at = scaled(law, fit.observations)
    best = at.into(law, fit.parameters[None])[0]
    is_log = np.array([p.log for p in law.parameters])
    jacobian = law.slopes(best[None], at.variables)[1][:, 0]
    # Of Huber's loss: the variance of its slope, and the share of rows on which it curves.
    pull = float(np.sum(np.clip(fit.residuals, -fit.delta, fit.delta) ** 2)) / max(fit.freedom, 1)
    curved = max(float(np.mean(np.abs(fit.residuals) <= fit.delta)), 1 / len(fit.residuals))
    errors = np.sqrt(pull) / curved * np.sqrt(np.diag(np.linalg.pinv(jacobian @ jacobian.T)))
    steps = np.concatenate([-np.geomspace(REACH, 0.05, POINTS), [0.0], np.geomspace(0.05, REACH, POINTS)])
    width, tried = len(law.parameters), len(steps)
    starts = np.repeat(best[None], width * tried, axis=0)
    frozen = np.zeros(starts.shape, dtype=bool)
    low = np.array([p.low for p in law.parameters])
    high = np.array([p.high for p in law.parameters])
    for i in range(width):
        moved = best[i] * np.exp(np.clip(steps * errors[i], -20, 20)) if is_log[i] else best[i] + steps * errors[i]
        starts[i * tried : (i + 1) * tried, i] = np.clip(moved, low[i], high[i])
        frozen[i * tried : (i + 1) * tried, i] = True
    found = solve(law, at.variables, at.log_y, starts, delta=fit.delta, frozen=frozen)
    limit = fit.loss + 0.5 * special.stdtrit(max(fit.freedom, 1), 0.5 + confidence / 2) ** 2 * pull / curved
    ends: dict[str, tuple[float | None, float | None]] = {}
    for i, parameter in enumerate(law.parameters):
        part = slice(i * tried, (i + 1) * tried)
        curve, places = found.loss[part], found.parameters[part]
        lower = _crossing(curve[: POINTS + 1][::-1], limit)
        upper = _crossing(curve[POINTS:], limit)
        back = at.back(law, places.copy())[:, i]
        if np.ptp(factor := back / places[:, i]) > 1e-9 * factor.max():
            ends[parameter.name] = (None, None)
            continue
        ends[parameter.name] = (
            _between(back[: POINTS + 1][::-1], lower, is_log[i]),
            _between(back[POINTS:], upper, is_log[i]),
        )
    return ends


def _crossing(losses: Array, limit: float) -> float | None:
    """Where losses, going away from the optimum, first pass the limit, as a fractional index; None if never."""
    above = np.flatnonzero(losses > limit)
    if not len(above):
        return None
    after = int(above[0])
    if after == 0:
        return 0.0
    before = losses[after - 1]
    return after - 1 + float((limit - before) / (losses[after] - before))


def _between(values: Array, index: float | None, is_log: bool) -> float | None:
    if index is None:
        return None
    places = np.arange(len(values))
    return (
        float(np.exp(np.interp(index, places, np.log(values)))) if is_log else float(np.interp(index, places, values))
    )
