"""Rows of an index to batches, uint8 ``(B, 3, S, S)``, in an order that is a pure function of (seed, step)."""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mimcore.data.decode import U8, DecodeError, decode
from mimcore.data.order import positions as positions_of
from mimcore.data.paths import pool_root
from mimcore.data.storage import Storage
from mimcore.errors import UserError

#: Columns of the index that reading an image takes.
IMAGE_COLUMNS = ("key", "shard", "offset", "length", "checksum")


class Images:
    """Random access to the decoded images of a table; safe to use from several threads."""

    def __init__(
        self, options: Mapping[str, Any], rows: pa.Table, image_size: int, root: Path, cache_mib: int = 0
    ) -> None:
        """Open nothing yet.

        Args:
            options: ``pools.<name>`` of ``params.yaml``.
            rows: N rows of an index or manifest.
            image_size: side S of the decoded squares, pixels.
            root: the folder that relative pool paths count from.
            cache_mib: memory for decoded images, MiB: if all N fit, each is decoded once.
        """
        self.rows = rows = rows.combine_chunks()
        self.image_size = image_size
        self._storage = Storage(pool_root(options, root), str(options.get("image_column", "image")))
        self._offsets = rows["offset"].to_numpy()
        self._lengths = rows["length"].to_numpy()
        self._shards = rows["shard"].to_pylist()
        self._checked = np.zeros(rows.num_rows, bool)
        self._cache: U8 | None = None
        if rows.num_rows * 3 * image_size**2 <= cache_mib << 20:
            self._cache = np.zeros((rows.num_rows, 3, image_size, image_size), np.uint8)
        self._filled = np.zeros(rows.num_rows, bool)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def get(self, positions: npt.ArrayLike) -> U8:
        """Decoded squares at B positions, uint8 ``(B, 3, S, S)``, an array of the caller's own.

        Raises:
            UserError: an image is missing, has changed since it was indexed, or cannot be decoded.
        """
        wanted = np.asarray(positions, np.int64)
        if self._cache is None:
            pixels = np.empty((len(wanted), 3, self.image_size, self.image_size), np.uint8)
            for place, position in enumerate(wanted.tolist()):
                pixels[place] = self._decode(position, self.image_size)
            return pixels
        for position in wanted[~self._filled[wanted]].tolist():
            # Two threads may both decode an image: they write the same bytes, and the flag comes last.
            if not self._filled[position]:
                self._cache[position] = self._decode(position, self.image_size)
                self._filled[position] = True
        return self._cache[wanted]

    def raw(self, position: int) -> U8:
        """One image whole, at its own size: uint8 ``(3, height, width)``.

        Raises:
            UserError: as in ``get``.
        """
        return self._decode(int(position), None)

    def _decode(self, position: int, image_size: int | None) -> U8:
        shard = self._shards[position]
        data = self._storage.read(shard, int(self._offsets[position]), int(self._lengths[position]))
        if not self._checked[position]:
            if hashlib.sha256(data).hexdigest()[:16] != self.rows["checksum"][position].as_py():
                raise UserError(
                    f"image '{self._key(position)}' in {shard} is not the one that was indexed (its checksum differs);"
                    " pin the pool anew with 'mimcore scan' and '--adopt', then run 'dvc repro'."
                )
            self._checked[position] = True
        try:
            return decode(data, image_size)
        except DecodeError as error:
            raise UserError(
                f"image '{self._key(position)}' in {shard}: {error}; mend or remove it, pin the pool anew with"
                " 'mimcore scan' and '--adopt', then run 'dvc repro'."
            ) from error

    def _key(self, position: int) -> str:
        return str(self.rows["key"][position].as_py())


class Batches:
    """An endless stream of batches over images; each image is shown once per epoch."""

    def __init__(self, images: Images, batch_size: int, seed: int | str, workers: int = 0) -> None:
        """Start nothing yet.

        Args:
            images: N of them; batches run on over the end of an epoch.
            batch_size: B, images.
            seed: orders the images.
            workers: threads that make batches ahead; 0 makes each when it is asked for. Changes only the speed.
        """
        if not len(images):
            raise UserError("there are no images to make batches of; draw a subset with at least one.")
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers

    def positions(self, step: int) -> npt.NDArray[np.int64]:
        """Which images the batch of a step holds: B positions, int64."""
        return positions_of(len(self.images), self.seed, step * self.batch_size, self.batch_size)

    def batch(self, step: int) -> U8:
        """The batch of a step, counted from 0: uint8 ``(B, 3, S, S)``, a pure function of (seed, step)."""
        return self.images.get(self.positions(step))

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
