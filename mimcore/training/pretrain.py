"""Stage ``pretrain``: a subset and three definitions in, a run artifact out."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mimcore import artifacts
from mimcore.data import nvjpeg, processes
from mimcore.data.loader import Batches, Images
from mimcore.data.splits import pick
from mimcore.data.views import RandomCrops
from mimcore.definition import resolve
from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.training.checkpoint import load_checkpoint, save_checkpoint, scratch, scratch_key
from mimcore.training.flops import training_flops_per_image
from mimcore.training.live import Watch
from mimcore.training.picture import save_reconstructions
from mimcore.training.state import Run, start_run
from mimcore.training.step import speed_up, train_step
from mimcore.training.validation import fixed_loss

if TYPE_CHECKING:
    from mimcore.execution import Execution

#: Told of the phase, images done, images in all, and a few words.
Progress = Callable[[str, int, int, str], None]

#: Images of the validation split in the picture of reconstructions.
PICTURE_IMAGES = 8


def pretrain(
    run_name: str,
    definition: Mapping[str, Any],
    pool: Mapping[str, Any],
    subset: Path,
    output: Path,
    provenance: Path,
    scratch_root: Path,
    root: Path,
    execution: "Execution",
    device: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    """Pretrain an encoder, going on from the last checkpoint if there is one, and write the run artifact.

    Args:
        run_name: for messages.
        definition: the resolved run: ``objective`` (with its ``module``), ``model``, ``schedule``, ``seed``, ...
        pool: options of the pool, for where its images lie.
        subset: folder of the subset manifest.
        output: folder of the run artifact.
        provenance: file of the provenance record.
        scratch_root: checkpoints of runs in progress lie below it.
        root: relative paths of the pool start here.
        execution: what changes only the speed.
        device: where to train.
        progress: is told of each step.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UserError: the loss is not finite, the run is being trained by another process, the subset or an image cannot
            be read, the disk is full.
    """
    inputs = {name: artifacts.file_digest(subset / name) for name in ("manifest.parquet", "validation.parquet")}
    manifest, validation = (_read_rows(subset / name) for name in inputs)
    record = artifacts.Provenance(provenance, f"pretrain {run_name}", definition, inputs)
    with record, scratch(scratch_root / scratch_key(definition, inputs)) as folder:
        run = start_run(definition, device)
        if run.schedule.jpeg_decoder == "nvjpeg":
            nvjpeg.refuse_without_gpu(device)
        image_size = run.encoder.image_size

        def images(rows: pa.Table) -> Images:
            return Images(pool, rows, image_size, root, execution.image_cache_mib, run.encoder.channels)

        fixed = run.schedule.validation_images
        train = images(manifest)
        tables = {
            "val": images(pick(validation, min(fixed, len(validation)), "validation")),
            "seen": images(pick(manifest, min(fixed, len(manifest)), "seen")),
        }
        first = torch.from_numpy(train.get(np.arange(min(2, len(train))))).to(device)
        flops = training_flops_per_image(run.objective, run.encoder, first)
        speed_up(run, execution, first)
        state = load_checkpoint(folder)
        if state is not None:
            run.restore(state)
        watch = Watch(run, flops, folder, execution.live)
        train_loop(run, train, tables, folder, execution, progress, watch)
        metrics = summarize(run, definition, len(manifest), flops)
        with artifacts.directory(output) as part:
            encoders.save(run.encoder, part, definition)
            artifacts.write_json(part / "metrics.json", metrics)
            write_curve(part / "curve.parquet", run.curve)
            shown = tables["val"].get(np.arange(min(PICTURE_IMAGES, len(tables["val"]))))
            pictures = torch.from_numpy(shown).to(device)
            save_reconstructions(part / "reconstructions.png", run.objective, run.encoder, pictures)
        record.record["resolved"] = resolved_options(run, definition)
        record.record |= {"device": str(device), "threads": torch.get_num_threads(), **metrics["facts"]}
    shutil.rmtree(folder, ignore_errors=True)
    return metrics


def _read_rows(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, partitioning=None)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is not a Parquet file ({error}); delete it and run 'dvc repro'.") from None


def train_loop(
    run: Run,
    train: Images,
    tables: Mapping[str, Images],
    folder: Path,
    execution: "Execution",
    progress: Progress,
    watch: Watch,
) -> None:
    """Take the steps that are left, validating and saving on the way."""
    schedule = run.schedule
    points = set(schedule.validation_steps())
    if run.step == 0 and not run.curve:
        validate(run, tables)
    batches = training_batches(run, train, execution)
    progress("", run.step * schedule.batch_size, schedule.images_seen, "")
    saved = time.monotonic()
    for images in watch.waiting(arriving(run, batches, execution, run.step, schedule.steps)):
        train_step(run, images)
        if run.step in points:
            validate(run, tables)
        elif time.monotonic() - saved >= execution.checkpoint_seconds:
            save_checkpoint(folder, run.state())
            saved = time.monotonic()
        latest = next(point["loss"] for point in reversed(run.curve) if point["split"] == "val")
        words = f"validation loss {latest:.4f}"
        words += f", {figures}" if (figures := watch.note()) else ""
        progress("", run.step * schedule.batch_size, schedule.images_seen, words)


def training_batches(run: Run, train: Images, execution: "Execution") -> Batches:
    """The batches of a run: with ``crop_from: image`` they are cropped already, else ``train_step`` crops them."""
    schedule = run.schedule
    kind = nvjpeg.EncodedCrops if schedule.jpeg_decoder == "nvjpeg" else RandomCrops
    crops = kind(f"{run.seed}/crops", schedule.crop_scale, schedule.crop_ratio)
    view = crops if schedule.crop_from == "image" else None
    repeats = schedule.repeated_augmentation
    return Batches(train, schedule.batch_size, run.seed, execution.workers, view, repeats)


def arriving(
    run: Run, batches: Batches, execution: "Execution", start_step: int, stop_step: int
) -> Iterator[torch.Tensor]:
    """The batches of these steps on the device, uint8 ``(B, C, H, W)``, made ahead by threads or processes."""
    images = batches.images
    apart = execution.worker_kind == "process" and execution.workers and (batches.view or not images.cached)
    made = (processes.stream if apart else Batches.stream)(batches, start_step, stop_step)
    if run.schedule.jpeg_decoder == "nvjpeg":
        return nvjpeg.decoded(made, images.shape, images.channels, run.device)
    return processes.on_device(made, run.device)


def validate(run: Run, tables: Mapping[str, Images]) -> None:
    """Add a point to each curve.

    Raises:
        UserError: a loss is not finite.
    """
    seen = run.step * run.schedule.batch_size
    rate = run.schedule.learning_rate(max(run.step - 1, 0))
    losses = {"train": float(run.loss_sum / run.loss_steps)} if run.step else {}
    for split, images in tables.items():
        losses[split] = fixed_loss(run.objective, run.encoder, images, run.device, run.schedule.precision)
    for split, loss in losses.items():
        if not math.isfinite(loss):
            raise UserError(
                f"the {split} loss is {loss} after {seen} images seen; lower base_learning_rate or lengthen warmup_images "
                "in the run's schedule (nothing was written)."
            )
        norm = float(run.gradient_norm) if split == "train" else None
        rate_ = rate if split == "train" else None
        run.curve.append({"images_seen": seen, "split": split, "loss": loss, "learning_rate": rate_, "grad_norm": norm})
    run.loss_sum, run.loss_steps = torch.zeros_like(run.loss_sum), torch.zeros_like(run.loss_steps)


def summarize(run: Run, definition: Mapping[str, Any], unique_images: int, flops_per_image: float) -> dict[str, Any]:
    """What ``metrics.json`` holds: definition, libraries, last losses, and facts for the axes of a plot."""
    last = {point["split"]: point["loss"] for point in run.curve}
    seen = run.step * run.schedule.batch_size
    return {
        "definition": dict(definition),
        "libraries": artifacts.libraries(),
        "metrics": {"val_loss": last["val"], "seen_loss": last["seen"], "train_loss": last["train"]},
        "facts": {
            "unique_images": unique_images,
            "images_seen": seen,
            "encoder_params": sum(p.numel() for p in run.encoder.module.parameters()),
            "flops": flops_per_image * seen,
        },
    }


def resolved_options(run: Run, definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition with every default filled in, for the provenance record."""
    model = resolve(encoders.Config, definition["model"], "models")
    parts = {"objective": run.objective.config, "model": model, "schedule": run.schedule}
    return {name: part.model_dump(mode="json") for name, part in parts.items()}


def write_curve(file: Path, curve: list[dict[str, Any]]) -> None:
    """Write the curve with a fixed schema."""
    schema = pa.schema(
        [
            ("images_seen", pa.int64()),
            ("split", pa.string()),
            ("loss", pa.float64()),
            ("learning_rate", pa.float64()),
            ("grad_norm", pa.float64()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(curve, schema=schema), file)
