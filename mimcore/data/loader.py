"""Rows of an index to batches, uint8 ``(B, C, H, W)``, in an order that is a pure function of (seed, step)."""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mimcore.data.decode import U8, DecodeError, Shape, decode, shape_of
from mimcore.data.order import I64
from mimcore.data.order import positions as positions_of
from mimcore.data.paths import pool_root
from mimcore.data.storage import Storage
from mimcore.errors import UserError

#: Columns of the index that reading an image takes; cutting crops out of it takes ``SIZE_COLUMNS`` as well.
IMAGE_COLUMNS = ("key", "shard", "offset", "length", "checksum")
SIZE_COLUMNS = ("width", "height")

#: Encoded images held at a time by one call, which bounds memory where images or batches are large.
READ_AHEAD = 256


class Images:
    """Random access to the images of a table; safe to use from several threads."""

    def __init__(
        self,
        options: Mapping[str, Any],
        rows: pa.Table,
        image_size: int | Shape,
        root: Path,
        cache_mib: int = 0,
        channels: int = 3,
    ) -> None:
        """Open nothing yet.

        Args:
            options: ``pools.<name>`` of ``params.yaml``.
            rows: N rows of an index or manifest.
            image_size: height and width H, W of the decoded images, pixels, or the side of a square.
            root: the folder that relative pool paths count from.
            cache_mib: memory for what ``get`` decodes, MiB: if all N fit, each is decoded once.
            channels: C, 3 for RGB or 1 for luma.
        """
        self.rows = rows = rows.combine_chunks()
        self.options, self.root = options, root
        self.image_size, self.shape, self.channels = image_size, shape_of(image_size), channels
        self._storage = Storage(pool_root(options, root), str(options.get("image_column", "image")))
        self._read_columns = rows.select([name for name in IMAGE_COLUMNS if name != "key"])
        self._checked = np.zeros(rows.num_rows, bool)
        self._cache: U8 | None = None
        whole = (rows.num_rows, channels, *self.shape)
        if int(np.prod(whole, dtype=np.int64)) <= cache_mib << 20:
            self._cache = np.zeros(whole, np.uint8)
        self._filled = np.zeros(rows.num_rows, bool)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def cached(self) -> bool:
        """Whether what ``get`` decodes stays in memory."""
        return self._cache is not None

    def get(self, positions: npt.ArrayLike) -> U8:
        """The largest centred parts of B images, uint8 ``(B, C, H, W)``, an array of the caller's own.

        Raises:
            UserError: an image is missing, has changed since it was indexed, or cannot be decoded.
        """
        wanted = np.asarray(positions, np.int64)
        if self._cache is None:
            pixels = np.empty((len(wanted), self.channels, *self.shape), np.uint8)
            self._decode(wanted, pixels, np.arange(len(wanted)))
            return pixels
        # Two threads may both decode an image: they write the same bytes, and the flag comes last.
        missing = np.unique(wanted[~self._filled[wanted]])
        self._decode(missing, self._cache, missing)
        self._filled[missing] = True
        return self._cache[wanted]

    def raw(self, position: int) -> U8:
        """One image whole, at its own size: uint8 ``(3, height, width)``.

        Raises:
            UserError: as in ``get``.
        """
        ((_, data),) = self.encoded(np.array([position]))
        with self.explained(int(position)):
            return decode(data)

    def sizes(self, positions: I64) -> tuple[I64, I64]:
        """Heights and widths of B whole images, upright, pixels, int64 ``(B,)`` each."""
        sizes = self.rows.select(["height", "width"]).take(pa.array(positions))
        tall, wide = (column.to_numpy().astype(np.int64) for column in sizes.columns)
        return tall, wide

    def encoded(self, positions: I64) -> Iterator[tuple[int, bytes]]:
        """Yield each of B positions with the encoded bytes of its image; many are asked for at once.

        Raises:
            UserError: an image is missing, or has changed since it was indexed.
        """
        for start in range(0, len(positions), READ_AHEAD):
            part = positions[start : start + READ_AHEAD]
            rows = self._read_columns.take(pa.array(part))
            shards, offsets, lengths, checksums = (column.to_pylist() for column in rows.columns)
            found = self._storage.read_many(list(zip(shards, offsets, lengths, strict=True)))
            for position, checksum, data in zip(part.tolist(), checksums, found, strict=True):
                if not self._checked[position]:
                    self._check(position, checksum, data)
                yield position, data

    def _check(self, position: int, checksum: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest()[:16] != checksum:
            raise UserError(
                f"image {self._named(position)} is not the one that was indexed (its checksum differs);"
                " pin the pool anew with 'mimcore scan' and '--adopt', then run 'dvc repro'."
            )
        self._checked[position] = True

    @contextmanager
    def explained(self, position: int) -> Iterator[None]:
        """Turn a ``DecodeError`` inside the block into a ``UserError`` that names the image at ``position``."""
        try:
            yield
        except DecodeError as error:
            raise UserError(
                f"image {self._named(position)}: {error}; mend or remove it, pin the pool anew with"
                " 'mimcore scan' and '--adopt', then run 'dvc repro'."
            ) from error

    def _decode(self, positions: I64, pixels: U8, places: I64) -> None:
        """Decode B images into these places of an array."""
        for place, (position, data) in zip(places.tolist(), self.encoded(positions), strict=True):
            with self.explained(position):
                pixels[place] = decode(data, self.image_size, self.channels)

    def _named(self, position: int) -> str:
        key, shard = (self.rows[name][position].as_py() for name in ("key", "shard"))
        return f"'{key}' in {shard}"


class Encoded(Protocol):
    """Images as ``Images`` offers them before they are decoded."""

    shape: Shape
    channels: int

    def sizes(self, positions: I64) -> tuple[I64, I64]:
        """Heights and widths of whole images."""
        ...

    def encoded(self, positions: I64) -> Iterator[tuple[int, bytes]]:
        """Positions with encoded bytes."""
        ...

    def explained(self, position: int) -> AbstractContextManager[None]:
        """Name the image in an error."""
        ...


class View(Protocol):
    """How a sample shows its image, where that is not its largest centred part."""

    def get(self, images: Encoded, positions: I64, samples: I64, repeats: int) -> U8:
        """Pixels of n samples, a function of (image, sample) alone; uint8 ``(n, C, H, W)``."""
        ...


class Batches:
    """An endless stream of batches over images; each image is shown ``repeats`` times per epoch, side by side.

    The batch of a step is the same for any number of ranks: each has its part, and the parts in order are the batch.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int | str,
        workers: int = 0,
        view: View | None = None,
        repeats: int = 1,
        rank: int = 0,
        world_size: int = 1,
        epoch: I64 | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            images: N of them; batches run on over the end of an epoch, which is N * ``repeats`` samples.
            batch_size: B, samples over all ranks.
            seed: orders the images.
            workers: threads that make batches ahead; 0 makes each when it is asked for. Changes only the speed.
            view: how a sample shows its image; None for its largest centred part.
            repeats: samples of one image that follow each other (repeated augmentation: Hoffer et al. 2020,
                section 3); the image is decoded once for all of them.
            rank: which part of each batch is wanted.
            world_size: number of parts.
            epoch: positions that an epoch shows, an image as often as it is listed; None for each image once.

        Raises:
            UserError: there are no images, or the batch cannot be divided.
        """
        if not len(images) or (epoch is not None and not len(epoch)):
            raise UserError("there are no images to make batches of; draw a subset with at least one.")
        for parts, what in ((repeats, "repeated_augmentation"), (world_size, "the number of processes that train")):
            if batch_size % parts:
                raise UserError(f"batch_size {batch_size} is not a multiple of {what}, {parts}; choose one that is.")
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.view = view
        self.repeats = repeats
        self.rank, self.world_size = rank, world_size
        self.epoch = epoch

    def samples(self, step: int) -> I64:
        """Numbers of the samples of this rank's part of a step, counted from 0 over the whole run: int64."""
        part = self.batch_size // self.world_size
        start = step * self.batch_size + self.rank * part
        return np.arange(start, start + part, dtype=np.int64)

    def positions(self, step: int) -> I64:
        """Which image each sample of this rank's part of a step shows: positions, int64."""
        turns = self.samples(step) // self.repeats
        first = int(turns[0])
        length = len(self.images) if self.epoch is None else len(self.epoch)
        places = positions_of(length, self.seed, first, int(turns[-1]) - first + 1)[turns - first]
        return places if self.epoch is None else self.epoch[places]

    def batch(self, step: int) -> U8:
        """The rank's part of the batch of a step, counted from 0: uint8 ``(B / world_size, C, H, W)``.

        A pure function of (seed, step, rank, world size).
        """
        positions = self.positions(step)
        if self.view is not None:
            return self.view.get(self.images, positions, self.samples(step), self.repeats)
        if self.repeats == 1:
            return self.images.get(positions)
        shown = self.samples(step) // self.repeats
        _, first, copies = np.unique(shown, return_index=True, return_inverse=True)
        return self.images.get(positions[first])[copies]

    def stream(self, start_step: int, stop_step: int) -> Iterator[U8]:
        """Yield the batches of steps ``start_step`` .. ``stop_step - 1`` in order, made ahead by the workers.

        An error in a worker is raised here, at its step. Closing the generator ends its threads.
        """
        if not self.workers:
            yield from (self.batch(step) for step in range(start_step, stop_step))
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="batches")
        waiting: deque[Future[U8]] = deque()
        try:
            for step in range(start_step, stop_step):
                ahead = min(step + self.workers + 2, stop_step)
                waiting.extend(pool.submit(self.batch, later) for later in range(step + len(waiting), ahead))
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
