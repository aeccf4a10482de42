"""One law for a metric of all runs of an objective: how far it is off, and the best use of a budget by it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mimcore import registry
from mimcore.errors import UserError
from mimcore.scaling.estimate import Fit
from mimcore.scaling.frontier import Allocation, Price, frontier, iso_flop
from mimcore.scaling.pools import at_pool, by_pool, fit_levels, levelled
from mimcore.scaling.rows import observations
from mimcore.scaling.summary import label
from mimcore.scaling.table import VAL_LOSS, Array, Measure, Run

#: Laws of the validation loss that are tried where none was chosen by its forecasts; the first that the runs can pin down is taken.
LAWS = ("repetition", "joint", "chinchilla")
#: What a law must be in for a budget to be divided by it.
WEIGHED = {"encoder_params", "images_seen"}
#: Refits behind the intervals.
REFITS = 300
#: Budgets of the iso-FLOP curves, and of the frontier.
CURVES, BUDGETS = 4, 13
#: How far beyond the dearest run the frontier goes, as a factor.
AHEAD = 10.0


class Asked(NamedTuple):
    """A metric that is asked for, with the score of a guess where it has one."""

    measure: Measure
    guess: float | None = None

    def of(self, runs: Sequence[Run], objective: str) -> tuple[Run, ...]:
        """The runs of an objective that have it."""
        return tuple(run for run in runs if run.setting.objective == objective and self.measure[:2] in run.values)


#: What is asked for unless the fit's option ``outlook`` says otherwise.
LOSS = Asked(Measure(*VAL_LOSS, False))


@dataclass(frozen=True)
class Outlook:
    """What one law says of a metric of all runs of an objective.

    Attributes:
        objective: whose runs.
        measure: the metric.
        fit: the law.
        runs: in the order of the fit's rows.
        price: of an image in training.
    """

    objective: str
    measure: Measure
    fit: Fit
    runs: tuple[Run, ...]
    price: Price


@dataclass(frozen=True)
class Division:
    """How budgets are best divided between model and length, on the images of one pool.

    Attributes:
        pool: None where the runs are of one, or of pools that are alike.
        runs: of that pool.
        unique_images: what the frontier takes for granted: the pool's largest subset.
        curves: for each budget: sizes and the loss there, each ``(N,)``.
        frontier: from the cheapest run's budget to ten times the dearest's.
    """

    pool: str | None
    runs: tuple[Run, ...]
    unique_images: float
    curves: tuple[tuple[float, Array, Array], ...]
    frontier: tuple[Allocation, ...]


def outlook(runs: Sequence[Run], objective: str, asked: Asked, confidence: float, laws: Sequence[str]) -> Outlook | str:
    """Fit one law to a metric of an objective's runs; a sentence where they can pin down none.

    Args:
        runs: of the results.
        objective: whose.
        asked: the metric.
        confidence: coverage of the intervals.
        laws: that are tried in this order, of those that a budget can be divided by.
    """
    mine = asked.of(runs, objective)
    for what, values in (
        ("model", {run.encoder_params for run in mine}),
        ("length", {run.images_seen for run in mine}),
    ):
        if len(values) < 2:
            return f"All runs of {objective} have one {what}; a law of model, data and length together takes two models and two lengths."
    fit = fit_one(mine, asked, confidence, laws, WEIGHED)
    if isinstance(fit, str):
        return f"No law of model, data and length together could be fitted to the runs of {objective}: {fit}"
    try:
        sizes = fit.observations.variables["encoder_params"].tolist()
        price = Price.of(sizes, [run.flops / run.images_seen for run in mine])
    except UserError as error:
        return f"The runs of {objective} cannot be priced: {error}"
    return Outlook(objective, asked.measure, fit, mine, price)


def fit_one(
    runs: Sequence[Run], asked: Asked, confidence: float, laws: Sequence[str], needed: Collection[str]
) -> Fit | str:
    """Fit the first of some laws that a metric of ``runs`` can pin down; the last one's reason where none can be.

    Args:
        runs: of one objective, all of which have the metric.
        asked: the metric.
        confidence: coverage of the intervals.
        laws: their names.
        needed: variables that a law must be in; others are passed over.
    """
    found = observations(runs, asked.measure, asked.guess)
    if found is None:
        return f"no run has {label(asked.measure)}."
    rows = levelled(replace(found, name=label(asked.measure)))
    reason = "none was tried."
    for name in dict.fromkeys(laws):
        law = registry.load("law", name).Law()
        known = {variable.name for variable in law.variables}
        if not set(needed) <= known <= set(rows.variables):
            continue
        try:
            return fit_levels(law, rows, {"bootstrap": REFITS, "confidence": confidence})
        except UserError as error:
            reason = str(error)
    return reason


def divide(one: Outlook) -> list[Division]:
    """Divide budgets on the images of each pool."""
    return [_divide(one.fit, one.runs, one.price, pool, mine) for pool, mine in by_pool(one.runs).items()]


def _divide(fit: Fit, runs: Sequence[Run], price: Price, pool: str | None, mine: tuple[Run, ...]) -> Division:
    spent = [run.flops for run in runs]
    largest = max(float(run.unique_images) for run in mine)
    others = {"unique_images": largest} | {name: float(values[0]) for name, values in at_pool(fit, pool, 1).items()}
    sizes = fit.observations.variables["encoder_params"]
    span = np.geomspace(sizes.min() / 2, sizes.max() * 2, 41)
    curves = []
    for budget in np.geomspace(min(spent), max(spent) * AHEAD, CURVES):
        at = iso_flop(fit, float(budget), price, span, others)
        curves.append((float(budget), span, fit.predict(at).mean))
    budgets = np.geomspace(min(spent), max(spent) * AHEAD, BUDGETS).tolist()
    best = frontier(fit, budgets, price, others)
    return Division(pool, mine, largest, tuple(curves), tuple(best))
