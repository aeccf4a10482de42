"""Batches made by worker processes, and batches brought to the device ahead of their step."""

import tempfile
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mimcore.data.decode import U8
from mimcore.data.loader import IMAGE_COLUMNS, SIZE_COLUMNS, Batches, Images
from mimcore.errors import UserError

#: Batches that a worker process makes ahead of their step.
PREFETCH = 2


def stream(batches: Batches, start_step: int, stop_step: int) -> Iterator[U8]:
    """Yield what ``batches.stream`` does, made by ``batches.workers`` processes.

    The rows lie in one memory-mapped file for all of them, and pixels come back through shared memory. What ``get``
    decodes is not kept: each process would keep its own.

    Raises:
        UserError: as in ``Batches.batch``, at its step; a process was killed, or the shared memory is full.
    """
    # A fork of this process would copy the locks of its threads, some of them held; the server has none, and imports once.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory(prefix="mimcore-rows-") as folder:
        steps = _Steps(batches, Path(folder) / "rows.arrow")
        with warnings.catch_warnings():
            # More workers than cores are what the user asked for.
            warnings.filterwarnings("ignore", "This DataLoader will create")
            loader: DataLoader[Any] = DataLoader(
                steps,
                batch_size=None,
                sampler=range(start_step, stop_step),
                num_workers=batches.workers,
                prefetch_factor=PREFETCH,
                multiprocessing_context=context,
            )
            waiting = iter(loader)
        try:
            while True:
                try:
                    made = next(waiting)
                except StopIteration:
                    return
                except RuntimeError as error:
                    if "DataLoader worker" not in str(error):
                        raise
                    raise UserError(
                        f"a process that makes batches was killed ({error}); if memory ran out, lower execution.workers."
                    ) from error
                if isinstance(made, UserError):
                    raise made
                yield made.numpy()
        finally:
            del waiting  # ends the processes


class _Steps(Dataset[Any]):
    """From a step to its batch, in a worker process that opens the pool for itself."""

    def __init__(self, batches: Batches, file: Path) -> None:
        self._batches: Batches | None = None
        images = batches.images
        columns = [name for name in (*IMAGE_COLUMNS, *SIZE_COLUMNS) if name in images.rows.column_names]
        rows = images.rows.select(columns)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        self._file = file
        self._images = (images.options, images.image_size, images.root, images.channels)
        self._stream = {
            name: getattr(batches, name)
            for name in ("batch_size", "seed", "view", "repeats", "rank", "world_size", "epoch")
        }

    def __getitem__(self, step: int) -> Tensor | UserError:
        if self._batches is None:
            rows = pa.ipc.open_file(pa.memory_map(str(self._file))).read_all()
            options, image_size, root, channels = self._images
            self._batches = Batches(Images(options, rows, image_size, root, 0, channels), workers=0, **self._stream)
        try:
            return _shared(torch.from_numpy(self._batches.batch(step)), step)
        except UserError as error:  # torch would wrap it in a traceback of the worker
            return error


def _shared(batch: Tensor, step: int) -> Tensor:
    """Put a batch where the training process finds it; left to the queue, a failure would be printed, and waited on for ever.

    Raises:
        UserError: there is no room.
    """
    try:
        shared: Tensor = batch.share_memory_()
    except RuntimeError as error:
        raise UserError(
            f"the shared memory (/dev/shm) has no room for the batch of step {step}, {batch.nbytes / 2**20:.1f} MiB ({error}); "
            "give the container more (--shm-size), lower execution.workers, or set execution.worker_kind: thread."
        ) from None
    return shared


def on_device(batches: Iterable[U8], device: torch.device) -> Iterator[Tensor]:
    """Yield batches on the device; to a GPU each is copied from pinned memory while the step before it runs."""
    if device.type != "cuda":
        yield from (torch.from_numpy(batch).to(device) for batch in batches)
        return
    copying = torch.cuda.Stream(device)
    ready: tuple[Tensor, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            moved = torch.from_numpy(batch).pin_memory().to(device, non_blocking=True)
            copied = copying.record_event()
        if ready is not None:
            yield _handed_over(*ready)
        ready = moved, copied
    if ready is not None:
        yield _handed_over(*ready)


def _handed_over(batch: Tensor, copied: torch.cuda.Event) -> Tensor:
    """Make the stream that takes the step wait for the copy, and the allocator know of both streams."""
    taking = torch.cuda.current_stream(batch.device)
    taking.wait_event(copied)
    batch.record_stream(taking)
    return batch
