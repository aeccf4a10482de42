"""Beyond how many images (or parameters, or length) another doubling buys less than it must."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mimcore.scaling.estimate import Fit
from mimcore.scaling.numbers import short
from mimcore.scaling.pools import at_pool, unshifted
from mimcore.scaling.statistics import Interval
from mimcore.scaling.table import Array, Run

#: Doublings beyond the largest value that are looked at, and points for each.
DOUBLINGS, STEPS = 12, 48


class Model(NamedTuple):
    """A model at its longest schedule."""

    name: str
    parameters: float
    images_seen: float


@dataclass(frozen=True)
class Saturated:
    """Beyond ``images`` a doubling buys less than ``gain``, of a model at its longest schedule."""

    model: str
    parameters: float
    images_seen: float
    gain: float
    images: Interval

    @property
    def beyond(self) -> str:
        """The number of images with its interval, in words."""
        return words(self.images.json())


def saturated(fit: Fit, runs: Sequence[Run], margin: float) -> list[Saturated]:
    """Find it for each model.

    Args:
        fit: of a law in unique images, at least.
        runs: that it was fitted to, of its first pool.
        margin: the gain that is worth a doubling, as a fraction of the lowest loss, or of the highest score.
    """
    longest: dict[str, Model] = {}
    for run in sorted(runs, key=lambda run: (run.encoder_params, run.images_seen)):
        longest[run.setting.model] = Model(run.setting.model, float(run.encoder_params), float(run.images_seen))
    return saturations(fit, list(longest.values()), margin * best(fit))


def best(fit: Fit) -> float:
    """The lowest loss, or the highest score, of the rows at the law's own level."""
    metric = unshifted(fit).metric
    return float(metric.min() if fit.observations.link.ceiling is None else metric.max())


def saturations(fit: Fit, models: Sequence[Model], gain: float) -> list[Saturated]:
    """Find for each model beyond how many images a doubling buys less than ``gain``, which is in the metric's unit."""
    law = {variable.name for variable in fit.law.variables}
    found = []
    for model in models:
        at = {"encoder_params": model.parameters, "images_seen": model.images_seen}
        at = {name: value for name, value in at.items() if name in law}
        at |= {name: float(values[0]) for name, values in at_pool(fit, None, 1).items()}
        found.append(
            Saturated(model.name, model.parameters, model.images_seen, gain, saturates(fit, "unique_images", at, gain))
        )
    return found


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


def words(images: Mapping[str, float | int | None]) -> str:
    """Write a number of images with its interval, given as by ``Interval.json``: None is infinite, where there are refits."""
    ends = f" [{_short(images['low'])}, {_short(images['high'])}]" if images["count"] else ""
    return f"{_short(images['estimate'])}{ends}"


def _last_above(values: Array, gains: Array, gain: float) -> Array:
    """The first of ``values`` ``(V,)`` after the last at which a row of ``gains`` ``(R, V)`` is worth it, ``(R,)``."""
    worth = gains >= gain
    last = np.where(worth.any(axis=1), values.size - 1 - np.argmax(worth[:, ::-1], axis=1), -1)
    return np.asarray(np.append(values, np.inf)[last + 1])


def _short(value: float | None) -> str:
    return "more than was looked at" if value is None else short(value)
