"""The few numbers and thin tables of a study that DVC shows: ``dvc exp show`` and ``dvc plots show``."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mimcore.scaling.table import PRETRAIN, VAL_LOSS, Row, floor_rows, headlines_of, runs_of

#: Points of a run's curve that ``curves.csv`` keeps; enough for a plot.
THIN = 40
#: From this many tasks on, ``headline.json`` leaves out the floors: ``dvc exp show`` has a column for each number.
MANY_TASKS = 5


def headline(rows: Sequence[Row]) -> dict[str, Any]:
    """The few numbers of a study that stand in ``dvc exp show``: its best, beside the floors."""
    runs = runs_of(rows)
    found: dict[str, Any] = {"runs": len(runs), "val_loss": {}}
    for objective in dict.fromkeys(run.setting.objective for run in runs):
        found["val_loss"][objective] = min(run.values[VAL_LOSS] for run in runs if run.setting.objective == objective)
    tasks = [measure for measure in headlines_of(rows) if measure.task != PRETRAIN]
    for measure in tasks:
        best = max if measure.higher_is_better else min
        key = (measure.task, measure.metric)
        numbers = {"best": best(run.values[key] for run in runs if key in run.values)}
        floors = [row.value for row in floor_rows(rows, measure)]
        if floors and len(tasks) < MANY_TASKS:
            numbers["floor"] = best(floors)
        found.setdefault("tasks", {})[measure.task] = {measure.metric: numbers}
    return found


def scaling_points(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield a row for each run: unique images, the series it belongs to (setting, and pool of several), and the headline of each task."""
    measures, runs = headlines_of(rows), runs_of(rows)
    several = len({run.pool for run in runs}) > 1
    for run in runs:
        values = {
            (measure.metric if measure.task == PRETRAIN else f"{measure.task}_{measure.metric}"): run.values.get(
                measure[:2]
            )
            for measure in measures
        }
        series = "-".join([*run.setting, *([run.pool or "unknown"] if several else [])])
        yield {"unique_images": run.unique_images, "series": series, "seed": run.seed, **values}


def curve_points(curves: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the validation and seen losses of each run's curve, thinned evenly to ``THIN`` points and both ends."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for point in curves:
        if point["split"] != "train":
            grouped[point["run"], point["split"]].append(point)
    for (run, split), points in grouped.items():
        kept = (
            {round(i * (len(points) - 1) / (THIN - 1)) for i in range(THIN)}
            if len(points) > THIN
            else range(len(points))
        )
        for i in sorted(kept):
            series = run if split == "val" else f"{run} {split}"
            yield {"images_seen": points[i]["images_seen"], "loss": points[i]["loss"], "series": series}


def write_csv(path: Path, points: Iterable[Mapping[str, Any]]) -> None:
    """Write rows that share their keys as CSV."""
    points = list(points)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(points[0]) if points else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)
