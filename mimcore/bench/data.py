"""The stages of an image on its way into a training step, timed one by one on one core, and the loop they are part of."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from mimcore.bench.advice import Figures
from mimcore.data.decode import Shape, decode
from mimcore.data.draws import I64, draw_boxes
from mimcore.data.loader import IMAGE_COLUMNS, SIZE_COLUMNS, Batches, Images
from mimcore.data.paths import S3Folder, pool_root
from mimcore.data.views import cut, decode_scaled, resample, shrink
from mimcore.errors import UserError
from mimcore.training.loop import arriving, training_batches
from mimcore.training.state import Run, start_run
from mimcore.training.step import train_step

if TYPE_CHECKING:
    from mimcore.execution import Execution

#: Told of (what is being measured, 0, 1): how long it takes is told before.
Progress = Callable[[str, int, int], None]

#: Rows that the loop goes through, and images that are timed alone, at most.
ROWS, ALONE = 1 << 15, 1024
#: Row groups of the index that rows are taken from.
_GROUPS = 8
#: Images read at once.
_CHUNK = 64
#: Least and greatest batch that steps are timed with.
_SMALLEST, _LARGEST = 8, 512
#: Parts of the time: four for stages, two for the loop.
_PARTS = 6


class Sample(NamedTuple):
    """Rows taken from all over a pool or subset, and how many it has."""

    rows: pa.Table
    total: int


@dataclass
class _Times:
    """Seconds for an image."""

    read: float = 0.0
    decode: float = 0.0
    crop: float = 0.0
    collate: float = 0.0


class _Held:
    """Images whose encoded bytes are in memory."""

    def __init__(self, images: Images, held: Mapping[int, bytes]) -> None:
        self.shape: Shape = images.shape
        self.channels = images.channels
        self._images, self._held = images, held

    def sizes(self, positions: I64) -> tuple[I64, I64]:
        return self._images.sizes(positions)

    def encoded(self, positions: I64) -> Iterator[tuple[int, bytes]]:
        yield from ((position, self._held[position]) for position in positions.tolist())

    def explained(self, position: int) -> AbstractContextManager[None]:
        return self._images.explained(position)


def read_sample(file: Path) -> Sample:
    """Rows of an index's training split or of a manifest, from all over the file, in a random order that is always the same.

    Raises:
        UserError: it is missing, or has no training images.
    """
    try:
        parquet = pq.ParquetFile(file)
    except FileNotFoundError:
        raise UserError(f"{file} is missing; bring it up to date with 'dvc repro'.") from None
    names = parquet.schema_arrow.names
    groups = parquet.num_row_groups
    chosen = sorted({round(place) for place in np.linspace(0, groups - 1, min(groups, _GROUPS))}) if groups else []
    columns = [name for name in (*IMAGE_COLUMNS, *SIZE_COLUMNS, "split") if name in names]
    rows = parquet.read_row_groups(chosen, columns=columns)
    share = rows.num_rows / max(parquet.metadata.num_rows, 1)
    rows = rows.filter(pc.equal(rows["split"], "train"))
    if not rows.num_rows:
        raise UserError(f"{file} has no training images to measure with.")
    order = np.random.default_rng(0).permutation(rows.num_rows)[:ROWS]
    return Sample(rows.take(pa.array(order)), round(rows.num_rows / share))


def measure(
    pool: Mapping[str, Any],
    sample: Sample,
    definition: Mapping[str, Any],
    execution: "Execution",
    device: torch.device,
    root: Path,
    seconds: float,
    progress: Progress = lambda what, done, total: None,
) -> Figures:
    """Time every stage.

    Files of this machine are first dropped from the memory that the system keeps of them, so that reading is reading;
    on S3, what the pool's cache on disk holds is not fetched again.

    Args:
        pool: ``pools.<name>`` of ``params.yaml``.
        sample: of its rows.
        definition: the resolved run, whose crops and model are used.
        execution: its workers and cache.
        device: where the step runs.
        root: the folder that relative pool paths count from.
        seconds: for all of it, about; a step that is slower takes longer.
        progress: told of each part.

    Raises:
        UserError: an image cannot be used, or the run's JPEGs are decoded by the GPU.
    """
    part = seconds / _PARTS
    run = start_run(definition, device)
    if run.schedule.jpeg_decoder == "nvjpeg":
        raise UserError(
            "bench-data times what workers do, and with jpeg_decoder 'nvjpeg' the GPU decodes; name a run of another schedule"
            " with --run."
        )
    images = Images(pool, sample.rows, run.encoder.image_size, root, 0, run.encoder.channels)
    progress("read, decode and crop", 0, 1)
    held, times = _read(pool, images, root, part)
    _decode(images, held, run, times, part)
    progress("the model's step", 0, 1)
    repeats = run.schedule.repeated_augmentation
    batch_size, step = _step(run, images, part)
    batch_size = max(1, batch_size // repeats) * repeats
    transfer = _transfer(images, batch_size, device)
    progress("steps with workers", 0, 1)
    waiting, rate = _loop(run, images, batch_size, execution, 2 * part)
    shorter = np.minimum(*images.sizes(np.arange(len(images))))
    decoded = sample.total * run.encoder.channels * math.prod(images.shape)
    return Figures(
        read=times.read,
        decode=times.decode,
        crop=times.crop,
        collate=times.collate,
        transfer=transfer,
        step=step,
        waiting=waiting,
        rate=rate,
        workers=execution.workers,
        worker_kind=execution.worker_kind,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        device=device.type,
        cached=run.schedule.crop_from == "square" and decoded <= execution.image_cache_mib << 20,
        short_side=float(np.median(shorter)),
        image_side=min(images.shape),
        format=str(pool["format"]),
        remote=isinstance(pool_root(pool, root), S3Folder),
        bytes=float(np.median(sample.rows["length"].to_numpy())),
    )


def _read(pool: Mapping[str, Any], images: Images, root: Path, seconds: float) -> tuple[dict[int, bytes], _Times]:
    positions = np.arange(min(ALONE, len(images)))
    where = pool_root(pool, root)
    if isinstance(where, Path):
        for shard in set(images.rows["shard"].take(pa.array(positions)).to_pylist()):
            _forget(where / shard)
    held: dict[int, bytes] = {}
    start = time.perf_counter()
    for first in range(0, len(positions), _CHUNK):
        held.update(images.encoded(positions[first : first + _CHUNK]))
        if time.perf_counter() - start > seconds:
            break
    return held, _Times(read=(time.perf_counter() - start) / len(held))


def _forget(file: Path) -> None:
    """Drop what the system keeps of a file in memory, where it can be told to."""
    if hasattr(os, "posix_fadvise") and file.is_file():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _decode(images: Images, held: Mapping[int, bytes], run: Run, times: _Times, seconds: float) -> None:
    """Decode and crop what was read, as ``RandomCrops`` and ``Images`` do, each part by itself."""
    schedule, shape = run.schedule, images.shape
    positions = np.array(sorted(held), np.int64)
    tall, wide = images.sizes(positions)
    boxes = draw_boxes("bench", positions, tall, wide, schedule.crop_scale, schedule.crop_ratio)
    divisors = shrink(boxes[:, None], shape).tolist()
    batch = np.empty((_CHUNK, *shape, images.channels), np.uint8)
    done, start = 0, time.perf_counter()
    with _one_thread():
        for place, position in enumerate(positions.tolist()):
            began = time.perf_counter()
            with images.explained(position):
                if schedule.crop_from == "image":
                    bottom = int(boxes[place, 0] + boxes[place, 2])
                    whole, divisor = decode_scaled(held[position], divisors[place], images.channels, bottom)
                    decoded = time.perf_counter()
                    box = boxes[place].tolist()
                    cropped = resample(cut(whole, box, divisor), shape, schedule.crop_interpolation)
                else:
                    cropped = decode(held[position], images.image_size, images.channels).transpose(1, 2, 0)
                    decoded = time.perf_counter()
            made = time.perf_counter()
            batch[place % _CHUNK] = cropped
            ended = time.perf_counter()
            times.decode += decoded - began
            times.crop += made - decoded
            times.collate += ended - made
            done += 1
            if ended - start > 2 * seconds:
                break
    # An image is decoded once for all of its crops that follow each other.
    times.read /= schedule.repeated_augmentation
    times.decode /= done * schedule.repeated_augmentation
    times.crop /= done
    times.collate /= done


def _step(run: Run, images: Images, seconds: float) -> tuple[int, float]:
    """A batch whose step takes but a part of the time, and seconds of the step for an image."""
    largest = min(_LARGEST, run.schedule.batch_size)
    batch_size = min(_SMALLEST, largest)
    shape = (images.channels, *images.shape)

    def steps(count: int) -> float:
        batch = torch.randint(0, 256, (batch_size, *shape), dtype=torch.uint8, device=run.device)
        found = []
        for _ in range(count):
            start = time.perf_counter()
            run.step = 0
            train_step(run, batch)
            _wait(run.device)
            found.append(time.perf_counter() - start)
        return min(found)

    steps(2)  # what is made once
    while True:
        spent = steps(3)
        # The next batch takes about twice as long, three times over.
        if batch_size >= largest or 6 * spent > seconds:
            return batch_size, spent / batch_size
        batch_size = min(2 * batch_size, largest)


def _transfer(images: Images, batch_size: int, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    batch = torch.empty((batch_size, images.channels, *images.shape), dtype=torch.uint8)
    found = []
    for _ in range(5):
        start = time.perf_counter()
        batch.pin_memory().to(device, non_blocking=True)
        _wait(device)
        found.append(time.perf_counter() - start)
    return min(found) / batch_size


def _loop(run: Run, images: Images, batch_size: int, execution: "Execution", seconds: float) -> tuple[float, float]:
    """Take steps as training does; the part of the time spent waiting, and images per second."""
    run.schedule = run.schedule.model_copy(update={"batch_size": batch_size})
    batches: Batches = training_batches(run, images, execution)
    apart = execution.worker_kind == "process" and execution.workers and (batches.view or not images.cached)
    coming = arriving(run, batches, execution, 0, 1 << 20)
    # What was made ahead, and the start of processes, count for nothing.
    for _ in range(3 * execution.workers + 1 if apart else execution.workers + 3):
        _one(run, coming)
    waited, steps, start = 0.0, 0, time.perf_counter()
    while steps < 3 or time.perf_counter() - start < seconds:
        waited += _one(run, coming)
        steps += 1
    total = time.perf_counter() - start
    return waited / total, steps * batch_size / total


def _one(run: Run, coming: Iterator[torch.Tensor]) -> float:
    start = time.perf_counter()
    batch = next(coming)
    waited = time.perf_counter() - start
    run.step = 0
    train_step(run, batch)
    _wait(run.device)
    return waited


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _one_thread:  # noqa: N801 - a context, used like a function
    """Inside, torch computes on one thread."""

    def __enter__(self) -> None:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads)
