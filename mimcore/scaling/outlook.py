"""One law for all runs of an objective: how far it is off, and the best use of a budget by it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mimcore import registry
from mimcore.errors import UserError
from mimcore.scaling.estimate import Fit, fit_law
from mimcore.scaling.frontier import Allocation, Price, frontier, iso_flop
from mimcore.scaling.observations import Observations
from mimcore.scaling.table import VAL_LOSS, Array, Run

#: Laws that are tried where none was chosen by its forecasts, the first that the runs can pin down is taken.
LAWS = ("repetition", "joint", "chinchilla")
#: What a law must be in for a budget to be divided by it.
WEIGHED = {"encoder_params", "images_seen"}
#: Refits behind the intervals.
REFITS = 300
#: Budgets of the iso-FLOP curves, and of the frontier.
CURVES, BUDGETS = 4, 13
#: How far beyond the dearest run the frontier goes, as a factor.
AHEAD = 10.0


@dataclass(frozen=True)
class Outlook:
    """What one law says of all runs of an objective.

    Attributes:
        objective: whose runs.
        fit: the law.
        runs: in the order of the fit's rows.
        price: of an image in training.
        unique_images: what the frontier takes for granted: the largest subset.
        curves: for each budget: sizes and the loss there, each ``(N,)``.
        frontier: from the cheapest run's budget to ten times the dearest's.
    """

    objective: str
    fit: Fit
    runs: tuple[Run, ...]
    price: Price
    unique_images: float
    curves: tuple[tuple[float, Array, Array], ...]
    frontier: tuple[Allocation, ...]


def outlook(runs: Sequence[Run], objective: str, confidence: float, preferred: Sequence[str] = ()) -> Outlook | str:
    """Fit one law to the validation losses of an objective's runs; a sentence where they can pin down none.

    Args:
        runs: of the results.
        objective: whose.
        confidence: coverage of the intervals.
        preferred: laws that were judged by their forecasts, the best first; those that a budget can be divided by are tried first.
    """
    mine = tuple(run for run in runs if run.setting.objective == objective)
    for what, values in (
        ("model", {run.encoder_params for run in mine}),
        ("length", {run.images_seen for run in mine}),
    ):
        if len(values) < 2:
            return f"All runs of {objective} have one {what}; a law of model, data and length together takes two models and two lengths."
    fit = fit_one(mine, confidence, (*preferred, *LAWS), WEIGHED)
    if isinstance(fit, str):
        return f"No law of model, data and length together could be fitted to the runs of {objective}: {fit}"
    try:
        sizes = fit.observations.variables["encoder_params"].tolist()
        price = Price.of(sizes, [run.flops / run.images_seen for run in mine])
    except UserError as error:
        return f"The runs of {objective} cannot be priced: {error}"
    return _outlook(objective, fit, mine, price)


def fit_one(runs: Sequence[Run], confidence: float, laws: Sequence[str], needed: Collection[str]) -> Fit | str:
    """Fit the first of some laws that the validation losses of ``runs`` can pin down; the last one's reason where none can be.

    Args:
        runs: of one objective.
        confidence: coverage of the intervals.
        laws: their names.
        needed: variables that a law must be in; others are passed over.
    """
    rows = Observations(
        {
            name: np.array([float(getattr(run, name)) for run in runs])
            for name in ("encoder_params", "unique_images", "images_seen")
        },
        np.array([run.values[VAL_LOSS] for run in runs]),
        tuple(run.name for run in runs),
        "validation loss",
    )
    reason = "none was tried."
    for name in dict.fromkeys(laws):
        law = registry.load("law", name).Law()
        known = {variable.name for variable in law.variables}
        if not set(needed) <= known <= set(rows.variables):
            continue
        try:
            return fit_law(law, rows, {"bootstrap": REFITS, "confidence": confidence})
        except UserError as error:
            reason = str(error)
    return reason


def _outlook(objective: str, fit: Fit, runs: tuple[Run, ...], price: Price) -> Outlook:
    spent = [run.flops for run in runs]
    largest = max(float(run.unique_images) for run in runs)
    sizes = fit.observations.variables["encoder_params"]
    span = np.geomspace(sizes.min() / 2, sizes.max() * 2, 41)
    curves = []
    for budget in np.geomspace(min(spent), max(spent) * AHEAD, CURVES):
        at = iso_flop(fit, float(budget), price, span, {"unique_images": largest})
        curves.append((float(budget), span, fit.predict(at).mean))
    budgets = np.geomspace(min(spent), max(spent) * AHEAD, BUDGETS).tolist()
    best = frontier(fit, budgets, price, {"unique_images": largest})
    return Outlook(objective, fit, runs, price, largest, tuple(curves), tuple(best))
