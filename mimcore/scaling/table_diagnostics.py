"""What anybody's table says beside its law: which cells over-fitted, and whether the loss can stand in for a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mimcore.errors import UserError
from mimcore.scaling.conditions import Mask, rows_where
from mimcore.scaling.detectors import by_length
from mimcore.scaling.estimate import Options
from mimcore.scaling.mapping import Map, Metric, Task, observe
from mimcore.scaling.observations import Observations
from mimcore.scaling.proxy import proxy
from mimcore.scaling.statistics import tidy
from mimcore.scaling.table import Array

#: The variable along which a loss can rise again.
LENGTH = "images_seen"
#: Parts that always are told of, and from how many rows on.
ALL, WITHOUT, FEWEST = "all", "without over-fitted", 3
#: How the name of a part ends that is one model's.
OF_A_MODEL = " parameters"


def task_of(path: Path, mapping: Map, rows: Observations) -> Array | None:
    """The task's value of each of ``rows``, ``(N,)``; None where the mapping names no task.

    Raises:
        UserError: a column or a value is missing, or the task's rows are not those of the metric.
    """
    if mapping.task is None:
        return None
    named = mapping.model_copy(
        update={
            "metric": Metric(column=mapping.task.column, name=mapping.task.name),
            "rows": mapping.task.rows or mapping.rows,
        }
    )
    found = observe(path, named)
    values = found.metric if mapping.task.rows is None else _paired(mapping.task, rows, found)
    for label, value in zip(rows.labels, values, strict=True):
        if not np.isfinite(value):
            raise UserError(f"{mapping.task.name} of '{label}' is no finite number; mend or leave out that row.")
    return values


def _paired(task: Task, rows: Observations, found: Observations) -> Array:
    """Values of the rows of the same labels."""
    by_label = dict(zip(found.labels, found.metric.tolist(), strict=True))
    for labels in (rows.labels, found.labels):
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise UserError(
                f"task: two rows are called '{twice}', so that losses and {task.name} cannot be told to belong together; name "
                "columns that tell them apart under 'labels'."
            )
    if absent := [label for label in rows.labels if label not in by_label]:
        raise UserError(
            f"task: no row with {task.name} is called '{absent[0]}'" + f", nor {len(absent) - 1} more" * (len(absent) > 1)
            + "; name columns under 'labels' that a loss and its task share, or mend 'task.rows'."
        )  # fmt: skip
    return np.array([by_label[label] for label in rows.labels])


def diagnose(rows: Observations, task: Array | None, spec: Task | None, options: Options) -> dict[str, Any]:
    """Tell of over-fitting and of the task.

    Args:
        rows: all of them, those held out too; nothing is fitted.
        task: of each row, ``(N,)``.
        spec: what the task is.
        options: for the intervals.

    Returns:
        ``overfitting``: for each cell (rows that differ in their length alone) what ``detectors.by_length`` saw, the cell being
        called as its longest run; None without lengths, or of a metric of which more is better. ``proxy``: None without a task,
        else its name, ``task``, and ``parts``: for each part of the table the correlations with the loss, see ``proxy.proxy``.

    Raises:
        UserError: a part is no condition, or leaves too few rows.
    """
    cells = _cells(rows)
    is_loss = rows.link.ceiling is None
    better = None if task is None or spec is None else task if spec.higher_is_better else -task
    overfitting = None
    if LENGTH in rows.variables and is_loss:
        seen = by_length(cells, rows.variables[LENGTH], rows.metric, task=better)
        overfitting = [_told(one._asdict()) for one in seen]
    if task is None or spec is None:
        return {"overfitting": overfitting, "proxy": None}
    rose = {one["cell"] for one in overfitting or () if one["loss_rose"]}
    parts = _parts(rows, spec, np.array([cell in rose for cell in cells]))
    told = proxy(
        rows.metric,
        task,
        cells,
        parts,
        confidence=options.confidence,
        bootstrap=options.bootstrap,
        seed=options.seed,
    )
    return {"overfitting": overfitting, "proxy": {"task": spec.name, "parts": told}}


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Say what ``diagnose`` found, which is part of ``found``, and which rows were no rows of their own, in a sentence each."""
    said = []
    if copies := found["dropped_duplicates"]:
        said.append(
            f"{copies} row{'s are' if copies > 1 else ' is'} equal to another in every column, the metric too, and left out; if these are "
            "runs of their own, such as seeds, give the table a column that tells them apart."
        )
    if cells := found["overfitting"]:
        rose = [one for one in cells if one["loss_rose"]]
        told = f"The {found['metric']['name']} of {len(rose)} of {len(cells)} cells is higher at their longest than at their shortest"
        if rose and found["proxy"] is not None:
            kept = [one for one in rose if not one["task_fell"]]
            told += f"; in {len(kept)} of these {found['proxy']['task']} did not fall with it"
        said.append(f"{told}.")
    if found["proxy"] is not None:
        parts = {name: one for name, one in found["proxy"]["parts"].items() if not name.endswith(OF_A_MODEL)}
        values = (
            f"{_correlation(one['pearson'])} ({name}, {one['pearson']['count']} rows)" for name, one in parts.items()
        )
        said.append(f"{found['metric']['name']} and {found['proxy']['task']} correlate with {', '.join(values)}.")
    return said


def _correlation(one: Mapping[str, Any]) -> str:
    ends = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
    return f"{one['estimate']:.3f}{ends}"


def _told(one: Mapping[str, Any]) -> dict[str, Any]:
    """What two lengths of a table without training losses or seeds can tell."""
    kept = ("cell", "loss_rose", "loss_change", "task_fell", "task_change")
    return {key: tidy(one[key]) if isinstance(one[key], float) else one[key] for key in kept}


def _cells(rows: Observations) -> list[str]:
    """The cell of each row: the label of the longest run of those that are alike in every other variable."""
    others = [values for name, values in rows.variables.items() if name != LENGTH]
    length = rows.variables.get(LENGTH, np.zeros(len(rows)))
    keys = list(zip(*(values.tolist() for values in others), strict=True)) if others else [()] * len(rows)
    longest: dict[tuple[float, ...], int] = {}
    for i, key in enumerate(keys):
        if key not in longest or length[i] > length[longest[key]]:
            longest[key] = i
    return [rows.labels[longest[key]] for key in keys]


def _parts(rows: Observations, spec: Task, rose: Mask) -> dict[str, Mask]:
    found = {ALL: np.ones(len(rows), dtype=bool)}
    if rose.any():
        found[WITHOUT] = ~rose
    for name, condition in spec.parts.items():
        found[name] = rows_where(condition, rows.columns, f"task.parts.{name}")
        if found[name].sum() < FEWEST:
            raise UserError(f"task.parts.{name}: '{condition}' leaves {found[name].sum()} rows, too few to correlate.")
    for size in np.unique(rows.variables.get("encoder_params", np.empty(0))):
        found[f"{size:.4g}{OF_A_MODEL}"] = rows.variables["encoder_params"] == size
    return {name: kept for name, kept in found.items() if kept.sum() >= FEWEST}
