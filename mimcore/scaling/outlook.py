"""One law for a metric of all runs of an objective: how far it is off, and the best use of a budget by it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mimcore import registry
from mimcore.errors import UserError
from mimcore.scaling.estimate import Fit
from mimcore.scaling.frontier import BEYOND, Allocation, Price, frontier, iso_flop
from mimcore.scaling.law import ScalingLaw
from mimcore.scaling.pools import at_pool, by_pool, fit_levels, levelled
from mimcore.scaling.rows import observations
from mimcore.scaling.summary import label
from mimcore.scaling.table import VAL_LOSS, Array, Measure, Run
from mimcore.scaling.two_step import TASK, fit_in_two

#: Laws of the validation loss that are tried where none was chosen by its forecasts; the first that the runs can pin down is taken.
LAWS = ("repetition", "joint", "chinchilla")
#: What a law must be in for a budget to be divided by it.
WEIGHED = {"encoder_params", "images_seen"}
#: Refits behind the intervals.
REFITS = 300
#: Budgets of the iso-FLOP curves, and of the frontier.
CURVES, BUDGETS = 4, 13
#: Numbers of unique images at which the best use of a budget is asked for.
SUBSETS = 9
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
        objective: whose runs; empty of somebody's table.
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

    Images cost no operations, and every law of these falls in them: the best data are the largest subset.

    Attributes:
        pool: None where the runs are of one, or of pools that are alike.
        runs: of that pool.
        unique_images: what the frontier takes for granted: the pool's largest subset; 0 where their number is not known.
        curves: for each budget: sizes and the metric there, each ``(N,)``.
        frontier: from the cheapest run's budget to ten times the dearest's.
        data: for each number of unique images, from the smallest subset to twice the largest, the best use of each of the curves'
            budgets; empty where the law is not in unique images.
    """

    pool: str | None
    runs: tuple[Run, ...]
    unique_images: float
    curves: tuple[tuple[float, Array, Array], ...]
    frontier: tuple[Allocation, ...]
    data: tuple[tuple[float, tuple[Allocation, ...]], ...]


def outlook(
    runs: Sequence[Run],
    objective: str,
    asked: Asked,
    confidence: float,
    laws: Sequence[str],
    through: str | None = None,
) -> Outlook | str:
    """Fit one law to a metric of an objective's runs; a sentence where they can pin down none.

    Args:
        runs: of the results.
        objective: whose.
        asked: the metric.
        confidence: coverage of the intervals.
        laws: that are tried in this order, of those that a budget can be divided by.
        through: the law of the validation loss through which ``task`` is asked.
    """
    mine = asked.of(runs, objective)
    for what, values in (
        ("model", {run.encoder_params for run in mine}),
        ("length", {run.images_seen for run in mine}),
    ):
        if len(values) < 2:
            return f"All runs of {objective} have one {what}; a law of model, data and length together takes two models and two lengths."
    fit = fit_one(mine, asked, confidence, laws, WEIGHED, through)
    if isinstance(fit, str):
        return f"No law of model, data and length together could be fitted to the runs of {objective}: {fit}"
    try:
        sizes = fit.observations.variables["encoder_params"].tolist()
        price = Price.of(sizes, [run.flops / run.images_seen for run in mine])
    except UserError as error:
        return f"The runs of {objective} cannot be priced: {error}"
    return Outlook(objective, asked.measure, fit, mine, price)


def fit_one(
    runs: Sequence[Run],
    asked: Asked,
    confidence: float,
    laws: Sequence[str],
    needed: Collection[str],
    through: str | None = None,
) -> Fit | str:
    """Fit the first of some laws that a metric of ``runs`` can pin down; the last one's reason where none can be.

    Args:
        runs: of one objective, all of which have the metric.
        asked: the metric.
        confidence: coverage of the intervals.
        laws: their names.
        needed: variables that a law must be in; others are passed over.
        through: the law of the validation loss by which ``task`` is taken in two steps.
    """
    found = observations(runs, asked.measure, asked.guess)
    if found is None:
        return f"no run has {label(asked.measure)}."
    rows = levelled(replace(found, name=label(asked.measure)))
    options = {"bootstrap": REFITS, "confidence": confidence}
    reason = f"none of those that may be asked is in {' and '.join(sorted(needed))}."
    for name in dict.fromkeys(laws):
        law, step = _law(name), _law(through) if through and name == TASK else None
        known = {variable.name for variable in (step or law).variables}
        if not set(needed) <= known <= set(rows.variables):
            continue
        try:
            return fit_in_two(step, law, rows, options) if step else fit_levels(law, rows, options)
        except UserError as error:
            reason = str(error)
    return reason


def _law(name: str) -> ScalingLaw:
    law: ScalingLaw = registry.load("law", name).Law()
    return law


def divide(one: Outlook) -> list[Division]:
    """Divide budgets on the images of each pool."""
    return [_divide(one, pool, mine) for pool, mine in by_pool(one.runs).items()]


def _divide(one: Outlook, pool: str | None, mine: tuple[Run, ...]) -> Division:
    fit, price, lower_is_better = one.fit, one.price, not one.measure.higher_is_better
    spent = [run.flops for run in one.runs]
    images = [float(run.unique_images) for run in mine]
    level = {name: float(values[0]) for name, values in at_pool(fit, pool, 1).items()}
    others = {"unique_images": max(images), **level}
    sizes = fit.observations.variables["encoder_params"]
    span = np.geomspace(sizes.min() / BEYOND, sizes.max() * BEYOND, 61)
    few, many = (np.geomspace(min(spent), max(spent) * AHEAD, count).tolist() for count in (CURVES, BUDGETS))
    curves = [(budget, span, fit.predict(iso_flop(fit, budget, price, span, others)).mean) for budget in few]
    in_images = any(variable.name == "unique_images" for variable in fit.law.variables)
    data = [
        (number, tuple(frontier(fit, few, price, {"unique_images": number, **level}, lower_is_better)))
        for number in (np.geomspace(min(images), 2 * max(images), SUBSETS).tolist() if in_images else ())
    ]
    best = frontier(fit, many, price, others, lower_is_better)
    return Division(pool, mine, max(images), tuple(curves), tuple(best), tuple(data))
