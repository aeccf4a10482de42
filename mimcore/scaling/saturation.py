"""Beyond how many images (or parameters, or length) another doubling buys less than it must."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.estimate import Fit
from mimcore.scaling.statistics import Interval
from mimcore.scaling.table import Array

#: Doublings beyond the largest value that are looked at, and points for each.
DOUBLINGS, STEPS = 12, 48


def saturates(fit: Fit, variable: str, at: Mapping[str, float], gain: float) -> Interval:
    """Find the value of a variable beyond which doubling it changes the metric by less than ``gain``.

    Args:
        fit: a fitted law.
        variable: which of its variables is doubled.
        at: the values of the others.
        gain: the least gain that is worth a doubling, in the metric's unit, positive.

    Returns:
        the value with the ensemble's interval, from the least that was seen to 12 doublings beyond the largest; infinite where it still
        gains more there, and ``count`` the refits.
    """
    own = fit.observations.variables[variable]
    doublings = np.log2(own.max() / own.min()) + DOUBLINGS
    values = own.min() * 2 ** np.linspace(0, doublings, int(doublings * STEPS) + 1)
    sign = 1.0 if fit.observations.link.ceiling is None else -1.0
    rows = {name: np.full(len(values), value) for name, value in at.items()}
    before = fit.predict({**rows, variable: values})
    after = fit.predict({**rows, variable: 2 * values})
    estimate = _last_above(values, sign * (before.mean - after.mean)[None], gain)[0]
    if not len(before.ensemble):
        return Interval(float(estimate), None, None, 0)
    ends = _last_above(values, sign * (before.ensemble - after.ensemble), gain)
    low, high = np.quantile(ends, [0.5 - fit.confidence / 2, 0.5 + fit.confidence / 2], method="nearest")
    return Interval(float(estimate), float(low), float(high), len(ends))


def _last_above(values: Array, gains: Array, gain: float) -> Array:
    """The first of ``values`` ``(V,)`` after the last at which a row of ``gains`` ``(R, V)`` is worth it, ``(R,)``."""
    worth = gains >= gain
    last = np.where(worth.any(axis=1), values.size - 1 - np.argmax(worth[:, ::-1], axis=1), -1)
    return np.asarray(np.append(values, np.inf)[last + 1])
