"""The study in a table: what each setting reaches on its smallest and its largest subset."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mimcore.scaling.numbers import measured, number
from mimcore.scaling.pools import by_pool
from mimcore.scaling.table import (
    PRETRAIN,
    Measure,
    Row,
    Run,
    Setting,
    floor_rows,
    headlines_of,
    runs_of,
    settings_of,
)


@dataclass(frozen=True)
class Mean:
    """Mean over runs and its standard error; of one run, the error that the evaluation stated, if any."""

    value: float
    error: float | None

    def __str__(self) -> str:
        return measured(self.value, self.error)


@dataclass(frozen=True)
class Line:
    """One setting: its sizes, and the mean of each measure at the smallest and the largest of them.

    ``pool`` is what the subsets are of where the study has several, each of which is a line; None where it has one.
    """

    setting: Setting
    pool: str | None
    smallest: int
    largest: int
    ends: dict[Measure, tuple[Mean, Mean] | None]


def lines(rows: Sequence[Row]) -> list[Line]:
    """Summarise every setting of the study, on each pool by itself."""
    runs, measures = runs_of(rows), headlines_of(rows)
    return [
        _line(setting, pool, mine, measures)
        for setting in settings_of(runs)
        for pool, of in by_pool(runs).items()
        if (mine := [run for run in of if run.setting == setting])
    ]


def _line(setting: Setting, pool: str | None, runs: Sequence[Run], measures: Sequence[Measure]) -> Line:
    smallest, largest = (end(run.unique_images for run in runs) for end in (min, max))
    ends: dict[Measure, tuple[Mean, Mean] | None] = {}
    for measure in measures:
        first, last = (
            mean([run for run in runs if run.unique_images == size], measure) for size in (smallest, largest)
        )
        ends[measure] = (first, last) if first and last else None
    return Line(setting, pool, smallest, largest, ends)


def mean(runs: Sequence[Run], measure: Measure) -> Mean | None:
    """Mean of a measure over runs of one size, other seeds or draws; None where no run has it."""
    key = (measure.task, measure.metric)
    having = [run for run in runs if key in run.values]
    if not having:
        return None
    values = np.array([run.values[key] for run in having])
    if len(values) == 1:
        return Mean(float(values[0]), having[0].errors[key])
    return Mean(float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5))


def label(measure: Measure) -> str:
    """Name a measure for people: ``linear top1``, ``validation loss``."""
    if measure.task == PRETRAIN:
        return {"val_loss": "validation loss"}.get(measure.metric, measure.metric)
    return f"{measure.task} {measure.metric}"


def setting_label(setting: Setting, runs_or_settings: Sequence[Setting], pool: str | None = None) -> str:
    """Name a setting by what tells it from the others: the objective only where there are several, and the pool if it is given."""
    several = len({other.objective for other in runs_or_settings}) > 1
    return " ".join(setting if several else setting[1:]) + (f" ({pool})" if pool else "")


def floors(rows: Sequence[Row], measure: Measure) -> list[tuple[str, float]]:
    """Name and value of each floor of a measure, the same pixels of several models once."""
    found: dict[tuple[str, float], None] = {}
    for row in floor_rows(rows, measure):
        found[("pixels" if row.kind == "pixels" else f"untrained {row.model}", row.value)] = None
    return list(found)


def floor_text(rows: Sequence[Row], measure: Measure) -> str:
    """Say all floors of a measure in one line; empty where it has none."""
    return ", ".join(f"{name} {number(value)}" for name, value in floors(rows, measure))
