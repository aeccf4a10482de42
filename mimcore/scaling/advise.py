"""Which runs to make next: those that narrow a forecast most for what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.table import Table

from mimcore.errors import UserError
from mimcore.scaling.applicable import answers
from mimcore.scaling.estimate import Fit
from mimcore.scaling.law import Variables
from mimcore.scaling.numbers import interval, number
from mimcore.scaling.table import Array

#: Refits further than this many deviations from the median are drawn in: a refit that lost its way is no evidence.
FAR = 4.0
#: Runs that are named.
COUNT = 5


@dataclass(frozen=True)
class Advice:
    """A run worth making.

    Attributes:
        index: which of the candidates.
        cost: what it costs, in the unit of the budget.
        variance: of the forecast's logarithm once this run and those advised before it are made, mean over the targets.
        gain: part of the forecast's variance before it that it is expected to remove.
    """

    index: int
    cost: float
    variance: float
    gain: float


def table(
    fit: Fit, advice: Sequence[Advice], names: Sequence[str], target: Variables, about: str, unit: str = "FLOPs"
) -> Table:
    """What to run, for the terminal: cost, and how wide the forecast's interval will be.

    Args:
        fit: what was asked.
        advice: of ``advise``.
        names: of the advised runs.
        target: variables of the forecast.
        about: the forecast's name.
        unit: of the costs.
    """
    now = fit.predict(target)
    width = float(np.mean(now.high - now.low))
    before = float(np.mean(np.diagonal(covariance(fit, target))))
    forecast = interval(float(now.mean[0]), float(now.low[0]), float(now.high[0]))
    found = Table(title=f"To forecast {fit.observations.name} of {about}, now {forecast}", title_justify="left")
    for column in ("run", unit, "variance left", "interval's width"):
        found.add_column(column, justify="left" if column == "run" else "right")
    for name, one in zip(names, advice, strict=True):
        left = one.variance / before
        found.add_row(name, f"{one.cost:.3g}", f"{left:.0%}", number(width * left**0.5, 2))
    return found


def covariance(fit: Fit, variables: Variables) -> Array:
    """Covariance ``(N, N)`` of the logarithms of the law at ``variables``, over the fit's ensemble of refits.

    Raises:
        UserError: the fit has no ensemble.
    """
    if len(fit.ensemble) < 2:
        raise UserError("the fit has no ensemble of refits to judge by; set fit.bootstrap to 100 or more, or add runs.")
    logs = np.log(fit.law.predict(fit.ensemble, variables))
    centre = np.median(logs, axis=0)
    spread = 1.4826 * np.median(np.abs(logs - centre), axis=0)
    drawn = np.clip(logs - centre, -FAR * spread, FAR * spread)
    return np.asarray(drawn.T @ drawn / len(drawn))


def choose(
    fit: Fit, candidates: Variables, costs: Array, target: Variables, budget: float, count: int = COUNT
) -> list[Advice]:
    """Choose as ``mimcore advise`` and the report do: each candidate once, and only those that the law can be asked of.

    Args:
        fit: with an ensemble.
        candidates: model, data and length of each, ``(C,)``, whether the law is in them or not, and an indicator of each pool.
        costs: of each, ``(C,)``.
        target: variables of the forecast.
        budget: for all of them.
        count: the most runs.

    Raises:
        UserError: the fit has no ensemble.
    """
    open_ = np.flatnonzero(answers(fit, candidates))
    asked = {name: values[open_] for name, values in candidates.items()}
    found = advise(fit, asked, costs[open_], target, budget, count, repeat=False)
    return [replace(one, index=int(open_[one.index])) for one in found]


def advise(
    fit: Fit,
    candidates: Variables,
    costs: Array,
    target: Variables,
    budget: float = np.inf,
    count: int | None = None,
    repeat: bool = True,
) -> list[Advice]:
    """Choose runs one by one by the expected fall of the forecast's variance per cost.

    Over the ensemble of refits, the law at a candidate and at the targets vary together. If both are taken as normal, a
    run whose noise has variance s^2 lowers a target's variance by cov(target, run)^2 / (var(run) + s^2), whatever its
    outcome, so that the next can be chosen before it is made (MacKay 1992, 'Information-based objective functions', on the
    mean marginal variance; Cohn 1996). Chosen greedily, each with what the earlier ones leave, of those that the budget still
    pays for.

    Args:
        fit: with an ensemble.
        candidates: variables of the runs that could be made, each ``(C,)``.
        costs: of each, ``(C,)``, positive, in any unit.
        target: variables of the forecast, each ``(T,)``.
        budget: for all of them, in the unit of ``costs``.
        count: the most runs.
        repeat: whether a candidate may be advised again, as another seed.

    Returns:
        what to run, in order; empty where the budget pays for no candidate.

    Raises:
        UserError: the fit has no ensemble.
    """
    runs = len(costs)
    both = {name: np.concatenate([candidates[name], target[name]]) for name in (v.name for v in fit.law.variables)}
    shared = covariance(fit, both)
    noise = fit.noise**2
    found: list[Advice] = []
    left, open_ = budget, np.ones(runs, dtype=bool)
    while count is None or len(found) < count:
        affordable = (costs <= left) & open_
        if not affordable.any():
            break
        own = np.diagonal(shared)[:runs] + noise
        removed = (shared[:runs, runs:] ** 2).sum(axis=1) / own
        best = int(np.argmax(np.where(affordable, removed / costs, -np.inf)))
        before = float(np.trace(shared[runs:, runs:]))
        if not removed[best] > 0:
            break
        row = shared[best]
        shared = shared - np.outer(row, row) / own[best]
        left -= costs[best]
        open_[best] = repeat
        found.append(
            Advice(
                best,
                float(costs[best]),
                float(np.trace(shared[runs:, runs:]) / (len(shared) - runs)),
                float(removed[best] / before),
            )
        )
    return found
