"""The loop: the steps that are left, with validation and checkpoints on the way."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from mimcore.data import nvjpeg, processes
from mimcore.data.loader import Batches, Images
from mimcore.data.order import epoch
from mimcore.data.views import RandomCrops
from mimcore.errors import Preempted, UserError
from mimcore.training.checkpoint import Checkpoints
from mimcore.training.live import Watch
from mimcore.training.reading import reading
from mimcore.training.signals import heeded
from mimcore.training.state import Run
from mimcore.training.states import FOLDER, keep
from mimcore.training.step import train_step
from mimcore.training.validation import validate

if TYPE_CHECKING:
    from mimcore.execution import Execution

#: Told of the phase, images done, images in all, and a few words.
Progress = Callable[[str, int, int, str], None]


def train_loop(
    run: Run,
    train: Images,
    tables: Mapping[str, Images],
    checkpoints: Checkpoints,
    execution: "Execution",
    progress: Progress,
    watch: Watch,
) -> None:
    """Take the steps that are left.

    Args:
        run: is changed.
        train: images of the subset.
        tables: images by split, for the validation losses.
        checkpoints: where the state is saved on the way.
        execution: what changes only the speed.
        progress: is told of each step.
        watch: measures.

    Raises:
        Preempted: a signal asked the run to end; its state is saved.
        UserError: a loss, or the gradient of many steps in a row, is not finite; the disk is full; an image cannot be read.
    """
    schedule, ranks = run.schedule, run.ranks
    points = set(schedule.validation_steps())
    if run.step == 0 and not run.curve:
        validate(run, tables)
    batches = training_batches(run, train, execution)
    progress("", run.images_seen, schedule.images_seen, "")
    saved = time.monotonic()
    with heeded() as notice:
        coming = watch.waiting(arriving(run, batches, execution, run.step, schedule.steps))
        for images, read in zip(coming, reading(run.objective, batches, run.step, schedule.steps), strict=True):
            train_step(run, images, read)
            run.objective.after_step(run.step, schedule.steps)
            if run.average:
                run.average.update()
            if run.step % schedule.max_skipped == 0 or run.step == schedule.steps:  # to look is to wait for a GPU
                refuse_skipped(run)
            if run.step in points:
                validate(run, tables)
            if run.images_seen in schedule.keep_states:
                keep(run, checkpoints.folder / FOLDER)
            due = ranks.first and time.monotonic() - saved >= execution.checkpoint_seconds
            told, due = ranks.any(notice.given, due)
            if (told or due) and run.step < schedule.steps:
                checkpoints.save(run)
                saved = time.monotonic()
                if told:
                    checkpoints.finish()
                    raise Preempted(
                        f"asked to end after {run.images_seen} of {schedule.images_seen} images; the state is saved, and the "
                        "same command goes on from there."
                    )
            latest = next(point["loss"] for point in reversed(run.curve) if point["split"] == "val")
            words = f"validation loss {latest:.4f}"
            words += f", {figures}" if (figures := watch.note()) else ""
            progress("", run.images_seen, schedule.images_seen, words)
    checkpoints.finish()


def training_batches(run: Run, train: Images, execution: "Execution") -> Batches:
    """The batches of this rank: with ``crop_from: image`` they are cropped already, else ``train_step`` crops them."""
    schedule, ranks = run.schedule, run.ranks
    kind = nvjpeg.EncodedCrops if schedule.jpeg_decoder == "nvjpeg" else RandomCrops
    crops = kind(f"{run.seed}/crops", schedule.crop_scale, schedule.crop_ratio, schedule.crop_interpolation)
    view = crops if schedule.crop_from == "image" else None
    rows = train.rows
    copies = run.objective.copies(rows.select(list(run.objective.columns)))
    shown = None if copies is None else epoch(copies, rows["key"], f"{run.seed}/copies")
    return Batches(
        train,
        schedule.batch_size,
        run.seed,
        execution.workers,
        view,
        schedule.repeated_augmentation,
        ranks.rank,
        ranks.world_size,
        shown,
    )


def arriving(
    run: Run, batches: Batches, execution: "Execution", start_step: int, stop_step: int
) -> Iterator[torch.Tensor]:
    """The batches of these steps on the device, uint8 ``(B, C, H, W)``, made ahead by threads or processes."""
    images = batches.images
    apart = execution.worker_kind == "process" and execution.workers and (batches.view or not images.cached)
    made = (processes.stream if apart else Batches.stream)(batches, start_step, stop_step)
    if run.schedule.jpeg_decoder == "nvjpeg":
        return nvjpeg.decoded(made, images.shape, images.channels, run.device, run.schedule.crop_interpolation)
    return processes.on_device(made, run.device)


def refuse_skipped(run: Run) -> None:
    """End a run whose gradients are not finite any more.

    It does not go back to a checkpoint and on: the batches are a function of the step, so that the same would happen again,
    and leaving some out would make the result depend on when checkpoints were written.

    Raises:
        UserError: the last ``max_skipped`` steps changed nothing.
    """
    in_a_row = int(run.skipped_in_a_row)
    if in_a_row >= run.schedule.max_skipped:
        raise UserError(
            f"the gradient was not finite for the last {in_a_row} steps, after {run.images_seen} images seen; lower "
            "base_learning_rate, lengthen warmup_images or set clip_grad in the run's schedule (nothing was written)."
        )
