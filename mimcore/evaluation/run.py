"""Stages ``evaluate`` and ``floor``: what a run is worth on a task, and what costs nothing is worth on it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pyarrow.parquet as pq
import torch

from mimcore import registry
from mimcore.artifacts import Provenance, file_digest, read_json
from mimcore.data.loader import Images
from mimcore.definition import resolve
from mimcore.evaluation.features import Pixels
from mimcore.evaluation.job import Job, about, measure
from mimcore.evaluation.task import Context, Data, NotApplicable, TaskConfig, seed_number, seeded
from mimcore.models import encoder as encoders
from mimcore.models.encoder import Encoder

Subjects = Mapping[str, Encoder | Pixels]


def evaluate_run(run_name: str, run: Path, job: Job) -> dict[str, Any]:
    """Evaluate a run's encoder on a task and write ``metrics.json`` and pictures.

    Args:
        run_name: for the record.
        run: folder with ``encoder.safetensors`` and ``model.json``.
        job: everything else.

    Returns:
        What ``metrics.json`` holds; of a run that left its encoder as it was, that the task is not repeated.

    Raises:
        UserError: any mistake in the options, the pool or the run.
    """
    inputs = {"encoder": file_digest(run / "encoder.safetensors"), **job.digests()}
    record = Provenance(job.provenance, f"evaluate {run_name} {job.name}", job.definition, inputs)
    seed = str(job.definition["run"]["seed"])
    with record:
        if origin := read_json(run / "metrics.json").get("encoder_of"):
            return measure(job, task_of(job), {"run": partial(_refer_to, origin)}, seed, run)
        return _measure({"run": encoders.load(run)}, job, record, seed, run)


def evaluate_floor(model_name: str, job: Job, seed: str = "s0") -> dict[str, Any]:
    """Evaluate a model with its initial weights and, where the task can, raw pixels; write ``metrics.json`` and pictures.

    Args:
        model_name: ``<name>`` of ``models.<name>``.
        job: everything else.
        seed: of the initial weights and of the task.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UserError: any mistake in the options or the pool.
    """
    record = Provenance(job.provenance, f"floor {model_name} {job.name}", job.definition, job.digests())
    with record:
        subjects = floors(model_name, job.definition["model"], seed)
        if not task_of(job).PIXELS:
            subjects.pop("pixels")
        return _measure(subjects, job, record, seed, None)


def floors(model_name: str, options: Mapping[str, Any], seed: str) -> dict[str, Encoder | Pixels]:
    """A model with its initial weights, and pixels of the same size."""
    model = resolve(encoders.Config, options, f"models.{model_name}")
    with seeded(seed_number("floor", seed), torch.device("cpu")):
        untrained = encoders.build(model)
    return {"untrained": untrained, "pixels": Pixels(model.image_size, model.channels)}


def data_of(job: Job, subject: Encoder | Pixels) -> Data:
    """The images to train and test on, at the subject's size."""
    card = read_json(job.inputs / "card.json")
    parts = {part: pq.read_table(job.inputs / f"{part}.parquet") for part in ("train", "test")}
    cache = job.execution.image_cache_mib // 2
    train, test = (
        Images(job.pool, rows, subject.image_size, job.root, cache, subject.channels) for rows in parts.values()
    )
    return Data(train, test, card["classes"], card["box_classes"])


def task_of(job: Job) -> ModuleType:
    """The module of the task."""
    return registry.load("task", str(job.definition["task"]["module"]))


def _refer_to(origin: str, context: Context) -> NoReturn:
    raise NotApplicable(f"its encoder is that of '{origin}', bit for bit: see what that run is worth")


def _measure(subjects: Subjects, job: Job, record: Provenance, seed: str, run: Path | None) -> dict[str, Any]:
    """Evaluate each subject and write the artifact."""
    task = task_of(job)
    options = {name: value for name, value in job.definition["task"].items() if name != "module"}
    config: TaskConfig = resolve(task.Config, options, f"tasks.{job.name}")
    data = data_of(job, next(iter(subjects.values())))
    record.record |= {"resolved": {"task": config.model_dump(mode="json")}} | about(job)
    asked = {
        name: (lambda context, subject=subject: task.evaluate(subject, config, data, context))
        for name, subject in subjects.items()
    }
    return measure(job, task, asked, seed, run)
