"""Fit a law to rows: robustly, from many starts, with an ensemble of refits that says how sure it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from mimcore.definition import Definition
from mimcore.scaling.ensemble import LIMIT, redraw
from mimcore.scaling.law import ScalingLaw, Variables
from mimcore.scaling.observations import Observations, check, require
from mimcore.scaling.solve import solve
from mimcore.scaling.table import Array

#: Huber's constant: 95 % efficiency for normal residuals (Huber 1964).
HUBER = 1.345
#: Starts that go on after the first few steps.
FINALISTS = 12
#: A parameter whose interval spans more than this factor is not pinned down: those that the field tells apart differ by less.
VAGUE = 5


class Options(Definition):
    """How a law is fitted and how sure one wants to be."""

    #: Refits behind the intervals; 0 for none.
    bootstrap: int = Field(1000, ge=0, le=100_000)
    #: What a refit redraws: ``residuals`` (the law's, for the points as they lie) or ``runs`` (points and seeds).
    resample: Literal["residuals", "runs"] = "residuals"
    #: Coverage of every interval.
    confidence: float = Field(0.9, gt=0.5, lt=1)
    #: Seed of the draws.
    seed: int = Field(0, ge=0)


class Prediction(NamedTuple):
    """A forecast in the metric's terms: ``mean`` (the fitted law), ``low``, ``high`` ``(N,)``, ``ensemble`` ``(R, N)``."""

    mean: Array
    low: Array
    high: Array
    ensemble: Array


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    ``parameters`` ``(P,)`` and ``ensemble`` ``(R, P)`` are in the variables' own units; ``residuals`` ``(N,)`` are of the
    logarithm; ``noise`` is their standard deviation with ``freedom`` degrees of freedom; ``delta`` is Huber's threshold;
    ``loss`` the minimum of the summed Huber's loss.
    """

    law: ScalingLaw
    observations: Observations
    parameters: Array
    ensemble: Array
    residuals: Array
    delta: float
    loss: float
    noise: float
    freedom: int
    confidence: float

    @property
    def fitted(self) -> Array:
        """The law at its own rows, in the metric's terms, ``(N,)``."""
        return np.asarray(self._metric(self.parameters[None], self.observations.variables)[0])

    @property
    def r2(self) -> float:
        """Share of the metric's variance that the law explains, at its own rows."""
        metric = self.observations.metric
        return float(1 - np.sum((metric - self.fitted) ** 2) / np.sum((metric - metric.mean()) ** 2))

    @property
    def rmse(self) -> float:
        """Root mean square error of the metric, at its own rows."""
        return float(np.sqrt(np.mean((self.observations.metric - self.fitted) ** 2)))

    def predict(self, variables: Variables, *, run: bool = False) -> Prediction:
        """Forecast runs with these variables.

        Args:
            variables: each float64 ``(N,)``.
            run: whether the interval is that of a run yet to be made, whose own noise is added to the ensemble (by a fixed seed);
                otherwise that of the law, the mean of many such runs.
        """
        require(self.law, variables)
        link = self.observations.link
        mean = self._metric(self.parameters[None], variables)[0]
        quantity = self.law.predict(self.ensemble, variables)
        if run and len(quantity):
            draws = np.random.default_rng(0).standard_t(max(self.freedom, 1), quantity.shape)
            quantity = quantity * np.exp(np.clip(self.noise * draws, -LIMIT, LIMIT))
        ensemble = np.asarray(link.metric(quantity))
        if not len(ensemble):
            return Prediction(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan), ensemble)
        low, high = np.quantile(ensemble, [0.5 - self.confidence / 2, 0.5 + self.confidence / 2], axis=0)
        return Prediction(mean, low, high, ensemble)

    def rmse_on(self, others: Observations) -> float:
        """Root mean square error of the metric on other rows, such as those held out."""
        error = others.metric - self._metric(self.parameters[None], others.variables)[0]
        return float(np.sqrt(np.mean(error**2)))

    def intervals(self) -> dict[str, tuple[float, float, float]]:
        """Each parameter's value and the ends of its interval, in the variables' units."""
        if not len(self.ensemble):
            return {
                p.name: (float(v), np.nan, np.nan) for p, v in zip(self.law.parameters, self.parameters, strict=True)
            }
        low, high = np.quantile(self.ensemble, [0.5 - self.confidence / 2, 0.5 + self.confidence / 2], axis=0)
        found = zip(self.law.parameters, self.parameters, low, high, strict=True)
        return {p.name: (float(value), float(a), float(b)) for p, value, a, b in found}

    def pinned_down(self) -> dict[str, bool]:
        """Whether the rows tell each parameter: the ends of its interval differ by a factor of less than 5, or, of a parameter that may
        be negative, have one sign. The law's curve may be sure where its parameters are not.
        """
        found = {}
        for parameter, (_, low, high) in zip(self.law.parameters, self.intervals().values(), strict=True):
            found[parameter.name] = bool(low > 0 and high < VAGUE * low) if parameter.log else bool(low * high > 0)
        return found

    def _metric(self, parameters: Array, variables: Variables) -> Array:
        return np.asarray(self.observations.link.metric(self.law.predict(parameters, variables)))


class Scaled(NamedTuple):
    """The problem in units in which all that scales has a geometric mean of 1."""

    variables: dict[str, Array]
    log_y: Array
    centre: float
    factors: dict[str, float]

    def back(self, law: ScalingLaw, parameters: Array) -> Array:
        """Return ``(R, P)`` parameters in the variables' own units."""
        found = law.rescaled(parameters, self.factors)
        found[:, [p.of_value for p in law.parameters]] *= self.centre
        return found

    def into(self, law: ScalingLaw, parameters: Array) -> Array:
        """The inverse of ``back``."""
        found = law.rescaled(parameters, {name: 1 / factor for name, factor in self.factors.items()})
        found[:, [p.of_value for p in law.parameters]] /= self.centre
        return found


def scaled(law: ScalingLaw, observations: Observations) -> Scaled:
    """Rescale the rows so that neither units nor magnitudes matter to the search."""
    centres = {v.name: float(np.mean(np.log(observations.variables[v.name]))) for v in law.variables if v.scales}
    if law.together:
        common = float(np.mean([centres[name] for name in law.together]))
        centres |= dict.fromkeys(law.together, common)
    factors = {name: float(np.exp(centre)) for name, centre in centres.items()}
    variables = {v.name: observations.variables[v.name] / factors.get(v.name, 1.0) for v in law.variables}
    log_y = np.log(observations.y)
    centre = float(np.exp(np.mean(log_y)))
    return Scaled(variables, log_y - np.log(centre), centre, factors)


def fit_law(law: ScalingLaw, observations: Observations, options: Mapping[str, Any] | Options | None = None) -> Fit:
    """Fit a law.

    Every start is tried for a few steps of least squares and the best go on. Huber's threshold is the law's own where
    its source fixes one; else it follows the residuals' spread, and the fit is repeated with it.

    Args:
        law: the law.
        observations: the rows.
        options: see ``Options``.

    Raises:
        UserError: rows that the law cannot be fitted to; see ``observations.check``.
    """
    chosen = options if isinstance(options, Options) else Options.model_validate(dict(options or {}))
    check(law, observations)
    order = _order(law, observations)
    rows = observations.only(order)
    at = scaled(law, rows)
    starts = law.starts(at.variables, np.exp(at.log_y))
    delta = np.inf if law.huber is None else law.huber
    first = solve(law, at.variables, at.log_y, starts, delta=delta, steps=15)
    best = np.argsort(np.where(np.isfinite(first.loss), first.loss, np.inf), kind="stable")[:FINALISTS]
    found = solve(law, at.variables, at.log_y, first.parameters[best], delta=delta, steps=300)
    freedom = max(len(rows) - len(law.parameters), 0)
    if law.huber is None:
        for _ in range(3):
            winner = found.parameters[np.argmin(found.loss)]
            residuals = at.log_y - np.log(law.predict(winner[None], at.variables)[0])
            delta = _threshold(residuals, len(law.parameters))
            found = solve(law, at.variables, at.log_y, found.parameters, delta=delta, steps=300)
    index = int(np.argmin(found.loss))
    winner = found.parameters[index]
    residuals = at.log_y - np.log(law.predict(winner[None], at.variables)[0])
    ensemble = np.empty((0, len(law.parameters)))
    if chosen.bootstrap and freedom:
        ensemble = at.back(
            law,
            redraw(law, rows, at.variables, at.log_y, winner, delta, chosen.resample, chosen.bootstrap, chosen.seed),
        )
    unsorted = np.empty_like(residuals)
    unsorted[order] = residuals
    return Fit(
        law=law,
        observations=observations,
        parameters=at.back(law, winner[None])[0],
        ensemble=ensemble,
        residuals=unsorted,
        delta=float(delta),
        loss=float(found.loss[index]),
        noise=float(np.sqrt(np.sum(residuals**2) / max(freedom, 1))),
        freedom=freedom,
        confidence=chosen.confidence,
    )


def _order(law: ScalingLaw, observations: Observations) -> Any:
    """Rows by their variables and metric, so that a table's order changes nothing, not even a sum's last digit."""
    return np.lexsort([observations.metric, *(observations.variables[v.name] for v in law.variables)])


def _threshold(residuals: Array, parameters: int) -> float:
    freedom = np.sqrt(len(residuals) / max(len(residuals) - parameters, 1))
    return float(HUBER * max(1.4826 * np.median(np.abs(residuals)) * freedom, 1e-9))
