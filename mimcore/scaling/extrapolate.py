"""Model choice by extrapolation: fit some rows, forecast the others, beside forecasts that anyone could make."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mimcore import registry
from mimcore.errors import UserError
from mimcore.scaling.conditions import Mask
from mimcore.scaling.law import ScalingLaw, Variable
from mimcore.scaling.observations import Observations
from mimcore.scaling.one_variable import of_table
from mimcore.scaling.pools import fit_levels
from mimcore.scaling.table import Array


def baseline_forecasts(variables: Sequence[Variable], train: Observations, test: Observations) -> dict[str, Array]:
    """Three forecasts of ``test`` ``(N,)`` without a law, in some variables.

    ``last_value`` is the metric of the largest run (by the sum of its variables' logarithms), ``nearest_run`` that of the
    nearest run in their logarithms, each with unit variance, and ``log_linear`` least squares of the quantity on them.
    """
    inside, outside = _axes(variables, train, train), _axes(variables, train, test)
    last = train.metric[np.argmax(inside.sum(axis=1))]
    nearest = train.metric[np.argmin(((outside[:, None] - inside[None]) ** 2).sum(axis=2), axis=1)]
    design = np.column_stack([np.ones(len(inside)), inside])
    slopes = np.linalg.lstsq(design, train.y, rcond=None)[0]
    line = train.link.metric(np.column_stack([np.ones(len(outside)), outside]) @ slopes)
    return {"last_value": np.full(len(test), last), "nearest_run": nearest, "log_linear": line}


def baselines(law: ScalingLaw, train: Observations, test: Observations) -> dict[str, float]:
    """Root mean square errors, in the metric's terms, of ``baseline_forecasts`` in the law's variables."""
    forecasts = baseline_forecasts(law.variables, train, test)
    return {name: float(np.sqrt(np.mean((test.metric - found) ** 2))) for name, found in forecasts.items()}


def split(observations: Observations, held_out: Mask, where: str) -> tuple[Observations, Observations]:
    """Part the rows into those fitted and those forecast.

    Raises:
        UserError: either part is empty.
    """
    if not held_out.any() or held_out.all():
        which = "no row" if not held_out.any() else "every row"
        raise UserError(f"{where} holds out {which} of {len(observations)}; choose a condition that parts the table.")
    return observations.only(~held_out), observations.only(held_out)


def compare(train: Observations, test: Observations, covariates: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Every law that the table allows, best forecast first, each with its errors; laws that it does not, with the reason.

    Each has a level for each pool that has an indicator in the rows (see ``pools.levelled``).

    Returns:
        mappings of ``law``, ``parameters`` (their number), ``rmse`` (of the rows fitted), ``rmse_holdout``; or ``law`` and
        ``not_fitted``.
    """
    found: list[tuple[float, dict[str, Any]]] = []
    refused = []
    for name in registry.names("law"):
        try:
            law = of_table(registry.load("law", name).Law(), train, covariates)
            fit = fit_levels(law, train, {"bootstrap": 0}, covariates)
        except UserError as error:
            refused.append({"law": name, "not_fitted": str(error)})
            continue
        ahead = fit.rmse_on(test)
        scores = {"law": name, "parameters": len(fit.law.parameters), "rmse": fit.rmse, "rmse_holdout": ahead}
        found.append((ahead, scores))
    return [*(scores for _, scores in sorted(found, key=lambda pair: pair[0])), *refused]


def _axes(variables: Sequence[Variable], train: Observations, rows: Observations) -> Array:
    """The variables ``(N, V)``: logarithms where they scale, each in standard deviations of the rows fitted."""
    columns = []
    for variable in variables:
        raw: Mapping[str, Array] = rows.variables
        own, others = train.variables[variable.name], raw[variable.name]
        own, others = (np.log(own), np.log(others)) if variable.scales else (own, others)
        spread = np.std(own)
        columns.append((others - own.mean()) / (spread if spread > 0 else 1.0))
    return np.column_stack(columns)
