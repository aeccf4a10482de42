"""Forecasts of runs before they are made, kept in a file that git keeps, and judged once the runs are there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mimcore import artifacts
from mimcore.errors import UserError
from mimcore.scaling.estimate import Fit
from mimcore.scaling.law import Variables
from mimcore.scaling.statistics import tidy
from mimcore.scaling.table import Run

#: What a forecast in the file says.
FIELDS = ("run", "definition", "task", "metric", "value", "low", "high", "confidence", "law", "runs")


def foresee(
    fit: Fit,
    variables: Variables,
    names: Sequence[str],
    definitions: Sequence[Mapping[str, Any]],
    measure: tuple[str, str],
) -> list[dict[str, Any]]:
    """Forecast single runs, as they are stored: with the interval of a run and not of the law.

    Args:
        fit: with an ensemble.
        variables: of each run, ``(N,)``.
        names: of each run.
        definitions: what is declared of each run; a forecast holds for a run of the same definition alone.
        measure: task and metric.

    Raises:
        UserError: the fit has no ensemble to say how sure it is.
    """
    prediction = fit.predict(variables, run=True)
    if not len(prediction.ensemble):
        raise UserError("the fit has no ensemble of refits, so that a forecast would have no interval; add runs.")
    return [
        {
            "run": name,
            "definition": artifacts.digest(definition),
            "task": measure[0],
            "metric": measure[1],
            "value": tidy(float(prediction.mean[i])),
            "low": tidy(float(prediction.low[i])),
            "high": tidy(float(prediction.high[i])),
            "confidence": fit.confidence,
            "law": fit.law.name,
            "runs": len(fit.observations),
        }
        for i, (name, definition) in enumerate(zip(names, definitions, strict=True))
    ]


def read_forecasts(path: Path) -> list[dict[str, Any]]:
    """Read the stored forecasts; none where there is no file.

    Raises:
        UserError: the file is broken.
    """
    if not path.is_file():
        return []
    found = artifacts.read_json(path)
    if not isinstance(found, list) or any(not isinstance(one, dict) or set(FIELDS) - set(one) for one in found):
        raise UserError(f"{path} is no list of forecasts; restore it from git, or write [] into it.")
    return found


def store(path: Path, new: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add forecasts to the file; one that is there already for the same run and metric stays: a bet is not changed.

    Returns:
        those that were added.
    """
    known = read_forecasts(path)
    keys = {_key(one) for one in known}
    added = [dict(one) for one in new if _key(one) not in keys]
    artifacts.write_json(path, known + added)
    return added


def judge(
    forecasts: Sequence[Mapping[str, Any]], runs: Sequence[Run], definitions: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Hold forecasts against the runs that were made since.

    Args:
        forecasts: as stored.
        runs: of the results.
        definitions: what each run was made from, by name; a run of another definition is not the one that was forecast.

    Returns:
        each forecast of a run that the results have, with ``observed`` and whether it was ``hit``: inside the interval.
    """
    made = {run.name: run for run in runs}
    found = []
    for one in forecasts:
        run, key = made.get(one["run"]), (one["task"], one["metric"])
        known = definitions.get(one["run"])
        if run is not None and known is not None and key in run.values and artifacts.digest(known) == one["definition"]:
            observed = run.values[key]
            found.append({**one, "observed": observed, "hit": one["low"] <= observed <= one["high"]})
    return found


def _key(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return (one["run"], one["definition"], one["task"], one["metric"])
