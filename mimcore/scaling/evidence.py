"""What stands behind the numbers of the report: every run, pictures, and the time, memory and devices of the stages."""

import base64
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mimcore.scaling.numbers import count, duration, measured, number
from mimcore.scaling.pools import by_pool
from mimcore.scaling.table import MADE, Row, Run, runs_of, settings_of


def pictures(runs: Sequence[Run], folder: Path) -> list[dict[str, str]]:
    """Reconstructions of the last setting (largest model, longest schedule) on the smallest and the largest subset of its first pool."""
    last = settings_of(runs)[-1]
    chosen = next(iter(by_pool([run for run in runs if run.setting == last]).values()))
    seed = chosen[0].seed
    of_seed = [run for run in chosen if run.seed == seed]
    found = []
    for run in dict.fromkeys(run.name for run in (of_seed[0], of_seed[-1])):
        path = folder / run / "reconstructions.png"
        if path.is_file():
            images = next(count(one.unique_images) for one in of_seed if one.name == run)
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            found.append({"name": run, "images": images, "data": data})
    return found


def everything(rows: Sequence[Row]) -> dict[str, Any]:
    """Every metric of every run."""
    runs = runs_of(rows)
    keys = list(dict.fromkeys((row.task, row.metric) for row in rows if row.kind == "run" and row.source == MADE))
    return {
        "columns": [f"{task} {metric}" for task, metric in keys],
        "runs": [
            {
                "name": run.name,
                "unique_images": count(run.unique_images),
                "images_seen": count(run.images_seen),
                "flops": number(run.flops),
                "cells": [measured(run.values[key], run.errors[key]) if key in run.values else "" for key in keys],
            }
            for run in runs
        ],
    }


def peak_rates(curves: Sequence[Mapping[str, Any]]) -> list[float]:
    """The highest learning rate of each run."""
    peaks: dict[str, float] = {}
    for point in curves:
        if point["learning_rate"] is not None:
            peaks[point["run"]] = max(peaks.get(point["run"], 0.0), point["learning_rate"])
    return list(peaks.values())


def provenance(runs: Sequence[Run], folder: Path) -> list[dict[str, str]]:
    """Times, memory and devices of each stage, added up over the records of this study's runs and of shared stages."""
    known = {run.name for run in runs}
    totals: dict[str, dict[str, Any]] = defaultdict(
        lambda: {"records": 0, "seconds": 0.0, "memory": 0, "devices": set()}
    )
    for record in _records(folder, known):
        total = totals[str(record.get("stage", "?"))]
        total["records"] += 1
        total["seconds"] += float(record.get("wall_seconds", 0))
        total["memory"] = max(total["memory"], int(record.get("peak_memory_mib", 0)))
        total["devices"].add(str(record.get("device", "cpu")))
    return [
        {
            "stage": stage,
            "records": str(total["records"]),
            "time": duration(total["seconds"]),
            "memory": f"{total['memory']:,} MiB",
            "devices": ", ".join(sorted(total["devices"])),
        }
        for stage, total in sorted(totals.items())
    ]


def _records(folder: Path, known: set[str]) -> Iterator[Mapping[str, Any]]:
    for path in sorted(folder.rglob("*.json")) if folder.is_dir() else []:
        names = {path.stem, *path.relative_to(folder).parts}
        # Records of runs that the study no longer names may lie beside.
        if names & {"runs", "evals"} and not names & known:
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict):
            yield record


def pace(runs: Sequence[Run], folder: Path) -> float | None:
    """Seconds that a FLOP of pretraining took, over all runs of which there is a record; None without one."""
    seconds = flops = 0.0
    for run in runs:
        path = next(
            (path for path in (folder / f"{run.name}.json", folder / "runs" / f"{run.name}.json") if path.is_file()),
            None,
        )
        if path is not None and run.flops > 0:
            seconds += float(json.loads(path.read_text(encoding="utf-8")).get("wall_seconds", 0))
            flops += run.flops
    return seconds / flops if seconds > 0 else None
