"""``mimcore fit TABLE``: one law on one table, ours or anybody's, as a JSON file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mimcore import artifacts, registry
from mimcore.definition import resolve
from mimcore.errors import UserError
from mimcore.scaling import table_outlook
from mimcore.scaling.conditions import rows_where
from mimcore.scaling.estimate import Fit, Options
from mimcore.scaling.extrapolate import baselines, compare, split
from mimcore.scaling.mapping import FLOPS, RESULTS_MAP, Map, observe, read_map
from mimcore.scaling.observations import Observations
from mimcore.scaling.one_variable import of_table
from mimcore.scaling.pools import fit_levels, levelled, shifts
from mimcore.scaling.profile import profile_intervals
from mimcore.scaling.table_diagnostics import diagnose, sentences, task_of


def fit_table(
    table: Path,
    law_name: str,
    output: Path,
    *,
    mapping: Path | Map | None,
    holdout: str | None,
    options: Mapping[str, Any],
    only: str | None = None,
    report: Path | None = None,
    gain: float | None = None,
) -> dict[str, Any]:
    """Fit a law to a table and write what was found.

    Args:
        table: CSV or Parquet.
        law_name: a module of ``mimcore/scaling/laws``.
        output: the JSON file to write.
        mapping: what the columns mean, as a file or read; without it the table is a study's ``results.parquet``, and its validation
            loss is meant.
        holdout: a condition on the columns, or on the mapping's variables; such rows are forecast, not fitted.
        options: see ``estimate.Options``.
        only: a condition on the columns; other rows are left out, as well as those that the mapping leaves out.
        report: the folder for a page with figures; none if not given.
        gain: what doubling the images must gain to be worth it, in the metric's unit; see ``table_outlook.MARGIN`` if not given.

    Returns:
        What the file holds: ``law``, ``parameters`` (value, interval of the refits, interval of the
        profile likelihood or None, unit, and whether such data pin it down), ``shifts`` (only of several pools: by which the metric
        of each but the first lies above that of the first, ``value``, ``low``, ``high``), ``dropped_duplicates`` (how many rows were
        left out as exact copies of others), ``r2`` and ``rmse`` of the rows fitted, ``rmse_holdout`` with ``baselines`` and
        ``comparison`` (None without ``holdout``), ``overfitting`` and ``proxy`` (see ``table_diagnostics``), ``saturation`` and
        ``frontier`` (see ``table_outlook``), ``predictions`` row by row, with the law's interval (``low``, ``high``) and that of a
        single run (``run_low``, ``run_high``).

    Raises:
        UserError: anything that is wrong with the table, the mapping, the condition, an option or the law.
    """
    chosen = resolve(Options, options, "fit")
    meaning = RESULTS_MAP if mapping is None else read_map(mapping)
    told = [f"({condition})" for condition in (meaning.rows, only) if condition is not None]
    meaning = meaning.model_copy(update={"rows": " and ".join(told) or None})
    rows = observe(table, meaning)
    copies = rows.copies
    if mapping is None:
        _refuse_mixed(rows, table)
    if mapping is None or meaning.pool is not None:
        rows = levelled(rows)
    held_out = np.zeros(len(rows), dtype=bool)
    train, test = rows, None
    if holdout is not None:
        held_out = rows_where(holdout, rows.columns, "--holdout")
        train, test = split(rows, held_out, "--holdout")
    law = of_table(registry.load("law", law_name).Law(), rows, meaning.covariates)
    fit = fit_levels(law, train, chosen, meaning.covariates)
    law = fit.law
    moved = {
        pool: dict(zip(("value", "low", "high"), map(_known, by), strict=True)) for pool, by in shifts(fit).items()
    }
    saturated = table_outlook.saturation(fit, gain)
    if gain is not None and (gain <= 0 or saturated is None):
        raise UserError(
            f"--gain is {gain:g}, and doubling the images must gain more than 0 to be worth it; give a number in the metric's unit."
            if gain <= 0
            else f"--gain is of doubling the images, and the law '{law_name}' is not in unique_images, or in more than model and length "
            "beside; leave it out, or name another --law, such as repetition."
        )
    flops = train.columns[FLOPS] if mapping is None or FLOPS in meaning.variables else None
    divided = table_outlook.budgets(fit, flops)
    task = task_of(table, meaning, rows)
    found = {
        "law": {"name": law.name, "formula": law.formula, "source": law.source},
        "metric": {
            "name": rows.name,
            "ceiling": rows.link.ceiling,
            "floor": rows.link.floor,
            "quantity": rows.link.told(rows.name),
        },
        "options": chosen.model_dump(mode="json"),
        "holdout": holdout,
        "rows": len(train),
        "dropped_duplicates": copies,
        "parameters": _parameters(fit),
        **({"shifts": moved} if moved else {}),
        "huber_threshold": fit.delta if np.isfinite(fit.delta) else None,
        "residual_sd": fit.noise,
        "degrees_of_freedom": fit.freedom,
        "r2": fit.r2,
        "rmse": fit.rmse,
        "rmse_holdout": None if test is None else fit.rmse_on(test),
        "baselines": None if test is None else baselines(law, train, test),
        "comparison": None if test is None else compare(train, test, meaning.covariates),
        **diagnose(rows, task, meaning.task, chosen),
        **table_outlook.told(saturated, divided and divided[1]),
        "predictions": _predictions(fit, rows, held_out),
    }
    artifacts.write_json(output, found)
    if report is not None:
        from mimcore.scaling import table_figures, table_report

        scale = table_figures.scale(fit, saturated, gain is not None, divided, flops is None)
        table_report.write(fit, rows, held_out, task, found, scale, f"{rows.name} in {table.name}", report)
    return found


def _refuse_mixed(rows: Observations, table: Path) -> None:
    """Refuse a study's results of several objectives, whose losses have no law in common."""
    objectives = sorted(set(rows.columns.get("objective", ())))
    if len(objectives) > 1:
        raise UserError(
            f"{table} holds losses of {' and '.join(objectives)}, which mean different things; name one, such as --rows "
            f"\"objective == '{objectives[0]}'\"."
        )


def _parameters(fit: Fit) -> dict[str, dict[str, Any]]:
    pinned, profiles = fit.pinned_down(), profile_intervals(fit, fit.confidence)
    return {
        parameter.name: {
            "value": value,
            "low": _known(low),
            "high": _known(high),
            "profile_low": profiles[parameter.name][0],
            "profile_high": profiles[parameter.name][1],
            "unit": parameter.unit,
            "identifiable": pinned[parameter.name],
        }
        for parameter, (value, low, high) in zip(fit.law.parameters, fit.intervals().values(), strict=True)
    }


def _predictions(fit: Fit, rows: Observations, held_out: Any) -> list[dict[str, Any]]:
    found, runs = fit.predict(rows.variables), fit.predict(rows.variables, run=True)
    return [
        {
            "label": rows.labels[i],
            **{v.name: float(rows.variables[v.name][i]) for v in fit.law.variables},
            "observed": float(rows.metric[i]),
            "predicted": float(found.mean[i]),
            "low": _known(min(found.low[i], found.high[i])),
            "high": _known(max(found.low[i], found.high[i])),
            "run_low": _known(min(runs.low[i], runs.high[i])),
            "run_high": _known(max(runs.low[i], runs.high[i])),
            "held_out": bool(held_out[i]),
        }
        for i in range(len(rows))
    ]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def summary(found: Mapping[str, Any]) -> str:
    """Say in a few lines what a fit found."""
    lines = [
        f"{found['law']['name']}: {found['metric']['quantity']} = {found['law']['formula']}",
        f"{found['rows']} rows fitted: R2 {found['r2']:.4f}, RMSE {found['rmse']:.4g}",
    ]
    if not found["degrees_of_freedom"]:
        lines[-1] += (
            "; as many parameters as rows, so that the law meets them whatever they are, and nothing has an interval"
        )
    held = sum(one["held_out"] for one in found["predictions"])
    if held:
        others = ", ".join(f"{name} {error:.4g}" for name, error in found["baselines"].items())
        lines.append(
            f"{held} row{'s' if held > 1 else ''} held out: RMSE {found['rmse_holdout']:.4g} (without a law: {others})"
        )
        rivals = [one for one in found["comparison"] if "rmse_holdout" in one and one["law"] != found["law"]["name"]]
        if rivals:
            lines.append(f"the best other law there: {rivals[0]['law']}, RMSE {rivals[0]['rmse_holdout']:.4g}")
    for name, one in found["parameters"].items():
        interval = "" if one["low"] is None else f" [{one['low']:.4g}, {one['high']:.4g}]"
        unit = "" if one["unit"] == "1" else f" {one['unit']}"
        lines.append(f"  {name} {one['value']:.4g}{interval}{unit}{'' if one['identifiable'] else ', not pinned down'}")
    return "\n".join([*lines, *table_outlook.sentences(found), *sentences(found)])
