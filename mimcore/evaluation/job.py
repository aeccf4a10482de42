"""What the stages of this room are given beside their subject, and how they write what they measured."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from mimcore.artifacts import directory, file_digest, libraries, write_json
from mimcore.evaluation.task import Context, Metric, NotApplicable, Value, metrics_of, seed_number

if TYPE_CHECKING:
    from mimcore.execution import Execution

#: Told of the phase, images done, images in all, and a few words.
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Job:
    """What a stage is given beside its subject.

    Attributes:
        name: ``<name>`` of ``tasks.<name>`` or ``features.<name>``.
        definition: what is declared: the ``task`` (with its ``module``) or ``features`` or, of a probe, both, and the ``run`` or
            ``model``; recorded as it is.
        inputs: folder with the rows to train and test on or, of a probe, with features.
        output: folder to write, whole or not at all.
        provenance: file of the provenance record.
        execution: what changes only the speed.
        device: where to compute.
        progress: is told of each phase.
        pool: options of the pool, for where its images lie.
        root: relative paths of the pools start here.
        shifted: options of the other pools that a task names as ``shifted``, by their names.
    """

    name: str
    definition: Mapping[str, Any]
    inputs: Path
    output: Path
    provenance: Path
    execution: "Execution"
    device: torch.device
    progress: Progress
    pool: Mapping[str, Any]
    root: Path
    shifted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def digests(self) -> dict[str, str]:
        """Of the rows to train and test on, for the record."""
        parts = ("train", "test", *(f"shifted-{pool}" for pool in self.shifted))
        return {part: file_digest(self.inputs / f"{part}.parquet") for part in parts}

    def context(self, subject: str, where: str, seed: str, folder: Path, run: Path | None) -> Context:
        """Where and how work on a subject runs."""
        return Context(
            device=self.device,
            seed=seed_number(where, seed),
            folder=folder,
            where=where,
            workers=self.execution.workers,
            cache_mib=self.execution.image_cache_mib,
            progress=partial(_tell, self.progress, subject),
            run=run,
        )


def measure(
    job: Job,
    task: ModuleType,
    subjects: Mapping[str, Callable[[Context], Mapping[str, Value]]],
    seed: str,
    run: Path | None,
) -> dict[str, Any]:
    """Measure each subject and write ``metrics.json``, beside whatever pictures the task makes.

    Args:
        job: everything else.
        task: module of the task, for what its metrics mean.
        subjects: what measures each of them.
        seed: of the replicate.
        run: folder of the run that is measured, if it is one.

    Returns:
        What ``metrics.json`` holds: ``definition``, ``libraries``, ``subjects``, and ``not_applicable`` where the task has nothing to
        say of some subject.
    """
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    metrics = metrics_of(task, job.definition["task"])
    with directory(job.output) as folder:
        for subject, ask in subjects.items():
            try:
                found[subject] = _described(metrics, ask(job.context(subject, f"tasks.{job.name}", seed, folder, run)))
            except NotApplicable as reason:
                reasons[subject] = str(reason)
        written: dict[str, Any] = {"definition": dict(job.definition), "libraries": libraries(), "subjects": found}
        if reasons:
            written["not_applicable"] = next(iter(reasons.values()))
        write_json(folder / "metrics.json", written)
    return written


def about(job: Job) -> dict[str, Any]:
    """What the record says of where it ran."""
    return {"device": str(job.device), "threads": torch.get_num_threads()}


def _tell(progress: Progress, subject: str, phase: str, done: int, total: int) -> None:
    progress(phase if subject == "run" else f"{subject}, {phase}", done, total, "")


def _described(metrics: Mapping[str, Metric], values: Mapping[str, Value]) -> dict[str, dict[str, Any]]:
    """Put each value beside what its metric means; the first of the task's metrics that there is, is the headline."""
    headline = next(name for name in metrics if name in values)
    return {
        name: asdict(value) | {"higher_is_better": metrics[name].higher_is_better, "headline": name == headline}
        for name, value in values.items()
    }
