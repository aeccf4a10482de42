"""One law and the runs of a study: fitted to the smaller, asked for the larger, beside forecasts without a law."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mimcore.errors import UserError
from mimcore.scaling.conditions import Mask, rows_where
from mimcore.scaling.estimate import Fit
from mimcore.scaling.extrapolate import baseline_forecasts
from mimcore.scaling.fit_options import Config
from mimcore.scaling.law import ScalingLaw, Variable
from mimcore.scaling.numbers import count
from mimcore.scaling.observations import Observations
from mimcore.scaling.pools import PREFIX, fit_levels, shifted_in, spread
from mimcore.scaling.table import POOL, Array
from mimcore.scaling.two_step import TASK, fit_in_two

#: An axis needs so many values to be held out: with the largest gone, two must remain for a law to see a slope.
VALUES = 3


class Split(NamedTuple):
    """What is forecast from the rest."""

    axis: str | None
    rule: str
    held_out: Mask


class Judged(NamedTuple):
    """A law that was fitted to all rows, and its forecasts of each split; none where it could not be judged."""

    fit: Fit
    forecasts: tuple[Array, ...] | None
    through: str | None
    note: str | None


def splits(rows: Observations, axes: Sequence[Variable], holdout: str | None) -> tuple[list[Split], list[str]]:
    """What is held out, and what is to be said where that is nothing."""
    if holdout is not None:
        held_out = rows_where(holdout, rows.columns, "fit.holdout")
        if not held_out.any() or held_out.all():
            which = "none" if not held_out.any() else "every one"
            return [], [f"nothing was forecast: fit.holdout holds out {which} of these {len(rows)} runs"]
        return [Split(None, holdout, held_out)], []
    found = []
    for axis in axes:
        values = rows.variables[axis.name]
        able = spread(rows, values)
        if len(np.unique(values[able])) >= VALUES:
            largest = values[able].max()
            held_out = np.asarray(able & (values == largest))
            # Other pools' runs stay where they have no other value: without them nothing would tell their level.
            of = f" of pool {', '.join(dict.fromkeys(rows.columns[POOL][held_out]))}" if not able.all() else ""
            found.append(Split(axis.name, f"{axis.name} = {count(largest)}{of}", held_out))
    if found:
        return found, []
    names = " or ".join(axis.name for axis in axes)
    return [], [
        f"nothing was forecast: no {VALUES} different values of {names}, so that the largest cannot be held out"
    ]


def judge(
    law: ScalingLaw, rows: Observations, parts: Sequence[Split], through: ScalingLaw | None, options: Config
) -> Judged:
    """Fit a law to all rows, and to those that each split leaves, which forecasts the others.

    Args:
        law: the law.
        rows: all of them.
        parts: of ``splits``.
        through: for the law ``task``: that of the validation loss, which is forecast first.
        options: see ``Config``.

    Raises:
        UserError: the law cannot be fitted to all rows; where it cannot be to those that a split leaves, the note says so.
    """
    chosen = {"bootstrap": options.bootstrap, "confidence": options.confidence, "seed": options.seed}
    fit = fit_levels(law, rows, chosen)
    if not parts:
        return Judged(fit, None, None, "there was nothing to forecast.")
    if law.name == TASK and through is None:
        return Judged(
            fit, None, None, "no law was chosen for the validation loss, which would have to be forecast first."
        )
    found = []
    for part in parts:
        train, test = rows.only(~part.held_out), rows.only(part.held_out)
        try:
            if law.name == TASK and through is not None:
                # What the runs held out reached is not known beforehand: their loss is a forecast too.
                smaller = fit_in_two(through, law, train, {"bootstrap": 0})
            else:
                smaller = fit_levels(law, train, {"bootstrap": 0})
        except UserError as error:
            return Judged(fit, None, None, f"without {part.rule}: {error}")
        found.append(smaller.predict(test.variables).mean)
    return Judged(fit, tuple(found), through.name if law.name == TASK and through else None, None)


def naive_forecasts(rows: Observations, axes: Sequence[Variable], parts: Sequence[Split]) -> dict[str, list[Array]]:
    """Name of a baseline to its forecast of each part."""
    found: dict[str, list[Array]] = {}
    both = [*axes, *(Variable(PREFIX + pool, "0 or 1", scales=False) for pool in shifted_in(rows))]
    for part in parts:
        ahead = baseline_forecasts(both, rows.only(~part.held_out), rows.only(part.held_out))
        for name, values in ahead.items():
            found.setdefault(name, []).append(values)
    return found


def rmse(observed: Sequence[Array], forecast: Sequence[Array]) -> float:
    """Root mean square error over all holdouts, each of its runs counted once for each."""
    errors = np.concatenate(list(observed)) - np.concatenate(list(forecast))
    return float(np.sqrt(np.mean(errors**2)))
