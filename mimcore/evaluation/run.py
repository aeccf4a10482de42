"""Stages ``evaluate`` and ``floor``: what a run is worth on a task, and what costs nothing is worth on it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
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
from mimcore.evaluation.task import Context, Data, TaskConfig, Value, seed_number, seeded
from mimcore.models import encoder as encoders
from mimcore.models.encoder import Encoder

if TYPE_CHECKING:
    from mimcore.execution import Execution

#: Told of the phase, images done, images in all, and a few words.
Progress = Callable[[str, int, int, str], None]
Subjects = Mapping[str, Encoder | Pixels]


@dataclass(frozen=True)
class Job:
    """What an evaluation is given beside its subject.

    Attributes:
        task_name: ``<name>`` of ``tasks.<name>``.
        definition: what is declared of the ``task`` (with its ``module``) and of the ``run`` or ``model``; recorded as it is.
        pool: options of the task's pool, for where its images lie.
        examples: folder with the rows to train and test on.
        output: folder to write, whole or not at all.
        provenance: file of the provenance record.
        root: relative paths of the pool start here.
        execution: what changes only the speed.
        device: where to compute.
        progress: is told of each phase.
    """

    task_name: str
    definition: Mapping[str, Any]
    pool: Mapping[str, Any]
    examples: Path
    output: Path
    provenance: Path
    root: Path
    execution: "Execution"
    device: torch.device
    progress: Progress

    def digests(self) -> dict[str, str]:
        """Of the rows to train and test on, for the record."""
        return {part: file_digest(self.examples / f"{part}.parquet") for part in ("train", "test")}


def evaluate_run(run_name: str, run: Path, job: Job) -> dict[str, Any]:
    """Evaluate a run's encoder on a task and write ``metrics.json`` and pictures.

    Args:
        run_name: for the record.
        run: folder with ``encoder.safetensors`` and ``model.json``.
        job: everything else.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UserError: any mistake in the options, the pool or the run.
    """
    inputs = {"encoder": file_digest(run / "encoder.safetensors"), **job.digests()}
    record = Provenance(job.provenance, f"evaluate {run_name} {job.task_name}", job.definition, inputs)
    with record:
        return _measure({"run": encoders.load(run)}, job, record, str(job.definition["run"]["seed"]))


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
    record = Provenance(job.provenance, f"floor {model_name} {job.task_name}", job.definition, job.digests())
    with record:
        model = resolve(encoders.Config, job.definition["model"], f"models.{model_name}")
        with seeded(seed_number("floor", seed), torch.device("cpu")):
            subjects: dict[str, Encoder | Pixels] = {"untrained": encoders.build(model)}
        if registry.load("task", job.definition["task"]["module"]).PIXELS:
            subjects["pixels"] = Pixels(model.image_size, model.channels)
        return _measure(subjects, job, record, seed)


def _measure(subjects: Subjects, job: Job, record: Provenance, seed: str) -> dict[str, Any]:
    """Evaluate each subject and write the artifact."""
    options = dict(job.definition["task"])
    task = registry.load("task", options.pop("module"))
    where = f"tasks.{job.task_name}"
    config: TaskConfig = resolve(task.Config, options, where)
    subject = next(iter(subjects.values()))
    image_size, channels = subject.image_size, subject.channels
    card = read_json(job.examples / "card.json")
    parts = {part: pq.read_table(job.examples / f"{part}.parquet") for part in ("train", "test")}
    cache = job.execution.image_cache_mib // 2
    images = {part: Images(job.pool, rows, image_size, job.root, cache, channels) for part, rows in parts.items()}
    data = Data(images["train"], images["test"], card["classes"], card["box_classes"])
    found: dict[str, Any] = {}
    with directory(job.output) as folder:
        for subject_name, subject in subjects.items():
            context = Context(
                device=job.device,
                seed=seed_number(where, seed),
                folder=folder,
                where=where,
                workers=job.execution.workers,
                cache_mib=job.execution.image_cache_mib,
                progress=partial(_tell, job.progress, subject_name),
            )
            found[subject_name] = _described(task, task.evaluate(subject, config, data, context))
        record.record["resolved"] = {"task": config.model_dump(mode="json")}
        record.record |= {"device": str(job.device), "threads": torch.get_num_threads()}
        metrics = {"definition": dict(job.definition), "libraries": libraries(), "subjects": found}
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
