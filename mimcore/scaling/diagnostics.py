"""What the table says beside the laws: over-fitting, seed noise, and whether the loss foretells the tasks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mimcore.scaling import claims
from mimcore.scaling.claim import Claim
from mimcore.scaling.pools import by_pool
from mimcore.scaling.proxy import proxy
from mimcore.scaling.statistics import student, student_quantile, tidy
from mimcore.scaling.table import (
    POOL,
    PRETRAIN,
    VAL_LOSS,
    Measure,
    Row,
    Run,
    Setting,
    by_subset,
    headlines_of,
    runs_of,
    settings_of,
)


def diagnose(
    rows: Sequence[Row],
    *,
    confidence: float,
    margin: float,
    bootstrap: int,
    seed: int,
    claimed: Mapping[str, Claim] = claims.DEFAULTS,
) -> dict[str, Any]:
    """Everything in ``fit.json`` that is no law.

    Args:
        rows: the results.
        confidence: coverage of the intervals.
        margin: fraction of the lowest validation loss by which the last one must exceed it to have risen again.
        bootstrap: replicates behind the intervals of the correlations.
        seed: seed of their draws.
        claimed: what is claimed, by name.

    Returns:
        ``overfitting`` (runs, cells and settings), ``seed_noise``, ``correlation`` and ``claims``.
    """
    runs, measures = runs_of(rows), headlines_of(rows)
    # Twice the seed noise, since the minimum over a curve lies below the mean of its noise.
    thresholds = {one: max(margin, 2 * _relative_noise(runs, one)) for one in _objectives(runs)}
    risen = {run.name for run in runs if has_risen(run, thresholds[run.setting.objective])}
    return {
        "overfitting": {
            "thresholds": {objective: tidy(threshold) for objective, threshold in thresholds.items()},
            "runs": [_run_flags(run, run.name in risen) for run in runs],
            "cells": [
                _cell_flags(setting, pool, size, list(cell.values()), risen, confidence)
                for setting, pool, size, cell in _cells(runs)
            ],
            "settings": [
                _setting_flags(setting, pool, mine, confidence)
                for setting in settings_of(runs)
                for pool, mine in by_pool([run for run in runs if run.setting == setting]).items()
            ],
        },
        "seed_noise": [
            found
            for objective in _objectives(runs)
            for measure in measures
            if (found := _seed_noise(runs, objective, measure, confidence))
        ],
        "correlation": [
            found
            for objective in _objectives(runs)
            for measure in measures
            if measure.task != PRETRAIN
            for found in _correlations(runs, risen, objective, measure, confidence, bootstrap, seed)
        ],
        "claims": claims.examine(claimed, rows, confidence, bootstrap, seed),
    }


def risen_sizes(diagnosed: Mapping[str, Any], setting: Setting) -> list[tuple[str | None, int]]:
    """List the sizes of subset at which the validation loss of ``setting`` rose again, each with its pool; None where there is one."""
    return [
        (cell.get(POOL), cell["unique_images"])
        for cell in diagnosed["overfitting"]["cells"]
        if cell["val_loss_rose"] and Setting(cell["objective"], cell["model"], cell["schedule"]) == setting
    ]


def has_risen(run: Run, threshold: float) -> bool:
    """Whether the validation loss ended above its lowest value by more than ``threshold``, a fraction of that value."""
    return run.rise > threshold * (run.values[VAL_LOSS] - run.rise)


def _relative_noise(runs: Sequence[Run], objective: str) -> float:
    """Median over cells of the validation loss's standard deviation over seeds, as a fraction; 0 with one seed.

    The median, since the cells that over-fit are the noisy ones and must not raise their own threshold.
    """
    found = []
    for setting, _, _, cell in _cells(runs):
        losses = np.array([run.values[VAL_LOSS] for run in cell.values()])
        if setting.objective == objective and len(losses) > 1 and np.mean(losses) > 0:
            found.append(float(np.std(losses, ddof=1) / np.mean(losses)))
    return float(np.median(found)) if found else 0.0


def _run_flags(run: Run, risen: bool) -> dict[str, Any]:
    return {"run": run.name, "rise": tidy(run.rise), "gap": tidy(run.gap), "val_loss_rose": risen}


def _cell_flags(
    setting: Setting, pool: str | None, size: int, cell: Sequence[Run], risen: set[str], confidence: float
) -> dict[str, Any]:
    """One cell (setting, pool and size) over its seeds; flagged where more than half of them rose."""
    return {
        **setting._asdict(),
        **({POOL: pool} if pool else {}),
        "unique_images": size,
        "rise": student(np.array([run.rise for run in cell]), confidence).json(),
        "gap": student(np.array([run.gap for run in cell]), confidence).json(),
        "val_loss_rose": sum(run.name in risen for run in cell) * 2 > len(cell),
    }


def _setting_flags(setting: Setting, pool: str | None, runs: Sequence[Run], confidence: float) -> dict[str, Any]:
    """Whether the gap between unseen and seen images is wider on the smallest subset than on the largest, of runs of one pool."""
    subsets = by_subset(runs)
    # Of several draws of a size the first by name stands for it.
    small, large = min(subsets), min(subsets, key=lambda subset: (-subset[0], subset[1]))
    about = {**setting._asdict(), **({POOL: pool} if pool else {})}
    found = {**about, "smallest": small[0], "largest": large[0], "gap_difference": None, "gap_wider": False}
    seeds = [seed for seed in subsets[small] if seed in subsets[large]]
    if small[0] == large[0] or not seeds:
        return found
    interval = student(np.array([subsets[small][s].gap - subsets[large][s].gap for s in seeds]), confidence)
    return {**found, "gap_difference": interval.json(), "gap_wider": interval.low is not None and interval.low > 0}


def _seed_noise(runs: Sequence[Run], objective: str, measure: Measure, confidence: float) -> dict[str, Any] | None:
    """Standard deviation over seeds, pooled over cells, and the difference between two cells that it lets one tell.

    That difference is the least significant difference t * sd * sqrt(2 / seeds) (Fisher 1935).
    """
    key = (measure.task, measure.metric)
    squares, freedom, counts = 0.0, 0, []
    for setting, _, _, cell in _cells(runs):
        values = np.array([run.values[key] for run in cell.values() if key in run.values])
        if setting.objective == objective and len(values) > 1:
            squares += float(np.sum((values - values.mean()) ** 2))
            freedom += len(values) - 1
            counts.append(len(values))
    if not freedom:
        return None
    deviation = float(np.sqrt(squares / freedom))
    seeds = float(np.median(counts))
    return {
        "objective": objective,
        "task": measure.task,
        "metric": measure.metric,
        "sd": tidy(deviation),
        "degrees_of_freedom": freedom,
        "seeds": seeds,
        "least_difference": tidy(student_quantile(freedom, confidence) * deviation * (2 / seeds) ** 0.5),
    }


def _correlations(
    runs: Sequence[Run], risen: set[str], objective: str, measure: Measure, confidence: float, bootstrap: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The correlation on each pool by itself: losses on other validation images are in no common order."""
    key = (measure.task, measure.metric)
    having = [run for run in runs if run.setting.objective == objective and key in run.values]
    for pool, chosen in by_pool(having).items():
        about = {"objective": objective, **({POOL: pool} if pool else {}), **measure._asdict()}
        yield about | _correlation(chosen, risen, key, confidence, bootstrap, seed)


def _correlation(
    chosen: Sequence[Run], risen: set[str], key: tuple[str, str], confidence: float, bootstrap: int, seed: int
) -> dict[str, Any]:
    """Spearman's correlation of the validation loss with a task: over all runs, without those that over-fitted, and within each model."""
    loss, value = (np.array([run.values[one] for run in chosen]) for one in (VAL_LOSS, key))
    models = list(dict.fromkeys(run.setting.model for run in chosen))
    parts = {
        "all": np.ones(len(chosen), dtype=bool),
        "without_risen": np.array([run.name not in risen for run in chosen], dtype=bool),
        **{f"model {model}": np.array([run.setting.model == model for run in chosen]) for model in models},
    }
    # Runs that differ in their seed alone are no independent evidence.
    clusters = [f"{run.setting} {run.subset}" for run in chosen]
    able = {
        name: part
        for name, part in parts.items()
        if part.sum() > 2 and np.ptp(loss[part]) > 0 and np.ptp(value[part]) > 0
    }
    told = proxy(loss, value, clusters, able, confidence=confidence, bootstrap=bootstrap, seed=seed)
    spearman = {name: told[name]["spearman"] if name in told else None for name in parts}
    return {
        "all": spearman["all"],
        "without_risen": spearman["without_risen"],
        "models": {model: spearman[f"model {model}"] for model in models},
    }


def _cells(runs: Sequence[Run]) -> Iterator[tuple[Setting, str | None, int, dict[str, Run]]]:
    """Runs that differ in their seed alone: another draw of the same size is another cell, and its difference no seed noise."""
    for setting in settings_of(runs):
        for pool, mine in by_pool([run for run in runs if run.setting == setting]).items():
            for (size, _), cell in by_subset(mine).items():
                yield setting, pool, size, cell


def _objectives(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.setting.objective for run in runs))
