"""``mimcore import-runs``: finished runs out of anybody's table, by a mapping that says what its columns mean."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mimcore.definition import Definition, nearest
from mimcore.errors import UserError
from mimcore.scaling.conditions import rows_where
from mimcore.scaling.imported import COORDINATES, FACTS
from mimcore.scaling.mapping import Column, Name, name_at, read_columns, read_yaml, variable
from mimcore.scaling.table import POOL, PRETRAIN, VAL_LOSS

EXAMPLE = "docs/examples/xie2023.import.yaml"


class Number(Definition):
    """A metric of a task."""

    column: str
    #: Which rows hold it, as a condition on the columns, where a column holds several metrics; all of them if not given.
    rows: str | None = None
    #: What one of the column's units is: 0.01 where it counts percent. Metrics of which more is better are fractions here.
    scale: float = Field(1.0, gt=0)
    higher_is_better: bool = False
    #: The task's headline: what the laws are of.
    headline: bool = True


class ImportMap(Definition):
    """A mapping file of ``import-runs``."""

    #: The five coordinates that name a run, as in ``params.yaml``.
    coordinates: dict[str, Name]
    #: The pool that a run's subset is drawn from, by its name in ``params.yaml``. If not given, it is that of the study's subset of the
    #: same name, and not known of any other.
    pool: Name | None = None
    #: ``encoder_params``, ``unique_images``, ``images_seen`` and, if known, ``flops`` (of training).
    variables: dict[str, Column]
    #: Task to metric to column. ``pretrain: {val_loss: ...}`` must be among them.
    metrics: dict[str, dict[str, Number]]
    #: Which rows are meant, as a condition on the columns; all of them if not given.
    rows: str | None = None


def runs_from(table: Path, mapping: Path) -> list[dict[str, Any]]:
    """Read finished runs out of a table, as ``imported.store`` takes them.

    Args:
        table: CSV or Parquet, a row for each run, or several where a row holds one metric.
        mapping: see ``ImportMap``.

    Raises:
        UserError: the mapping is wrong or names a column that the table lacks; a number is missing, not finite or, of a fact, not
            positive; two rows give one run's metric; a run has no validation loss.
    """
    meaning = read_yaml(mapping, ImportMap, EXAMPLE)
    _check(meaning, mapping)
    columns = read_columns(table)
    for name in _columns(meaning):
        if name not in columns:
            raise UserError(f"{table} has no column '{name}', which the mapping names; {nearest(name, columns)}")
    if meaning.rows is not None:
        columns = _where(meaning.rows, columns, "rows", table)
    digest = hashlib.sha256(table.read_bytes()).hexdigest()[:16]
    found: dict[str, dict[str, Any]] = {}
    for task, metrics in meaning.metrics.items():
        for metric, spec in metrics.items():
            where = f"metrics.{task}.{metric}"
            chosen = columns if spec.rows is None else _where(spec.rows, columns, f"{where}.rows", table)
            _add(found, chosen, meaning, (task, metric, spec), table)
    for name, one in found.items():
        if VAL_LOSS not in {(value["task"], value["metric"]) for value in one["values"]}:
            raise UserError(
                f"{table}: {name} has no validation loss; leave its rows out with 'rows', or add the number."
            )
        one |= {"file": table.name, "digest": digest}
    return list(found.values())


def _check(meaning: ImportMap, mapping: Path) -> None:
    for block, given, needed in (
        ("coordinates", set(meaning.coordinates), set(COORDINATES)),
        ("variables", set(meaning.variables) | {"flops"}, set(FACTS)),
    ):
        for name in sorted(needed - given):
            raise UserError(f"{mapping}: {block}.{name} is missing; every run needs one.")
        for name in sorted(given - needed):
            raise UserError(f"{mapping}: {block}.{name} is none of a run's {block}; {nearest(name, needed)}")
    loss = meaning.metrics.get(PRETRAIN, {}).get(VAL_LOSS[1])
    if loss is None or loss.higher_is_better:
        raise UserError(f"{mapping}: metrics.{PRETRAIN}.{VAL_LOSS[1]} is needed, and less of it is better.")
    for task, metrics in meaning.metrics.items():
        if sum(spec.headline for spec in metrics.values()) != 1:
            raise UserError(f"{mapping}: metrics.{task} needs one headline; set 'headline: false' for the others.")


def _columns(meaning: ImportMap) -> list[str]:
    return [
        *(
            one.column
            for one in (*meaning.coordinates.values(), meaning.pool)
            if one is not None and one.column is not None
        ),
        *(one.column for one in meaning.variables.values()),
        *(one.column for metrics in meaning.metrics.values() for one in metrics.values()),
    ]


def _where(condition: str, columns: dict[str, NDArray[Any]], where: str, table: Path) -> dict[str, NDArray[Any]]:
    kept = rows_where(condition, columns, where)
    if not kept.any():
        raise UserError(f"{table}: no row meets the mapping's condition '{where}: {condition}'.")
    return {name: values[kept] for name, values in columns.items()}


def _add(
    found: dict[str, dict[str, Any]],
    columns: dict[str, NDArray[Any]],
    meaning: ImportMap,
    number: tuple[str, str, Number],
    table: Path,
) -> None:
    """Add one metric of the rows to their runs."""
    task, metric, spec = number
    facts = {name: variable(name, column, columns, table) for name, column in meaning.variables.items()}
    metrics = variable(f"{task} {metric}", Column(column=spec.column, scale=spec.scale), columns, table)
    for i, value in enumerate(metrics):
        about = {name: name_at(name, one, columns, i, table) for name, one in meaning.coordinates.items()}
        run = "-".join(about[name] for name in COORDINATES)
        one: dict[str, Any] = {"run": run, "file": "", "digest": "", **about, "flops": None}
        for name in FACTS:
            if name in facts:
                fact = _finite(facts[name][i], f"{table}: {name} of {run}", positive=True)
                one[name] = fact if name == "flops" else round(fact)
        if meaning.pool is not None:
            one[POOL] = name_at(POOL, meaning.pool, columns, i, table)
        known = found.setdefault(run, {**one, "values": []})
        for name in FACTS:
            if known[name] != one[name]:
                raise UserError(f"{table}: {name} of {run} is {known[name]} in one row and {one[name]} in another.")
        if known.get(POOL) != one.get(POOL):
            raise UserError(
                f"{table}: {run} is of pool '{known[POOL]}' in one row and of '{one[POOL]}' in another; give the subsets of each pool "
                "names of their own."
            )
        if any((at["task"], at["metric"]) == (task, metric) for at in known["values"]):
            raise UserError(
                f"{table}: two rows give {task} {metric} of {run}; name a coordinate that tells them apart, such as the seed."
            )
        where = f"{table}: {task} {metric} of {run}"
        if spec.higher_is_better and not 0 <= _finite(value, where) <= 1:
            raise UserError(f"{where} is {value:g}, outside 0 to 1; give percent a 'scale: 0.01' in the mapping.")
        known["values"].append(
            {
                "task": task,
                "metric": metric,
                "value": _finite(value, where),
                "standard_error": None,
                "higher_is_better": spec.higher_is_better,
                "headline": spec.headline,
            }
        )


def _finite(value: float, where: str, positive: bool = False) -> float:
    if not np.isfinite(value) or (positive and value <= 0):
        what = "is missing" if np.isnan(value) else f"is {value:g}"
        must = "a positive, finite number" if positive else "a finite number"
        raise UserError(f"{where} {what}; it must be {must}. Mend or leave out that row.")
    return float(value)
