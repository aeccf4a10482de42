"""One law for all runs of an objective: how far it is off, and the best use of a budget by it."""

from collections.abc import Sequence
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
    rows = Observations(
        {
            name: np.array([float(getattr(run, name)) for run in mine])
            for name in ("encoder_params", "unique_images", "images_seen")
        },
        np.array([run.values[VAL_LOSS] for run in mine]),
        tuple(run.name for run in mine),
        "validation loss",
    )
    reason = ""
    for name in dict.fromkeys((*preferred, *LAWS)):
        law = registry.load("law", name).Law()
        if not {variable.name for variable in law.variables} >= WEIGHED:
            continue
        try:
            fit = fit_law(law, rows, {"bootstrap": REFITS, "confidence": confidence})
            price = Price.of(rows.variables["encoder_params"].tolist(), [run.flops / run.images_seen for run in mine])
        except UserError as error:
            reason = str(error)
            continue
        return _outlook(objective, fit, mine, price)
    return f"No law of model, data and length together could be fitted to the runs of {objective}: {reason}"


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
