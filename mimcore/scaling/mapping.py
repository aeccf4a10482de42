"""What the columns of somebody's table mean: a mapping from them to a law's variables and metric."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mimcore.definition import D, Definition, nearest, resolve
from mimcore.errors import UserError
from mimcore.scaling.conditions import rows_where
from mimcore.scaling.observations import Link, Observations, check_numbers
from mimcore.scaling.pools import PREFIX
from mimcore.scaling.table import POOL, Array

#: What a run cost in training, under the mapping's ``variables``.
FLOPS = "flops"


class Column(Definition):
    """How a variable is read off a column."""

    column: str
    #: What one of the column's units is in the variable's: 1e6 where the column counts millions.
    scale: float = Field(1.0, gt=0)
    #: Numbers for a column of text.
    values: dict[str, float] | None = None
    #: The number of every text that ``values`` does not name; without it such a text is refused.
    otherwise: float | None = None


class Name(Definition):
    """How a name is read off a column, or the same for all rows."""

    column: str | None = None
    value: str | None = Field(None, min_length=1)
    #: Names for the texts of the column, which is the name itself without them.
    values: dict[str, str] | None = None
    #: The name of every text that ``values`` does not name; without it such a text is refused.
    otherwise: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.column is None) == (self.value is None):
            raise ValueError("give either 'column' or 'value'")
        if self.values is not None and self.column is None:
            raise ValueError("'values' are names for the texts of a 'column'")
        if self.otherwise is not None and self.values is None:
            raise ValueError("'otherwise' is for texts that 'values' does not name; give 'values'")
        return self


class Metric(Definition):
    """What is to be explained."""

    column: str
    #: What it is called in the output.
    name: str = "metric"
    higher_is_better: bool = False
    #: The best value there is; required where higher is better.
    ceiling: float | None = None
    #: The value of a guess; with it the law is of the odds, and no forecast leaves the range.
    floor: float | None = None


class Task(Definition):
    """What a loss may stand in for."""

    column: str
    #: What it is called in the output.
    name: str = "task"
    higher_is_better: bool = True
    #: Which rows have it, paired by their labels; those of the metric if not given.
    rows: str | None = None
    #: Parts of the table, as conditions on the columns, of which the correlation is told too.
    parts: dict[str, str] = Field(default_factory=dict)


class Map(Definition):
    """A mapping file."""

    metric: Metric
    #: The variables of laws; ``flops`` are what a run cost, by which budgets are divided.
    variables: dict[str, Column] = Field(min_length=1)
    #: Variables of 0 and 1 by which the metric differs by a constant, whatever the law.
    covariates: tuple[str, ...] = ()
    #: The pool that a row's images are of: every law has a level for each, as the laws of a study do; one level if not given.
    pool: Name | None = None
    #: Which rows are meant, as a condition on the columns; all of them if not given.
    rows: str | None = None
    #: Columns that name a row.
    labels: tuple[str, ...] = ()
    #: A task beside the loss, to be correlated with it.
    task: Task | None = None


#: The tidy table of a study, as ``collect`` writes it; not the phases that start from other weights, or learn from a teacher.
RESULTS_MAP = Map.model_validate(
    {
        "metric": {"column": "value", "name": "val_loss"},
        "variables": {name: {"column": name} for name in ("encoder_params", "unique_images", "images_seen")},
        "rows": "kind == 'run' and task == 'pretrain' and metric == 'val_loss' and use != 'weights' and use != 'teacher'",
        "labels": ["run"],
    }
)


#: Runs that could be made, as ``advise --candidates`` reads them without a mapping.
CANDIDATES_MAP = RESULTS_MAP.model_copy(update={"rows": None})


def read_map(path: Path | Map) -> Map:
    """Read a mapping file; a mapping is taken as it is.

    Raises:
        UserError: it is missing, no YAML, or wrong; every mistake with its path.
    """
    if isinstance(path, Map):
        return path
    found = read_yaml(path, Map, "docs/examples/xie2023.map.yaml")
    if found.metric.higher_is_better != (found.metric.ceiling is not None):
        raise UserError(
            f"{path}: metric.ceiling is needed where higher is better, and only there: laws are fitted to what falls."
        )
    for name in found.covariates:
        if name not in found.variables:
            raise UserError(
                f"{path}: covariates names '{name}', which is none of the variables; {nearest(name, found.variables)}"
            )
    return found


def read_yaml(path: Path, definition: type[D], example: str) -> D:
    """Read a file of one definition.

    Raises:
        UserError: it is missing, no YAML, or wrong; every mistake with its path.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; write a mapping there ({example} is an example).")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        needed = " and ".join(f"'{name}'" for name, field in definition.model_fields.items() if field.is_required())
        raise UserError(f"{path} holds no mapping; it needs {needed} (see {example}).")
    return resolve(definition, content, str(path))


def read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """Read a CSV or Parquet table: numbers as float64 (missing: NaN), all else as text.

    Raises:
        UserError: it is missing, of another kind, broken or empty.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; give the path of a CSV or Parquet table.")
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        elif path.suffix == ".csv":
            table = pyarrow.csv.read_csv(path)
        else:
            raise UserError(f"{path} is neither .csv nor .parquet; convert it to one of them.")
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}.") from None
    if not table.num_rows:
        raise UserError(f"{path} has no rows.")
    return {name: _column(table[name]) for name in table.column_names}


def observe(path: Path, mapping: Map) -> Observations:
    """Read the rows that a mapping describes; of rows that are equal in every column of the table, the first.

    Such copies are one run that was written down twice. Equal rows of another metric are seeds, and stay.

    Raises:
        UserError: a column is missing, a text has no number, or no row is left.
    """
    columns, variables, labels = _rows(path, mapping, [mapping.metric.column])
    kept = _different(columns)
    metric = columns[mapping.metric.column]
    if metric.dtype.kind != "f":
        raise UserError(
            f"{path}: column '{mapping.metric.column}' is the metric, but {_no_numbers(metric)}; mend it, or name another."
        )
    if mapping.pool is not None:
        columns[POOL] = _pools(mapping.pool, columns, path)
    link = Link(mapping.metric.ceiling, mapping.metric.floor)
    # What a run costs is no variable of a law.
    costs = {FLOPS: variables.pop(FLOPS)} if FLOPS in variables else {}
    found = Observations(variables, metric, labels, mapping.metric.name, link, {**variables, **columns, **costs})
    return replace(found.only(kept), copies=len(labels) - len(kept))


def _different(columns: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Index the first of the rows that are equal in every column, in their order; missing numbers are equal to each other."""
    codes = [np.unique(values, return_inverse=True)[1].reshape(-1) for values in columns.values()]
    return np.sort(np.unique(np.column_stack(codes), axis=0, return_index=True)[1])


def read_candidates(path: Path, mapping: Map) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Read runs that could be made: variables and labels, by the same mapping; its metric is not looked for.

    Where it gives their pool, each that is named has a variable of 0 and 1, as in ``pools.levelled``.

    Raises:
        UserError: a column is missing, a number is missing, not finite or not positive, or two rows have one label.
    """
    columns, variables, labels = _rows(path, mapping, [])
    for name, values in variables.items():
        if name not in mapping.covariates:
            check_numbers(name, values, labels, positive=True)
    for label, times in Counter(labels).items():
        if times > 1:
            raise UserError(
                f"{path}: {times} rows are called '{label}'; name columns that tell them apart under 'labels'."
            )
    if mapping.pool is not None:
        pools = _pools(mapping.pool, columns, path)
        variables |= {PREFIX + pool: np.asarray(pools == pool, dtype=np.float64) for pool in dict.fromkeys(pools)}
    return variables, labels


def _rows(
    path: Path, mapping: Map, needed: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, Array], tuple[str, ...]]:
    """Columns, variables and labels of the rows that a mapping describes."""
    columns = read_columns(path)
    of_pool = [mapping.pool.column] if mapping.pool is not None and mapping.pool.column is not None else []
    for name in [*needed, *mapping.labels, *of_pool, *(column.column for column in mapping.variables.values())]:
        if name not in columns:
            raise UserError(f"{path} has no column '{name}', which the mapping names; {nearest(name, columns)}")
    if mapping.rows is not None:
        kept = rows_where(mapping.rows, columns, "rows")
        if not kept.any():
            raise UserError(f"{path}: no row meets the mapping's condition 'rows: {mapping.rows}'.")
        columns = {name: values[kept] for name, values in columns.items()}
    variables = {name: variable(name, column, columns, path) for name, column in mapping.variables.items()}
    names = [columns[name] for name in mapping.labels]
    count = len(next(iter(columns.values())))
    labels = tuple(", ".join(text(values[i]) for values in names) if names else f"row {i + 1}" for i in range(count))
    return columns, variables, labels


def variable(name: str, spec: Column, columns: dict[str, NDArray[Any]], path: Path) -> Array:
    """Read a variable ``(N,)`` off its column; missing numbers are NaN.

    Raises:
        UserError: the column holds texts that have no number.
    """
    values = columns[spec.column]
    if spec.values is None:
        if values.dtype.kind != "f":
            raise UserError(
                f"{path}: column '{spec.column}' {_no_numbers(values)}, and '{name}' needs numbers; give them under "
                f"'variables.{name}.values'."
            )
        return np.asarray(values * spec.scale)
    found = []
    for value in map(text, values):
        number = spec.values.get(value, spec.otherwise)
        if number is None:
            raise UserError(f"variables.{name}.values gives no number for '{value}'; {nearest(value, spec.values)}")
        found.append(number * spec.scale)
    return np.array(found, dtype=np.float64)


def name_at(what: str, spec: Name, columns: dict[str, NDArray[Any]], row: int, path: Path) -> str:
    """Read a name of one row.

    Raises:
        UserError: its cell is empty, or a text that has no name.
    """
    if spec.column is None:
        return str(spec.value)
    value = columns[spec.column][row]
    found = "" if isinstance(value, float) and np.isnan(value) else text(value).strip()
    if not found:
        raise UserError(f"{path}: column '{spec.column}' is empty in row {row + 1}, and is a run's {what}; fill it in.")
    if spec.values is None:
        return found
    name = spec.values.get(found, spec.otherwise)
    if not name:
        raise UserError(f"{path}: the 'values' of {what} give no name for '{found}'; {nearest(found, spec.values)}")
    return name


def _pools(spec: Name, columns: dict[str, NDArray[Any]], path: Path) -> NDArray[Any]:
    rows = range(len(next(iter(columns.values()))))
    return np.array([name_at(POOL, spec, columns, row, path) for row in rows], dtype=object)


def _no_numbers(values: NDArray[Any]) -> str:
    """Why a column of texts is none of numbers."""
    first = next((value for value in values if value and not _is_number(value)), None)
    return "is empty" if first is None else f"holds text, such as '{first}'"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _column(column: Any) -> NDArray[Any]:
    if pa.types.is_boolean(column.type) or not (
        pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
    ):
        return np.array(["" if value is None else str(value) for value in column.to_pylist()], dtype=object)
    return np.array([np.nan if value is None else float(value) for value in column.to_pylist()], dtype=np.float64)


def text(value: Any) -> str:
    """Write a cell as text; a whole number without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
