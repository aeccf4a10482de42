"""Stages ``evaluate`` and ``floor``: what a run is worth on a task, and what costs nothing is worth on it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import torch

from mimcore import registry
from mimcore.artifacts import Provenance, directory, file_digest, libraries, read_json, write_json
from mimcore.data.loader import Images
from mimcore.definition import resolve
from mimcore.evaluation.features import Pixels
from mimcore.evaluation.task import Context, Data, TaskConfig, Value, check_annotated, seed_number, seeded
from mimcore.models import encoder as encoders
from mimcore.models.encoder import Encoder

if TYPE_CHECKING:
    from mimcore.execution import Execution

#: Told of the phase, images done, images in all, and a few words.
Progress = Callable[[str, int, int, str], None]
Subjects = Mapping[str, Encoder | Pixels]


def evaluate_run(
    run_name: str,
    run: Path,
    task_name: str,
    definition: Mapping[str, Any],
    pool: Mapping[str, Any],
    examples: Path,
    output: Path,
    provenance: Path,
    root: Path,
    execution: "Execution",
    device: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate a run's encoder on a task and write ``metrics.json`` and pictures.

    Args:
        run_name: for the record.
        run: folder with ``encoder.safetensors`` and ``model.json``.
        task_name: ``<name>`` of ``tasks.<name>``.
        definition: what is declared of the ``task`` (with its ``module``) and of the ``run``; recorded as it is.
        pool: options of the task's pool, for where its images lie.
        examples: folder with the rows to train and test on.
        output: folder to write, whole or not at all.
        provenance: file of the provenance record.
        root: relative paths of the pool start here.
        execution: what changes only the speed.
        device: where to compute.
        progress: is told of each phase.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UserError: any mistake in the options, the pool or the run.
    """
    inputs = {"encoder": file_digest(run / "encoder.safetensors"), **_digests(examples)}
    record = Provenance(provenance, f"evaluate {run_name} {task_name}", definition, inputs)
    with record:
        subjects = {"run": encoders.load(run)}
        seed = str(definition["run"]["seed"])
        found = _measure(
            subjects, task_name, definition, pool, examples, output, record, root, execution, device, progress, seed
        )
        record.record |= {"device": str(device), "threads": torch.get_num_threads()}
    return found


def evaluate_floor(
    model_name: str,
    task_name: str,
    definition: Mapping[str, Any],
    pool: Mapping[str, Any],
    examples: Path,
    output: Path,
    provenance: Path,
    root: Path,
    execution: "Execution",
    device: torch.device,
    progress: Progress,
    seed: str = "s0",
) -> dict[str, Any]:
    """Evaluate a model with its initial weights and, where the task can, raw pixels; write ``metrics.json`` and pictures.

    Args:
        model_name: ``<name>`` of ``models.<name>``.
        task_name: and the rest: as in ``evaluate_run``.
        definition: what is declared of the ``task`` and of the ``model``.
        pool: see there.
        examples: see there.
        output: see there.
        provenance: see there.
        root: see there.
        execution: see there.
        device: see there.
        progress: see there.
        seed: of the initial weights and of the task.

    Raises:
        UserError: any mistake in the options or the pool.
    """
    record = Provenance(provenance, f"floor {model_name} {task_name}", definition, _digests(examples))
    with record:
        model = resolve(encoders.Config, definition["model"], f"models.{model_name}")
        with seeded(seed_number("floor", seed), torch.device("cpu")):
            subjects: dict[str, Encoder | Pixels] = {"untrained": encoders.build(model)}
        if registry.load("task", definition["task"]["module"]).PIXELS:
            subjects["pixels"] = Pixels(model.image_size)
        found = _measure(
            subjects, task_name, definition, pool, examples, output, record, root, execution, device, progress, seed
        )
        record.record |= {"device": str(device), "threads": torch.get_num_threads()}
    return found


def _digests(examples: Path) -> dict[str, str]:
    return {part: file_digest(examples / f"{part}.parquet") for part in ("train", "test")}


def _measure(
    subjects: Subjects,
    task_name: str,
    definition: Mapping[str, Any],
    pool: Mapping[str, Any],
    examples: Path,
    output: Path,
    record: Provenance,
    root: Path,
    execution: "Execution",
    device: torch.device,
    progress: Progress,
    seed: str,
) -> dict[str, Any]:
    """Evaluate each subject and write the artifact."""
    options = dict(definition["task"])
    task = registry.load("task", options.pop("module"))
    where = f"tasks.{task_name}"
    config: TaskConfig = resolve(task.Config, options, where)
    image_size = next(iter(subjects.values())).image_size
    card = read_json(examples / "card.json")
    parts = {part: pq.read_table(examples / f"{part}.parquet") for part in ("train", "test")}
    images = {
        part: Images(pool, rows, image_size, root, execution.image_cache_mib // 2) for part, rows in parts.items()
    }
    data = Data(images["train"], images["test"], card["classes"], card["box_classes"])
    for part in images.values():
        check_annotated(part, task.NEEDS, where, config.pool)
    found: dict[str, Any] = {}
    with directory(output) as folder:
        for subject_name, subject in subjects.items():
            context = Context(
                device=device,
                seed=seed_number(where, seed),
                folder=folder,
                where=where,
                workers=execution.workers,
                cache_mib=execution.image_cache_mib,
                progress=partial(_tell, progress, subject_name),
            )
            found[subject_name] = _described(task, task.evaluate(subject, config, data, context))
        record.record["resolved"] = {"task": config.model_dump(mode="json")}
        metrics = {"definition": dict(definition), "libraries": libraries(), "subjects": found}
        write_json(folder / "metrics.json", metrics)
    return metrics


def _tell(progress: Progress, subject: str, phase: str, done: int, total: int) -> None:
    progress(phase if subject == "run" else f"{subject}, {phase}", done, total, "")


def _described(task: ModuleType, values: Mapping[str, Value]) -> dict[str, dict[str, Any]]:
    """Put each value beside what its metric means."""
    headline = next(iter(task.METRICS))
    return {
        name: asdict(value) | {"higher_is_better": task.METRICS[name].higher_is_better, "headline": name == headline}
        for name, value in values.items()
    }
