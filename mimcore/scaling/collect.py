"""Gather the numbers of a study into one tidy table, refusing whatever was made by other definitions."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mimcore import artifacts
from mimcore.errors import UserError
from mimcore.scaling.export import curve_points, headline, scaling_points, write_csv
from mimcore.scaling.imported import COORDINATES, FACTS, read_imported, rows_of, with_pools
from mimcore.scaling.table import OF_PHASES, POOL, PRETRAIN, VAL_LOSS, VAL_MINIMUM, Row, write_results

#: Columns of ``curves.parquet``: every run's curve beside its coordinates.
CURVES = pa.schema(
    [
        *[(name, pa.string()) for name in ("run", *COORDINATES)],
        ("unique_images", pa.int64()),
        ("images_seen", pa.int64()),
        ("split", pa.string()),
        *[(name, pa.float64()) for name in ("loss", "learning_rate", "grad_norm")],
    ]
)


def collect(
    study: Mapping[str, Any], artifact_root: Path, output: Path, imported: Path = Path("imported.json")
) -> dict[str, Any]:
    """Write the results of a study: tables, the headline metric, and what DVC plots.

    Args:
        study: ``title``, ``runs`` (name to ``coordinates``, ``definition`` and, of a phase, ``after`` and ``use``), ``evals`` (run
            to task to definition) and ``floors`` (model to task to definition), all resolved. Nothing else that lies in the
            folder is taken.
        artifact_root: the folder with ``runs``, ``evals`` and ``floors``.
        output: the folder to write: ``results.parquet``, ``curves.parquet``, ``headline.json``, ``notes.json`` (title,
            library versions, how many runs were imported from which table, which task has nothing to say of which runs),
            ``scaling.csv`` and ``curves.csv``.
        imported: the file of runs that were finished elsewhere; it may be missing. Their rows have the source ``imported``.

    Returns:
        ``runs``, ``imported`` and ``rows`` (counts), ``warnings`` and ``not_applicable`` (sentences).

    Raises:
        UserError: an artifact is missing, was made by another definition, or lacks a number; an imported run has the name of one
            of the study's, or another pool than the study's subset of that name.
    """
    elsewhere = read_imported(imported)
    pools = {run["coordinates"]["subset"]: _pool(run) for run in study["runs"].values()}
    strangers = with_pools(rows_of(elsewhere, study["runs"], imported), pools)
    _refuse_missing(study, artifact_root)
    versions: dict[str, set[str]] = defaultdict(set)
    rows: list[Row] = []
    curves: list[dict[str, Any]] = []
    loaded: dict[str, dict[str, Any]] = {}
    alone: dict[str, dict[str, Any]] = {}
    absent: dict[str, list[str]] = defaultdict(list)
    for name, run in sorted(study["runs"].items()):
        folder = artifact_root / "runs" / name
        loaded[name] = _load(folder, run["definition"], versions)
        alone[name] = _facts(folder, loaded[name], run["coordinates"]) | {POOL: _pool(run)}
    for name, metrics in loaded.items():
        folder = artifact_root / "runs" / name
        facts = alone[name] | _with_before(name, study["runs"], alone)
        curve = _curve(folder / "curve.parquet")
        rows += _run_rows(name, folder, metrics, curve, facts)
        curves += [{"run": name, **alone[name], **point} for point in curve]
        for task, definition in sorted(study["evals"].get(name, {}).items()):
            path = artifact_root / "evals" / name / task
            found = _load(path, definition, versions)
            if reason := found.get("not_applicable"):
                absent[f"{task}: {reason}"].append(name)
            rows += _subject_rows(path, found, task, {"run": name, **facts})
    for model, tasks in sorted(study["floors"].items()):
        for task, definition in sorted(tasks.items()):
            path = artifact_root / "floors" / model / task
            rows += _subject_rows(path, _load(path, definition, versions), task, {"model": model})
    with artifacts.directory(output) as folder:
        files = dict(sorted(Counter(one["file"] for one in elsewhere).items()))
        notes = {
            "title": str(study.get("title", "Scaling study")),
            "libraries": {name: sorted(found) for name, found in sorted(versions.items())},
            "warnings": mixed_libraries(versions),
            "imported": files,
            "not_applicable": not_applicable(absent),
        }
        _write(folder, [*rows, *strangers], curves, notes)
    return {
        "runs": len(study["runs"]),
        "imported": len(elsewhere),
        "rows": len(rows),
        "warnings": notes["warnings"],
        "not_applicable": notes["not_applicable"],
    }


def not_applicable(absent: Mapping[str, Sequence[str]]) -> list[str]:
    """Say which runs a task has no number of, and why.

    Args:
        absent: names of runs by the task and its reason.
    """
    found = []
    for why, runs in sorted(absent.items()):
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        found.append(f"{why.rstrip('.')} ({runs[0]}{more}).")
    return found


def mixed_libraries(versions: Mapping[str, Iterable[str]]) -> list[str]:
    """Say which libraries differ in version between the artifacts: such results may differ for that reason alone."""
    return [
        f"the artifacts mix {name} {' and '.join(sorted(found))}; 'dvc repro --force' makes them alike."
        for name, found in sorted(versions.items())
        if len(set(found)) > 1
    ]


def _refuse_missing(study: Mapping[str, Any], root: Path) -> None:
    wanted = [root / "runs" / name / file for name in study["runs"] for file in ("metrics.json", "curve.parquet")]
    for kind in ("evals", "floors"):
        wanted += [root / kind / of / task / "metrics.json" for of, tasks in study[kind].items() for task in tasks]
    missing = sorted(path for path in wanted if not path.is_file())
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]} is missing{more}; bring the study up to date with 'dvc repro'.")


def _load(folder: Path, definition: Mapping[str, Any], versions: dict[str, set[str]]) -> dict[str, Any]:
    """Read ``metrics.json`` and refuse it unless it was made by ``definition``."""
    path = folder / "metrics.json"
    metrics: dict[str, Any] = artifacts.read_json(path)
    for part in ("definition", "libraries"):
        if not isinstance(metrics, dict) or not isinstance(metrics.get(part), dict):
            raise UserError(f"{path} has no '{part}'; delete {folder} and run 'dvc repro'.")
    recorded, wanted = metrics["definition"], json.loads(json.dumps(definition))
    if recorded != wanted:
        field, was, now = next(_differences(recorded, wanted, ""))
        raise UserError(f"{folder} was made with {field} = {was}, but the study says {now}; run 'dvc repro'.")
    for library, version in metrics["libraries"].items():
        versions[library].add(str(version))
    return metrics


def _differences(recorded: Any, wanted: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Yield (dotted field, recorded, wanted) in the order of the fields."""
    if isinstance(recorded, dict) and isinstance(wanted, dict):
        for key in sorted({*recorded, *wanted}):
            below = f"{path}.{key}" if path else key
            if key not in recorded or key not in wanted:
                was, now = (json.dumps(part[key]) if key in part else "nothing" for part in (recorded, wanted))
                yield below, was, now
            else:
                yield from _differences(recorded[key], wanted[key], below)
    elif recorded != wanted:
        yield path, json.dumps(recorded), json.dumps(wanted)


def _pool(run: Mapping[str, Any]) -> str | None:
    """The pool that a run's subset is drawn from, as declared."""
    found = run["definition"].get("subset", {}).get(POOL)
    return None if found is None else str(found)


def _facts(folder: Path, metrics: Mapping[str, Any], coordinates: Mapping[str, str]) -> dict[str, Any]:
    facts = metrics.get("facts", {})
    found: dict[str, Any] = {name: str(coordinates[name]) for name in COORDINATES}
    for name in FACTS:
        value = _finite(facts.get(name), f"{folder / 'metrics.json'}: facts.{name}")
        if value <= 0:
            raise UserError(f"{folder / 'metrics.json'}: facts.{name} is {value:g}, not positive; run 'dvc repro'.")
        found[name] = value if name == "flops" else int(value)
    return found


def _with_before(name: str, runs: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a run follows, and its images and operations with those of all runs before it.

    A branch has seen what its trunk saw up to its state: its own facts count that, and before it came what came before the trunk.
    """
    images, flops = facts[name]["images_seen"], facts[name]["flops"]
    after, use = runs[name].get("after"), runs[name].get("use")
    if after is not None:
        before = _with_before(after, runs, facts)
        share = facts[after] if use == "state" else {"images_seen": 0, "flops": 0.0}
        images += before["total_images_seen"] - share["images_seen"]
        flops += before["total_flops"] - share["flops"]
    return {"after": after, "use": use, "total_images_seen": images, "total_flops": flops}


def _run_rows(
    name: str, folder: Path, metrics: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> Iterator[Row]:
    path = folder / "metrics.json"
    values = metrics.get("metrics", {})
    for needed in ("val_loss", "seen_loss", "train_loss"):
        if needed not in values:
            raise UserError(f"{path}: metrics.{needed} is missing; run 'dvc repro'.")
    validated = [point["loss"] for point in curve if point["split"] == "val"]
    if not validated:
        raise UserError(f"{folder / 'curve.parquet'} has no point of the split 'val'; run 'dvc repro'.")
    final = _finite(values["val_loss"], f"{path}: metrics.val_loss")
    for metric, value in [*values.items(), (VAL_MINIMUM[1], min(*validated, final))]:
        entry = {"value": value, "standard_error": None, "higher_is_better": False, "headline": metric == VAL_LOSS[1]}
        yield _row("run", PRETRAIN, metric, entry, {"run": name, **facts}, f"{path}: metrics.{metric}")


def _subject_rows(folder: Path, metrics: Mapping[str, Any], task: str, coordinates: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of an eval (its subject is ``run``) or of a floor (the others)."""
    path = folder / "metrics.json"
    subjects = metrics.get("subjects")
    known = {"run"} if "run" in coordinates else {"untrained", "pixels"}
    if not (subjects or metrics.get("not_applicable")) or not set(subjects or {}) <= known:
        raise UserError(f"{path}: subjects must be of {', '.join(sorted(known))}; delete {folder} and run 'dvc repro'.")
    for subject, entries in sorted((subjects or {}).items()):
        if sum(bool(entry.get("headline")) for entry in entries.values()) != 1:
            raise UserError(f"{path}: subjects.{subject} needs one headline metric; run 'dvc repro'.")
        for metric, entry in entries.items():
            yield _row(subject, task, metric, entry, coordinates, f"{path}: subjects.{subject}.{metric}")


def _row(kind: str, task: str, metric: str, entry: Mapping[str, Any], about: Mapping[str, Any], where: str) -> Row:
    error = entry.get("standard_error")
    known: dict[str, Any] = {name: about.get(name) for name in ("run", *COORDINATES, *FACTS, *OF_PHASES, POOL)}
    return Row(
        kind=kind,
        **known,
        task=task,
        metric=metric,
        value=_finite(entry.get("value"), f"{where}.value"),
        standard_error=None if error is None else _finite(error, f"{where}.standard_error"),
        higher_is_better=bool(entry["higher_is_better"]),
        headline=bool(entry["headline"]),
    )


def _curve(path: Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file ({error}); delete it and run 'dvc repro'.") from None
    needed = ("images_seen", "split", "loss", "learning_rate", "grad_norm")
    absent = [name for name in needed if name not in table.column_names]
    if absent:
        raise UserError(f"{path} lacks the columns {', '.join(absent)}; delete it and run 'dvc repro'.")
    points: list[dict[str, Any]] = table.select(list(needed)).to_pylist()
    for point in points:
        _finite(point["loss"], f"{path}: the {point['split']} loss at {point['images_seen']} images seen")
    return sorted(points, key=lambda point: (point["split"], point["images_seen"]))


def _finite(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        shown = "missing" if value is None else f"{value!r}, not a finite number"
        raise UserError(f"{where} is {shown}; find out why, delete the artifact and run 'dvc repro'.")
    return float(value)


def _write(folder: Path, rows: Sequence[Row], curves: list[dict[str, Any]], notes: Mapping[str, Any]) -> None:
    write_results(folder / "results.parquet", rows)
    pq.write_table(pa.Table.from_pylist(curves, schema=CURVES), folder / "curves.parquet")
    artifacts.write_json(folder / "headline.json", headline(rows))
    artifacts.write_json(folder / "notes.json", notes)
    write_csv(folder / "scaling.csv", scaling_points(rows))
    write_csv(folder / "curves.csv", curve_points(curves))
