"""Evaluate a run's encoder, or the floors of a model, on a task: the stages ``evaluate`` and ``floor``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import torch

from mimcore import registry
from mimcore.artifacts import Provenance, directory, file_digest, libraries, read_json, write_json
from mimcore.data.loader import Images
from mimcore.definition import resolve
from mimcore.errors import UserError
from mimcore.evaluation.features import Pixels
from mimcore.evaluation.progress import Terminal
from mimcore.evaluation.task import Context, Data, TaskConfig, Value, check_annotated, seed_number, seeded
from mimcore.execution import Execution
from mimcore.models import encoder as encoders
from mimcore.models.encoder import Encoder

#: Seed of the floors: they are there once for a model and task, whatever the seeds of the study.
FLOOR_SEED = "s0"

Subject = Encoder | Pixels


@dataclass(frozen=True)
class Work:
    """A task with its options, and where it runs."""

    module: ModuleType
    config: TaskConfig
    where: str
    execution: Execution
    device: torch.device


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
    execution: Execution,
) -> dict[str, Any]:
    """Evaluate a run's encoder on a task; write ``metrics.json`` and the task's pictures.

    Args:
        run_name: for messages.
        run: folder with ``encoder.safetensors`` and ``model.json``.
        task_name: ``<name>`` of ``tasks.<name>``.
        definition: ``task`` (its options, with its ``module``) and ``run`` (with its ``seed``); recorded as it is.
        pool: options of the pool, for where its images lie.
        examples: folder with ``train.parquet``, ``test.parquet`` and ``card.json``.
        output: folder to write, whole or not at all.
        provenance: file of the provenance record.
        root: relative paths of the pool start here.
        execution: what changes only the speed.

    Returns:
        What ``metrics.json`` holds, its subject being ``run``.

    Raises:
        UserError: any mistake in the options, the pool or the run.
    """
    work = _prepare(task_name, definition["task"], execution)
    inputs = {"encoder": file_digest(run / "encoder.safetensors")} | _digests(examples)
    with Provenance(provenance, f"evaluate {run_name} {task_name}", definition, inputs) as record:
        subject = encoders.load(run)
        data = open_data(pool, examples, subject.image_size, root, execution)
        record.record["device"] = str(work.device)
        seed = str(definition["run"]["seed"])
        return _measure({"run": subject}, work, data, f"{run_name} {task_name}", seed, output, definition)


def evaluate_floor(
    model_name: str,
    task_name: str,
    definition: Mapping[str, Any],
    pool: Mapping[str, Any],
    examples: Path,
    output: Path,
    provenance: Path,
    root: Path,
    execution: Execution,
) -> dict[str, Any]:
    """Evaluate a model with its initial weights and, where the task can, raw pixels; write ``metrics.json``.

    Args:
        model_name: ``<name>`` of ``models.<name>``.
        task_name: ``<name>`` of ``tasks.<name>``.
        definition: ``task`` (its options, with its ``module``) and ``model`` (its options); recorded as it is.
        pool: options of the pool, for where its images lie.
        examples: folder with ``train.parquet``, ``test.parquet`` and ``card.json``.
        output: folder to write, whole or not at all.
        provenance: file of the provenance record.
        root: relative paths of the pool start here.
        execution: what changes only the speed.

    Returns:
        What ``metrics.json`` holds, its subjects being ``untrained`` and, if the task has ``PIXELS``, ``pixels``.

    Raises:
        UserError: any mistake in the options or the pool.
    """
    work = _prepare(task_name, definition["task"], execution)
    model = resolve(encoders.Config, definition["model"], f"models.{model_name}")
    with Provenance(provenance, f"floor {model_name} {task_name}", definition, _digests(examples)) as record:
        with seeded(seed_number("floor", FLOOR_SEED), torch.device("cpu")):
            subjects: dict[str, Subject] = {"untrained": encoders.build(model)}
        if work.module.PIXELS:
            subjects["pixels"] = Pixels(model.image_size)
        data = open_data(pool, examples, model.image_size, root, execution)
        record.record["device"] = str(work.device)
        return _measure(subjects, work, data, f"{model_name} {task_name}", FLOOR_SEED, output, definition)


def open_data(pool: Mapping[str, Any], examples: Path, image_size: int, root: Path, execution: Execution) -> Data:
    """Open the images of a task; each of the two splits has half of the memory for decoded images.

    Raises:
        UserError: a file is missing.
    """
    card = read_json(examples / "card.json")
    cache_mib = execution.image_cache_mib // 2
    parts = {}
    for part in ("train", "test"):
        try:
            rows = pq.read_table(examples / f"{part}.parquet")
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing; bring it up to date with 'dvc repro'.") from None
        parts[part] = Images(pool, rows, image_size, root, cache_mib)
    return Data(parts["train"], parts["test"], card.get("classes"), card.get("box_classes"))


def _prepare(task_name: str, declared: Mapping[str, Any], execution: Execution) -> Work:
    where = f"tasks.{task_name}"
    module = registry.load("task", str(declared["module"]))
    options = {key: value for key, value in declared.items() if key != "module"}
    config: TaskConfig = resolve(module.Config, options, where)
    return Work(module, config, where, execution, execution.start())


def _digests(examples: Path) -> dict[str, str]:
    return {part: file_digest(examples / f"{part}.parquet") for part in ("train", "test")}


def _measure(
    subjects: Mapping[str, Subject],
    work: Work,
    data: Data,
    title: str,
    seed: str,
    output: Path,
    definition: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluate each subject and write the artifact."""
    for images in (data.train, data.test):
        check_annotated(images, work.module.NEEDS, work.where, work.config.pool)
    found: dict[str, Any] = {}
    with directory(output) as folder:
        for name, subject in subjects.items():
            with Terminal(title if name == "run" else f"{title}, {name}") as progress:
                context = Context(
                    device=work.device,
                    seed=seed_number(work.where, seed),
                    folder=folder,
                    where=work.where,
                    workers=work.execution.workers,
                    cache_mib=work.execution.image_cache_mib,
                    progress=progress,
                )
                values = work.module.evaluate(subject, work.config, data, context)
            found[name] = _described(work.module, values)
        metrics = {"definition": dict(definition), "libraries": libraries(), "subjects": found}
        write_json(folder / "metrics.json", metrics)
    return metrics


def _described(module: ModuleType, values: Mapping[str, Value]) -> dict[str, dict[str, Any]]:
    """Put each value beside what its metric means."""
    headline = next(iter(module.METRICS))
    return {
        name: asdict(value) | {"higher_is_better": module.METRICS[name].higher_is_better, "headline": name == headline}
        for name, value in values.items()
    }
