"""Several laws for the runs of a study, chosen by what they would have forecast: the key ``laws`` of ``fit.json``.

The smaller runs are fitted and the larger forecast; a law is never chosen by how well it follows what it was fitted to.

``laws`` maps a measure (``"pretrain val_loss"``: task and metric) to a list of entries, one for all runs of an objective (laws
of model, data and length together) and one for each setting (laws of unique images alone). An entry:

* ``scope``: ``"objective"`` or ``"setting"``; ``objective``, ``model``, ``schedule`` (the latter two null for an objective);
  ``task``, ``metric``, ``higher_is_better``.
* ``rows``: columns of one length, an item for each run: ``run``, ``source`` (``made`` or ``imported``), ``encoder_params``,
  ``unique_images``, ``images_seen``, ``observed`` (the metric); of several pools ``pool`` too (null where it is not known).
* ``pools``: only where the runs are of several: the one whose level the laws have, then those that have a shift.
* ``left_out``: sizes that were left out, as in ``fits``; only of a setting.
* ``holdouts``: what was forecast: a list of ``axis`` (the variable whose largest value is held out; null where ``fit.holdout``
  says which), ``rule`` (in words), ``rows`` (indices into ``rows``), ``baselines`` (name to root mean square error).
* ``baselines``: ``last_value``, ``nearest_run``, ``log_linear`` to the root mean square error over all holdouts, in the metric's
  unit; null without a holdout. See ``extrapolate.baselines``.
* ``chosen``: the name of the law with the lowest ``rmse_holdout``; null where none could be judged.
* ``note``: what a reader must know, in sentences; null if nothing.
* ``candidates``: the laws that could be fitted, best forecast first, those that could not be judged last:
  ``law``, ``formula``, ``source``; ``parameters`` (name to ``value``, ``low``, ``high``, ``unit``, ``identifiable``; the ends are
  null where nothing is left to judge the noise by); ``r2``, ``rmse`` of all runs; ``rmse_holdout`` (null where not judged);
  ``holdouts`` (beside the entry's: ``rmse`` and ``forecast``, a number for each of its rows; null where not judged); ``through``
  (of ``task``: the law that forecast the validation loss; else null); ``predictions`` (``value``, ``low``, ``high``, beside
  ``rows``); ``note`` (why it was not judged; null if it was); of several pools ``shifts``: each further pool to ``value``, ``low``,
  ``high``, by which the metric lies above that of the first pool at the same model, images and length.
* ``skipped``: the laws that could not be fitted: ``law`` and ``reason``, a sentence.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from mimcore import registry
from mimcore.errors import UserError
from mimcore.scaling.conditions import Mask
from mimcore.scaling.fit_options import Config
from mimcore.scaling.judge import TASK, VALUES, Judged, Split, judge, naive_forecasts, rmse, splits
from mimcore.scaling.law import ScalingLaw, Variable
from mimcore.scaling.numbers import number
from mimcore.scaling.observations import Observations
from mimcore.scaling.pools import levelled, levels, shifts
from mimcore.scaling.rows import AXES, observations
from mimcore.scaling.statistics import tidy
from mimcore.scaling.table import POOL, VAL_LOSS, Measure, Run, Setting


def choose(
    runs: Sequence[Run],
    measures: Sequence[Measure],
    risen: Mapping[Setting, frozenset[tuple[str | None, int]]],
    options: Config,
) -> dict[str, list[dict[str, Any]]]:
    """Fit and judge every law for every measure; see the module for what is returned.

    Args:
        runs: made and imported.
        measures: pretraining's first, whose law forecasts the loss that ``task`` needs.
        risen: sizes of each setting, with their pool (None for any), that are to be left out of laws of unique images alone, if enough
            remain.
        options: see ``Config``.

    Raises:
        UserError: there is no law of a name, or ``holdout`` is no condition on the rows' columns.
    """
    laws = [registry.load("law", name).Law() for name in dict.fromkeys(options.laws)]
    alone = [law for law in laws if {v.name for v in law.variables} == {"unique_images"}]
    together = [law for law in laws if law not in alone]
    found: dict[str, list[dict[str, Any]]] = {}
    through: dict[str, ScalingLaw] = {}
    for measure in measures:
        entries = found.setdefault(f"{measure.task} {measure.metric}", [])
        guess = options.guess.get(f"{measure.task}/{measure.metric}")
        for objective in dict.fromkeys(run.setting.objective for run in runs):
            rows = observations([run for run in runs if run.setting.objective == objective], measure, guess)
            tried = [law for law in together if law.name != TASK or measure[:2] != VAL_LOSS]
            if rows is None or not tried:
                continue
            entry = _entry(rows, tried, AXES, through.get(objective), options)
            if measure[:2] == VAL_LOSS and entry["chosen"]:
                through[objective] = next(law for law in tried if law.name == entry["chosen"])
            about: dict[str, Any] = {
                "scope": "objective",
                "objective": objective,
                "model": None,
                "schedule": None,
                "left_out": [],
            }
            entries.append(about | measure._asdict() | entry)
        for setting in dict.fromkeys(run.setting for run in runs):
            rows = observations([run for run in runs if run.setting == setting], measure, guess)
            if rows is None or not alone:
                continue
            left_out = sorted({size for _, size in risen.get(setting, ())})
            kept = ~_marked(rows, risen.get(setting, ()))
            if len(np.unique(rows.variables["unique_images"][kept])) < VALUES:
                left_out, kept = [], np.ones(len(rows), dtype=bool)
            about = {"scope": "setting", **setting._asdict(), "left_out": left_out}
            entries.append(about | measure._asdict() | _entry(rows.only(kept), alone, AXES[:1], None, options))
    return found


def _marked(rows: Observations, sizes: Collection[tuple[str | None, int]]) -> Mask:
    """Rows ``(N,)`` that are of one of some sizes of their pool; a row of no known pool is of the first."""
    first = next(iter(levels(rows.columns[POOL].tolist())), None)
    images = rows.variables["unique_images"]
    return np.array(
        [
            any(n == size and pool in (None, of or first) for pool, size in sizes)
            for n, of in zip(images, rows.columns[POOL], strict=True)
        ],
        dtype=bool,
    )


def sentences(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Say of each objective and measure which law was chosen, and how far it was off ahead."""
    told = []
    for measure, entries in found.items():
        for one in entries:
            if one["scope"] == "objective":
                where = f"{one['objective']}, {measure}"
                if one["chosen"] is None:
                    told.append(f"{where}: no law was chosen. See 'laws' in fit.json for why.")
                    continue
                best = one["candidates"][0]
                name, naive = min(one["baselines"].items(), key=lambda pair: float(pair[1]))
                told.append(
                    f"{where}: {best['law']}, off by {number(best['rmse_holdout'])} on the runs held out (without a law "
                    f"{number(naive)}, by {name.replace('_', ' ')})."
                )
    return told


def _entry(
    rows: Observations,
    laws: Sequence[ScalingLaw],
    axes: Sequence[Variable],
    through: ScalingLaw | None,
    options: Config,
) -> dict[str, Any]:
    pools, rows = levels(rows.columns[POOL].tolist()), levelled(rows)
    parts, notes = splits(rows, axes, options.holdout)
    judged, skipped = [], []
    for law in laws:
        try:
            judged.append(judge(law, rows, parts, through, options))
        except UserError as error:
            skipped.append({"law": law.name, "reason": str(error)})
    naive = naive_forecasts(rows, axes, parts)
    observed = [rows.metric[part.held_out] for part in parts]
    pooled = {name: rmse(observed, of) for name, of in naive.items()}
    candidates = sorted(
        (_candidate(one, rows, parts) for one in judged),
        key=lambda one: (one["rmse_holdout"] is None, one["rmse_holdout"] or 0.0, len(one["parameters"])),
    )
    best = next((one for one in candidates if one["rmse_holdout"] is not None), None)
    if best and pooled and min(pooled.values()) <= best["rmse_holdout"]:
        name = min(pooled, key=lambda key: pooled[key])
        notes.append(
            f"no law forecasts the runs held out better than {name.replace('_', ' ')} does "
            f"({number(best['rmse_holdout'])} against {number(pooled[name])})"
        )
    return {
        "rows": {
            "run": list(rows.labels),
            "source": rows.columns["source"].tolist(),
            **{axis.name: [int(value) for value in rows.variables[axis.name]] for axis in AXES},
            "observed": [tidy(float(value)) for value in rows.metric],
            **({POOL: [pool or None for pool in rows.columns[POOL]]} if pools[1:] else {}),
        },
        **({"pools": list(pools)} if pools[1:] else {}),
        "holdouts": [
            {
                "axis": part.axis,
                "rule": part.rule,
                "rows": np.flatnonzero(part.held_out).tolist(),
                "baselines": {name: tidy(rmse([observed[i]], [of[i]])) for name, of in naive.items()},
            }
            for i, part in enumerate(parts)
        ],
        "baselines": {name: tidy(error) for name, error in pooled.items()} or None,
        "chosen": best["law"] if best else None,
        "note": "; ".join(notes) + "." if notes else None,
        "candidates": candidates,
        "skipped": skipped,
    }


def _candidate(one: Judged, rows: Observations, parts: Sequence[Split]) -> dict[str, Any]:
    fit, pinned = one.fit, one.fit.pinned_down()
    moved = {
        pool: dict(zip(("value", "low", "high"), map(tidy, ends), strict=True)) for pool, ends in shifts(fit).items()
    }
    ahead = fit.predict(rows.variables)
    observed = [rows.metric[part.held_out] for part in parts]
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "source": fit.law.source,
        "parameters": {
            parameter.name: {
                "value": tidy(value),
                "low": tidy(low),
                "high": tidy(high),
                "unit": parameter.unit,
                "identifiable": pinned[parameter.name],
            }
            for parameter, (value, low, high) in zip(fit.law.parameters, fit.intervals().values(), strict=True)
        },
        "r2": tidy(fit.r2),
        "rmse": tidy(fit.rmse),
        "rmse_holdout": None if one.forecasts is None else tidy(rmse(observed, one.forecasts)),
        "holdouts": None
        if one.forecasts is None
        else [
            {"rmse": tidy(rmse([seen], [values])), "forecast": [tidy(float(value)) for value in values]}
            for seen, values in zip(observed, one.forecasts, strict=True)
        ],
        "through": one.through,
        "predictions": {
            "value": [tidy(float(value)) for value in ahead.mean],
            "low": [tidy(min(a, b)) for a, b in zip(ahead.low, ahead.high, strict=True)],
            "high": [tidy(max(a, b)) for a, b in zip(ahead.low, ahead.high, strict=True)],
        },
        "note": one.note,
        **({"shifts": moved} if moved else {}),
    }
