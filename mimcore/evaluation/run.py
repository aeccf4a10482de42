"""Evaluate a run's encoder, or the floors of a model, on a task: the stages ``evaluate`` and ``floors``."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import torch

from mimcore import registry
from mimcore.artifacts import directory, libraries, read_json, write_json
from mimcore.data.loader import Images, pick, read_split
from mimcore.definition import resolve
from mimcore.errors import UserError
from mimcore.evaluation.features import Pixels
from mimcore.evaluation.progress import Terminal
from mimcore.evaluation.task import Context, Data, TaskConfig, Value, check_annotated, seed_number, seeded
from mimcore.execution import Execution
from mimcore.models import encoder as encoders
from mimcore.models.encoder import Encoder

#: Seed text of the images that a task trains and tests on: the same for every run, whatever its seed.
IMAGES_SEED = "evaluate"

Opener = Callable[[TaskConfig, Mapping[str, Any], Path, int, Path, Execution], Data]


def open_data(
    config: TaskConfig, pool_options: Mapping[str, Any], index: Path, image_size: int, root: Path, execution: Execution
) -> Data:
    """Open the images of a task.

    Args:
        config: the task's options.
        pool_options: ``pools.<name>``.
        index: folder of the pool's index.
        image_size: height and width that images are decoded to, pixels.
        root: folder that relative paths in ``pool_options`` start from.
        execution: memory for decoded images, of which each split gets half.

    Raises:
        UserError: more images are asked for than the pool has.
    """

    def split(name: str, images: int | None) -> Images:
        rows: pa.Table = read_split(index, name)
        if images is not None:
            if images > rows.num_rows:
                field = "train_images" if name == "train" else "test_images"
                raise UserError(
                    f"{field}: {images} images are asked for, but split '{name}' of pool '{config.pool}' has "
                    f"{rows.num_rows}; ask for fewer."
                )
            rows = pick(rows, images, IMAGES_SEED)
        return Images(pool_options, rows, image_size, root, execution.image_cache_mib // 2)

    card = read_json(index / "card.json")
    train, test = split("train", config.train_images), split("val", config.test_images)
    return Data(train, test, card.get("classes"), card.get("box_classes"))


def evaluate_run(
    run_name: str,
    run: Path,
    task_name: str,
    task_options: Mapping[str, Any],
    module: str,
    pool_options: Mapping[str, Any],
    index: Path,
    seed: str,
    output: Path,
    root: Path,
    execution: Execution,
    definition: Mapping[str, Any],
    opener: Opener = open_data,
) -> dict[str, Any]:
    """Evaluate a run's encoder on a task and write ``metrics.json`` and pictures.

    Args:
        run_name: for the terminal.
        run: folder with ``encoder.safetensors`` and ``model.json``.
        task_name: ``<name>`` of ``tasks.<name>``.
        task_options: its options, without the name of its module.
        module: name of the task's module.
        pool_options: ``pools.<name>``.
        index: folder of the pool's index.
        seed: the run's replicate, such as ``s0``.
        output: folder to write, whole or not at all.
        root: folder that relative paths in ``pool_options`` start from.
        execution: what changes only the speed.
        definition: the resolved definition, recorded as it is.
        opener: opens the images.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UserError: any mistake in the options, the pool or the run.
    """
    task = registry.load("task", module)
    config: TaskConfig = resolve(task.Config, task_options, f"tasks.{task_name}")
    device = execution.start()
    subject = encoders.load(run)
    data = opener(config, pool_options, index, subject.image_size, root, execution)
    where = f"tasks.{task_name}"
    return _measure({"run": subject}, task, config, data, where, run_name, seed, output, execution, device, definition)


def evaluate_floor(
    model_name: str,
    model_options: Mapping[str, Any],
    task_name: str,
    task_options: Mapping[str, Any],
    module: str,
    pool_options: Mapping[str, Any],
    index: Path,
    output: Path,
    root: Path,
    execution: Execution,
    definition: Mapping[str, Any],
    seed: str = "s0",
    opener: Opener = open_data,
) -> dict[str, Any]:
    """Evaluate a model with its initial weights and, where the task can, raw pixels; write ``metrics.json`` and pictures.

    Args:
        model_name: ``<name>`` of ``models.<name>``.
        model_options: its options.
        task_name: and the rest: as in ``evaluate_run``.
        task_options: see there.
        module: see there.
        pool_options: see there.
        index: see there.
        output: see there.
        root: see there.
        execution: see there.
        definition: see there.
        seed: of the initial weights and of the task.
        opener: see there.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UserError: any mistake in the options or the pool.
    """
    task = registry.load("task", module)
    config: TaskConfig = resolve(task.Config, task_options, f"tasks.{task_name}")
    model = resolve(encoders.Config, model_options, f"models.{model_name}")
    device = execution.start()
    with seeded(seed_number("floor", seed), torch.device("cpu")):
        subjects: dict[str, Encoder | Pixels] = {"untrained": encoders.build(model)}
    if task.PIXELS:
        subjects["pixels"] = Pixels(model.image_size)
    data = opener(config, pool_options, index, model.image_size, root, execution)
    where = f"tasks.{task_name}"
    return _measure(subjects, task, config, data, where, model_name, seed, output, execution, device, definition)


def _measure(
    subjects: Mapping[str, Encoder | Pixels],
    task: ModuleType,
    config: TaskConfig,
    data: Data,
    where: str,
    name: str,
    seed: str,
    output: Path,
    execution: Execution,
    device: torch.device,
    definition: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluate each subject and write the artifact."""
    for images in (data.train, data.test):
        check_annotated(images, task.NEEDS, where, config.pool)
    found: dict[str, Any] = {}
    with directory(output) as folder:
        for subject_name, subject in subjects.items():
            title = name if subject_name == "run" else f"{name}, {subject_name}"
            with Terminal(title) as progress:
                context = Context(
                    device=device,
                    seed=seed_number(where, seed),
                    folder=folder,
                    where=where,
                    workers=execution.workers,
                    cache_mib=execution.image_cache_mib,
                    progress=progress,
                )
                found[subject_name] = _described(task, task.evaluate(subject, config, data, context))
        metrics = {"definition": dict(definition), "libraries": libraries(), "subjects": found}
        write_json(folder / "metrics.json", metrics)
    return metrics


def _described(task: ModuleType, values: Mapping[str, Value]) -> dict[str, dict[str, Any]]:
    """Put each value beside what its metric means."""
    headline = next(iter(task.METRICS))
    return {
        name: asdict(value) | {"higher_is_better": task.METRICS[name].higher_is_better, "headline": name == headline}
        for name, value in values.items()
    }
