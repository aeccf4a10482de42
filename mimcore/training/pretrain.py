"""Stage ``pretrain``: a subset and three definitions in, a run artifact out."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mimcore import artifacts, registry
from mimcore.data import nvjpeg
from mimcore.data.loader import Images
from mimcore.data.splits import pick
from mimcore.definition import resolve
from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models.continued import other_weights, save_objective
from mimcore.models.objective import Given, left_as_it_was
from mimcore.training.checkpoint import Checkpoints
from mimcore.training.flops import training_flops_per_image
from mimcore.training.live import Watch
from mimcore.training.loop import Progress, train_loop
from mimcore.training.picture import save_reconstructions
from mimcore.training.ranks import Ranks, joined
from mimcore.training.schedule import Schedule
from mimcore.training.scratch import scratch, scratch_key
from mimcore.training.state import Run, start_run
from mimcore.training.states import DIGESTS, go_on, hand_over, images_before
from mimcore.training.states import FOLDER as STATES
from mimcore.training.step import speed_up

if TYPE_CHECKING:
    from mimcore.execution import Execution


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
    prepared: Path | None = None,
    after: Path | None = None,
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
        root: relative paths of the pool and of initial weights start here, as ``pool_root`` says.
        execution: what changes only the speed.
        device: where to train.
        progress: is told of each step.
        prepared: folder of what the objective learned of the subset.
        after: of a phase, the folder of the run that it follows; the definition has ``use`` and, as ``after``, that run's definition.

    Returns:
        What ``metrics.json`` holds; of a phase that trains no weight of the encoder, ``encoder_of`` names the run whose encoder it is.

    Where the environment tells of ranks (``torchrun``), each calls this, and the first writes.

    Raises:
        Preempted: a signal asked the run to end; its state is saved.
        UserError: the loss is not finite, the run is being trained by another process, the subset or an image cannot
            be read, the disk is full.
    """
    with joined(device) as (ranks, device):
        inputs = input_digests(subset, prepared, after, definition.get("use"))
        given = given_to(definition, prepared, after, root)
        record = artifacts.Provenance(provenance, f"pretrain {run_name}", definition, inputs)
        folder = scratch_root / scratch_key(definition, inputs)
        with ExitStack() as stack:
            if ranks.first:
                stack.enter_context(record)
                stack.enter_context(scratch(folder))
            ranks.wait()
            tables = _tables(definition, pool, subset, root, execution)
            run, flops = _train(definition, tables, folder, root, execution, device, ranks, progress, given, after)
            metrics = summarize(run, definition, len(tables["train"]), flops)
            if after is not None and definition["use"] == "weights" and left_as_it_was(run.objective):
                metrics["encoder_of"] = after.name
            finished = run.finished(definition)
            if ranks.first:
                _write(output, finished, definition, metrics, tables["val"], folder)
                record.record["resolved"] = resolved_options(run, definition)
                record.record |= {"device": str(device), "threads": torch.get_num_threads(), **metrics["facts"]}
                record.record |= {"ranks": ranks.world_size, "skipped_steps": int(run.skipped)}
                record.record["trained_images"] = run.images_seen - images_before(definition, run.schedule)
        if ranks.first:
            shutil.rmtree(folder, ignore_errors=True)
        ranks.wait()
    return metrics


def input_digests(subset: Path, prepared: Path | None, after: Path | None, use: str | None) -> dict[str, str]:
    """What a run reads, by the SHA-256 of each file."""
    files = {name: subset / name for name in ("manifest.parquet", "validation.parquet")}
    if prepared is not None:
        found = sorted(file for file in prepared.rglob("*") if file.is_file())
        files |= {f"prepared/{file.relative_to(prepared)}": file for file in found}
    if after is not None and use == "state":
        files[f"after/{STATES}"] = after / STATES / DIGESTS
    elif after is not None:
        files |= {f"after/{file.name}": file for file in sorted(after.glob("*.safetensors"))}
    return {name: artifacts.file_digest(file) for name, file in files.items()}


def given_to(definition: Mapping[str, Any], prepared: Path | None, after: Path | None, root: Path) -> Given:
    """What the objective of a run is built with."""
    learns = registry.defines("objective", str(definition["objective"]["module"]), "prepare")
    teacher = after if definition.get("use") == "teacher" else None
    return Given(prepared if learns else None, teacher, root)


def _tables(
    definition: Mapping[str, Any], pool: Mapping[str, Any], subset: Path, root: Path, execution: "Execution"
) -> dict[str, Images]:
    """The images to train on, and those of the validation losses by their splits."""
    model = resolve(encoders.Config, definition["model"], "models")
    schedule = resolve(Schedule, definition["schedule"], "schedules")
    manifest, validation = (_read_rows(subset / f"{name}.parquet") for name in ("manifest", "validation"))
    fixed = schedule.validation_images
    rows = {
        "train": manifest,
        "val": pick(validation, min(fixed, len(validation)), "validation"),
        "seen": pick(manifest, min(fixed, len(manifest)), "seen"),
    }
    cache = execution.image_cache_mib
    return {name: Images(pool, part, model.image_size, root, cache, model.channels) for name, part in rows.items()}


def _train(
    definition: Mapping[str, Any],
    tables: Mapping[str, Images],
    folder: Path,
    root: Path,
    execution: "Execution",
    device: torch.device,
    ranks: Ranks,
    progress: Progress,
    given: Given,
    after: Path | None,
) -> tuple[Run, float]:
    """Train to the end, from the last checkpoint on; the run, and the FLOPs of a training step for an image."""
    run, train = start_run(definition, device, ranks, given, after, root), tables["train"]
    _refuse_unknown(run.objective.columns, tables, definition)
    if run.schedule.jpeg_decoder == "nvjpeg":
        nvjpeg.refuse_without_gpu(device)
    first = torch.from_numpy(train.get(np.arange(min(2, len(train))))).to(device)
    flops = training_flops_per_image(run.objective, run.encoder, first)
    speed_up(run, execution, first)
    watch = Watch(run, flops, folder, execution.live if ranks.first else [])
    fixed = {split: tables[split] for split in ("val", "seen")}
    with Checkpoints(folder, ranks) as checkpoints:
        if not checkpoints.resume(run) and after is not None and definition["use"] == "state":
            go_on(run, after, definition)
        train_loop(run, train, fixed, checkpoints, execution, progress if ranks.first else _untold, watch)
    return run, flops


def _refuse_unknown(columns: Sequence[str], tables: Mapping[str, Images], definition: Mapping[str, Any]) -> None:
    """The objective needs columns that the pool must know."""
    for split, images in tables.items():
        for name in columns:
            if name not in images.rows.column_names:
                raise UserError(
                    f"objectives: '{definition['objective']['module']}' needs the '{name}' of every image, and the pool of subset "
                    f"'{definition['subset']['name']}' knows none (split '{split}'); take a pool that has it."
                )


def _untold(phase: str, done: int, total: int, words: str) -> None:
    """Progress of a rank that tells nobody."""


def _write(
    output: Path,
    run: Run,
    definition: Mapping[str, Any],
    metrics: Mapping[str, Any],
    validation: Images,
    folder: Path,
) -> None:
    """Write the run artifact of a finished run, with what it kept in its scratch folder."""
    with artifacts.directory(output) as part:
        encoders.save(run.encoder, part, definition)
        if run.objective.config.keep_decoder:
            save_objective(other_weights(run.objective), part)
        artifacts.write_json(part / "metrics.json", metrics)
        write_curve(part / "curve.parquet", run.curve)
        run.objective.save_more(part)
        if run.schedule.keep_states:
            hand_over(folder / STATES, part / STATES)
        if hasattr(run.objective, "reconstruct"):
            save_reconstructions(part / "reconstructions.png", run.objective, run.encoder, validation, run.device)


def _read_rows(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, partitioning=None)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is not a Parquet file ({error}); delete it and run 'dvc repro'.") from None


def summarize(run: Run, definition: Mapping[str, Any], unique_images: int, flops_per_image: float) -> dict[str, Any]:
    """What ``metrics.json`` holds: definition, libraries, last losses, and facts for the axes of a plot."""
    last = {point["split"]: point["loss"] for point in run.curve}
    seen = run.images_seen
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
