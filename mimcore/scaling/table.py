"""The tidy table of a study: its schema, and the two views that the laws and the diagnostics take of it."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mimcore.errors import UserError

Array = NDArray[np.float64]

#: Columns of ``results.parquet``; see "Results" in docs/architecture.md.
SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("kind", "run", "objective", "model", "subset", "schedule", "seed")],
        *[(name, pa.int64()) for name in ("unique_images", "images_seen", "encoder_params")],
        ("flops", pa.float64()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("standard_error", pa.float64()),
        ("higher_is_better", pa.bool_()),
        ("headline", pa.bool_()),
        ("source", pa.string()),
        ("imported_from", pa.string()),
        ("after", pa.string()),
        ("use", pa.string()),
        ("total_images_seen", pa.int64()),
        ("total_flops", pa.float64()),
        ("pool", pa.string()),
    ]
)

#: Values of the column ``source``: a run of the study, or one that was finished elsewhere.
MADE, IMPORTED = "made", "imported"

#: Columns that say what came before a run; a table of a study without phases may lack them.
OF_PHASES = ("after", "use", "total_images_seen", "total_flops")

#: The pool that a run's images are drawn from; a table from before it was written down may lack it.
POOL = "pool"

#: The task under which the losses of a run are filed, and its headline.
PRETRAIN = "pretrain"
VAL_LOSS = (PRETRAIN, "val_loss")
SEEN_LOSS = (PRETRAIN, "seen_loss")
#: The lowest validation loss along the curve, which ``collect`` reads off it.
VAL_MINIMUM = (PRETRAIN, "val_loss_minimum")
#: Between the name of a second phase's run and what it started from, as in ``wsp-tiny-n64-short-s0-after-mae-n64-long``.
AFTER = "-after-"


@dataclass(frozen=True)
class Row:
    """One number of a study: a row of ``results.parquet``.

    ``after`` is the run that a phase follows and ``use`` what it takes of it (weights, teacher, state); the totals count all runs
    before it as well. ``pool`` is what its subset is drawn from; of an imported run it may not be known.
    """

    kind: str
    run: str | None
    objective: str | None
    model: str | None
    subset: str | None
    schedule: str | None
    seed: str | None
    unique_images: int | None
    images_seen: int | None
    encoder_params: int | None
    flops: float | None
    task: str
    metric: str
    value: float
    standard_error: float | None
    higher_is_better: bool
    headline: bool
    source: str = MADE
    imported_from: str | None = None
    after: str | None = None
    use: str | None = None
    total_images_seen: int | None = None
    total_flops: float | None = None
    pool: str | None = None


class Setting(NamedTuple):
    """Everything about a run but its data: what one scaling curve holds fixed.

    The objective of a phase has the run before it in words, such as ``simmim after mae short``: its losses are those of another
    start, so that no curve, test or law takes the two together.
    """

    objective: str
    model: str
    schedule: str

    def __str__(self) -> str:
        return f"{self.objective} {self.model} {self.schedule}"


class Measure(NamedTuple):
    """A metric of a task, and which way is up."""

    task: str
    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Run:
    """A run and its numbers; ``values`` is keyed by (task, metric). An imported one may have no more than a validation loss."""

    name: str
    setting: Setting
    subset: str
    seed: str
    unique_images: int
    images_seen: int
    encoder_params: int
    flops: float
    values: dict[tuple[str, str], float]
    errors: dict[tuple[str, str], float | None]
    #: The run that a second phase started from, without its model and seed; None where the run started from nothing.
    after: str | None = None
    source: str = MADE
    #: The pool that its images are drawn from, where it is known.
    pool: str | None = None

    @property
    def gap(self) -> float:
        """Validation loss minus the loss on images of the subset."""
        return self.values[VAL_LOSS] - self.values[SEEN_LOSS]

    @property
    def rise(self) -> float:
        """Final validation loss minus its lowest value along the curve, at least 0."""
        return self.values[VAL_LOSS] - self.values[VAL_MINIMUM]


def write_results(path: Path, rows: Iterable[Row]) -> None:
    """Write rows in the order of their coordinates; the same rows give the same bytes whatever their order."""
    ordered = sorted(rows, key=lambda row: tuple(_sortable(value) for value in asdict(row).values()))
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in ordered], schema=SCHEMA), path)


def read_results(path: Path) -> list[Row]:
    """Read ``results.parquet``.

    Raises:
        UserError: it is missing, holds other columns, or a number in it is missing or not finite.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; bring it up to date with 'dvc repro'.")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file ({error}); delete it and run 'dvc repro'.") from None
    # Tables from before runs could be imported, follow one another or name their pool, such as last night's, lack what says so.
    known = [name for name in SCHEMA.names if name in table.column_names]
    absent = [name for name in SCHEMA.names if name not in (*known, *OF_PHASES, "source", "imported_from", POOL)]
    if absent:
        raise UserError(f"{path} lacks the columns {', '.join(absent)}; delete it and run 'dvc repro'.")
    rows = [Row(**row) for row in table.select(known).to_pylist()]
    for row in rows:
        if row.value is None or not math.isfinite(row.value):
            where = row.run or f"{row.kind} {row.model}"
            raise UserError(f"{path}: {row.task} {row.metric} of {where} is {row.value}; run 'dvc repro collect'.")
    return rows


def runs_of(rows: Sequence[Row], *, imported: bool = False) -> list[Run]:
    """Gather the rows of each run, ordered by objective, model (fewest parameters first), schedule, size and seed.

    Args:
        rows: the table.
        imported: whether runs that were finished elsewhere are wanted too: they are evidence for a law, and not of the study.
    """
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.kind == "run" and (imported or row.source == MADE):
            grouped[str(row.run)].append(row)
    firsts = {name: group[0] for name, group in grouped.items()}
    runs = [_run(name, group, firsts) for name, group in grouped.items()]
    return sorted(
        runs,
        key=lambda run: (
            run.setting.objective,
            run.encoder_params,
            run.setting.model,
            run.images_seen,
            run.setting.schedule,
            run.unique_images,
            run.subset,
            run.seed,
        ),
    )


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """List the settings of ``runs``, in their order."""
    return list(dict.fromkeys(run.setting for run in runs))


def headlines_of(rows: Iterable[Row]) -> list[Measure]:
    """List the headline of each task that the study's runs have, pretraining first."""
    found = {
        Measure(row.task, row.metric, row.higher_is_better)
        for row in rows
        if row.kind == "run" and row.headline and row.source == MADE
    }
    return sorted(found, key=lambda measure: (measure.task != PRETRAIN, measure))


def by_subset(runs: Iterable[Run]) -> dict[tuple[int, str], dict[str, Run]]:
    """Arrange the runs of one setting: unique images and subset (ascending; two draws may be of one size) to seed to run."""
    subsets: dict[tuple[int, str], dict[str, Run]] = defaultdict(dict)
    for run in runs:
        subsets[run.unique_images, run.subset][run.seed] = run
    return {subset: dict(sorted(subsets[subset].items())) for subset in sorted(subsets)}


def floor_rows(rows: Iterable[Row], measure: Measure) -> list[Row]:
    """List the rows that say what an untrained encoder or raw pixels reach in ``measure``."""
    key = (measure.task, measure.metric)
    return [row for row in rows if row.kind != "run" and (row.task, row.metric) == key]


def objective_in_words(row: Row, runs: Mapping[str, Row]) -> str:
    """The objective of a run and what came before it, such as ``simmim after mae n64 short``.

    The model and the subset of the run before stand there where they are others. A branch of a trunk is the run of its length, and
    has no words of its own (docs/training.md).

    Args:
        row: of the run.
        runs: a row of each run of the study.
    """
    return f"{row.objective}{_before(row, runs)}"


def _before(row: Row, runs: Mapping[str, Row]) -> str:
    if row.after is None:
        return ""
    if row.after not in runs:
        raise UserError(f"the results of {row.run} follow {row.after}, which they lack; run 'dvc repro collect'.")
    at = runs[row.after]
    if row.use == "state":
        return _before(at, runs)
    others = [str(getattr(at, key)) for key in ("model", "subset") if getattr(at, key) != getattr(row, key)]
    how = "taught by" if row.use == "teacher" else "after"
    return " ".join(["", how, str(at.objective), *others, str(at.schedule)]) + _before(at, runs)


def _run(name: str, rows: Sequence[Row], runs: Mapping[str, Row]) -> Run:
    first = rows[0]
    facts = (first.unique_images, first.images_seen, first.encoder_params)
    if None in facts or None in (first.objective, first.model, first.schedule):
        raise UserError(f"the results of {name} lack its coordinates or its facts; run 'dvc repro collect'.")
    values = {(row.task, row.metric): row.value for row in rows}
    after = None if first.use == "state" else name.partition(AFTER)[2] or None
    for key in (VAL_LOSS, SEEN_LOSS, VAL_MINIMUM) if first.source == MADE else (VAL_LOSS,):
        if key not in values:
            raise UserError(f"the results of {name} lack {key[1]}; run 'dvc repro collect'.")
    return Run(
        name=name,
        setting=Setting(objective_in_words(first, runs), str(first.model), str(first.schedule)),
        subset=str(first.subset),
        seed=str(first.seed),
        unique_images=int(first.unique_images or 0),
        images_seen=int(first.images_seen or 0),
        encoder_params=int(first.encoder_params or 0),
        flops=float(first.flops or 0.0),
        values=values,
        errors={(row.task, row.metric): row.standard_error for row in rows},
        after=after,
        source=first.source,
        pool=first.pool,
    )


def _sortable(value: Any) -> tuple[bool, Any]:
    return (value is not None, value if value is not None else 0)
