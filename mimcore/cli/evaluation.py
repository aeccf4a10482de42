"""Verbs that ask what a model is worth."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimcore import layout, registry
from mimcore.cli.base import PARAMS, PREPARE, WORK, ModelName, Params, PoolName, RunName, TaskName, app
from mimcore.errors import UserError
from mimcore.study import Study

if TYPE_CHECKING:
    from mimcore.evaluation.job import Job


class Pooled(StrEnum):
    """How an encoder's tokens become one feature."""

    mean = "mean"
    cls = "cls"


@app.command(rich_help_panel=PREPARE)
def features(
    pool: PoolName,
    run: Annotated[str | None, typer.Option(help="Name of a run whose encoder to take.")] = None,
    timm: Annotated[str | None, typer.Option(help="Name of a pretrained timm model to take.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The timm model's weights; fetched if not given.")] = None,
    pooling: Annotated[Pooled, typer.Option(help="Of a run's encoder.")] = Pooled.mean,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 256,
    out: Annotated[Path | None, typer.Option(help="File to write; features/POOL-MODEL.parquet by default.")] = None,
    params: Params = PARAMS,
) -> None:
    """Write features of a pool's training images, for the strategies that draw by them."""
    from mimcore.data.loader import Images
    from mimcore.data.splits import read_split
    from mimcore.evaluation.vectors import of_run, of_timm, write_vectors
    from mimcore.progress import Meter

    if (run is None) == (timm is None):
        raise UserError("one of --run and --timm is needed: whose features?")
    study = Study.read(params)
    options, device = study.options("pools", pool), study.execution.start()
    extract, size, channels = (
        of_timm(str(timm), checkpoint, device) if run is None else of_run(layout.run(run), pooling.value, device)
    )
    rows = read_split(layout.index(pool), "train", ["key", "shard", "offset", "length", "checksum"])
    images = Images(options, rows, size, Path.cwd(), channels=channels)
    file = out or Path("features") / f"{pool}-{run or timm}.parquet"
    with Meter(f"features {pool}", len(images)) as meter:
        digest = write_vectors(file, extract, images, device, batch_size, study.execution.workers, meter.update)
    print(f"{file}: {len(images):,} images.")
    print(f"In a subset: features: {{path: {file}, sha256: {digest[:16]}}}")


@app.command(rich_help_panel=WORK)
def evaluate(run: RunName, task: TaskName, params: Params = PARAMS) -> None:
    """Evaluate a run on a task."""
    from mimcore.evaluation.run import evaluate_run

    study = Study.read(params)
    _refuse_probe(study, task, "probe RUN")
    definition = {"task": study.declared_task(task), "run": study.declared_run(run)}
    title, output = f"evaluate {run} {task}", layout.evaluation(run, task)
    with job(study, task, definition, layout.examples(task), output, title) as given:
        found = evaluate_run(run, layout.run(run), given)
    print_subjects(found)


@app.command(rich_help_panel=WORK)
def floor(model: ModelName, task: TaskName, params: Params = PARAMS) -> None:
    """Evaluate what costs nothing: the untrained model and, where the task can, raw pixels."""
    from mimcore.evaluation.run import evaluate_floor

    study = Study.read(params)
    _refuse_probe(study, task, "probe-floor MODEL")
    definition = {"task": study.declared_task(task), "model": study.options("models", model)}
    title, output = f"floor {model} {task}", layout.floor(model, task)
    with job(study, task, definition, layout.examples(task), output, title) as given:
        found = evaluate_floor(model, given)
    print_subjects(found)


def _refuse_probe(study: Study, task: str, verb: str) -> None:
    if study.module("tasks", task) in registry.names("probe"):
        raise UserError(f"'{task}' is a probe on frozen features: mimcore {verb} {task}.")


@contextmanager
def job(study: Study, name: str, definition: dict[str, Any], inputs: Path, output: Path, title: str) -> "Iterator[Job]":
    """What a stage is given beside its subject, with its progress shown."""
    from mimcore.evaluation.job import Job
    from mimcore.progress import Phases

    of = definition.get("features", definition.get("task", {}))
    pool = study.options("pools", str(of["pool"]))
    others = study.shifted_of("tasks", name) if "task" in definition else []
    device = study.execution.start()
    with Phases(title) as progress:
        yield Job(
            name=name,
            definition=definition,
            inputs=inputs,
            output=output,
            provenance=layout.provenance(output),
            execution=study.execution,
            device=device,
            progress=progress,
            pool=pool,
            root=Path.cwd(),
            shifted={other: study.options("pools", other) for other in others},
        )


def print_subjects(found: dict[str, Any]) -> None:
    """Print the metrics of each subject, and why there are none."""
    for subject, metrics in found["subjects"].items():
        numbers = ", ".join(
            f"{name} {value['value']:.4f}" + (f" ± {value['standard_error']:.4f}" if value["standard_error"] else "")
            for name, value in metrics.items()
        )
        print(f"{subject}: {numbers}")
    if "not_applicable" in found:
        print(f"not applicable: {found['not_applicable']}")
