"""Encoded images out of their containers, by byte range or row number; nothing is unpacked or copied."""

import bisect
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mimcore.data import s3
from mimcore.data.paths import Root, S3Folder
from mimcore.data.ranges import RangeFile, Ranges, Request, default_cache
from mimcore.errors import UserError

_CURE = "bring the pool back to what its listing says, or pin it anew with 'mimcore scan' and '--adopt'."


class Storage:
    """Reads encoded images below one folder, here or on S3; safe to use from several threads, and after a fork."""

    def __init__(
        self, root: Root, image_column: str = "image", open_files: int = 128, row_group_mib: int = 256
    ) -> None:
        """Open nothing yet.

        Args:
            root: folder of the pool. What is read on S3 is kept as ``mimcore.data.ranges.default_cache`` says.
            image_column: column of ``.parquet`` shards: binary, or a struct with binary ``bytes``.
            open_files: files kept open at a time.
            row_group_mib: memory for row groups of Parquet shards, MiB; the latest is kept even if it is larger.
        """
        self._root = root
        self._image_column = image_column
        self._open_files = open_files
        self._row_group_bytes = row_group_mib << 20
        self._ranges = Ranges(root, default_cache()) if isinstance(root, S3Folder) else None
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._tables: OrderedDict[str, _Table] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        """What is open stays behind: a process that gets the storage opens its own files."""
        return Storage, (self._root, self._image_column, self._open_files, self._row_group_bytes >> 20)

    def read(self, shard: str, offset: int, length: int) -> bytes:
        """The encoded bytes of one image.

        Args:
            shard: path below the root.
            offset: first byte in the shard; for ``.parquet`` shards the row number.
            length: number of bytes.

        Raises:
            UserError: the shard is missing, holds less than that, or cannot be had.
        """
        return self.read_many([(shard, offset, length)])[0]

    def read_many(self, requests: Sequence[Request]) -> list[bytes]:
        """The encoded bytes of several images: those near each other on S3 at once, and row groups in their order.

        Args:
            requests: (shard, offset, length) as for ``read``, in any order.

        Raises:
            UserError: as for ``read``.
        """
        found: list[bytes] = [b""] * len(requests)
        ranges = [place for place, (shard, _, _) in enumerate(requests) if not shard.endswith(".parquet")]
        rows = [place for place, (shard, _, _) in enumerate(requests) if shard.endswith(".parquet")]
        if self._ranges is None:
            for place in ranges:
                shard, offset, length = requests[place]
                found[place] = self._guarded(shard, partial(self._read_range, shard, offset, length))
        elif ranges:
            try:
                read = self._ranges.read([requests[place] for place in ranges])
            except s3.MissingError as error:
                raise UserError(f"{error}; {_CURE}") from None
            for place, one in zip(ranges, read, strict=True):
                found[place] = one
        # A row group is read whole: once, if its rows are asked for one after the other.
        for place in sorted(rows, key=lambda place: requests[place]):
            shard, row, _ = requests[place]
            found[place] = self._guarded(shard, partial(self._read_row, shard, row))
        for (shard, offset, length), data in zip(requests, found, strict=True):
            if len(data) != length:
                raise UserError(
                    f"{self._where(shard)}: {length} bytes were expected at {offset}, {len(data)} are there; {_CURE}"
                )
        return found

    def _guarded(self, shard: str, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except (FileNotFoundError, s3.MissingError):
            raise UserError(f"{self._where(shard)} is missing; {_CURE}") from None
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self._where(shard)} cannot be read ({error}); {_CURE}") from error

    def _where(self, shard: str) -> str:
        return f"{self._root}/{shard}"

    def _read_range(self, shard: str, offset: int, length: int) -> bytes:
        with self._lock:
            file = self._files.pop(shard, None) or _File(Path(self._where(shard)))
            self._files[shard] = file
            while len(self._files) > self._open_files:
                self._files.popitem(last=False)
        return os.pread(file.descriptor, length, offset)

    def _read_row(self, shard: str, row: int) -> bytes:
        with self._lock:
            table = self._tables.pop(shard, None) or self._open_table(shard)
            self._tables[shard] = table
            while len(self._tables) > self._open_files:
                self._tables.popitem(last=False)
            if not 0 <= row < table.ends[-1]:
                return b""
            group = bisect.bisect_right(table.ends, row)
            values = self._groups.pop((shard, group), None)
            if values is None:
                values = table.read(group)
            self._groups[shard, group] = values
            held = sum(array.nbytes for array in self._groups.values())
            while held > self._row_group_bytes and len(self._groups) > 1:
                held -= self._groups.popitem(last=False)[1].nbytes
        value: bytes | None = values[row - (table.ends[group - 1] if group else 0)].as_py()
        return value or b""

    def _open_table(self, shard: str) -> "_Table":
        file = RangeFile(self._ranges, shard) if self._ranges else self._where(shard)
        return _Table(file, self._image_column, self._where(shard))


class _File:
    """An open file that closes when the last thread has let go of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class _Table:
    """A Parquet shard: where its row groups end, and the images of one of them."""

    def __init__(self, file: Any, image_column: str, where: str) -> None:
        self._file = pq.ParquetFile(file, pre_buffer=True)
        field = image_field(self._file.schema_arrow, image_column, where)
        self._column = f"{image_column}.bytes" if pa.types.is_struct(field.type) else image_column
        self.ends: list[int] = []
        for group in range(self._file.num_row_groups):
            self.ends.append((self.ends[-1] if self.ends else 0) + self._file.metadata.row_group(group).num_rows)
        self.ends = self.ends or [0]

    def read(self, group: int) -> Any:
        """The encoded images of a row group, a chunked array of binary."""
        return image_bytes(self._file.read_row_group(group, columns=[self._column]).column(0))


def image_field(schema: pa.Schema, image_column: str, where: str) -> pa.Field:
    """The field of a Parquet file that holds the images.

    Raises:
        UserError: there is none of this name, or it holds no bytes.
    """
    if image_column not in schema.names:
        raise UserError(
            f"{where}: there is no column '{image_column}'; name the column of the images in 'image_column'"
            f" (known: {', '.join(schema.names)})."
        )
    field = schema.field(image_column)
    inner = field.type.field("bytes").type if _has_bytes(field.type) else field.type
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise UserError(
            f"{where}: column '{image_column}' is {field.type}, but binary or struct<bytes, path> is needed."
        )
    return field


def image_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The binary values of an image column, whether it is a struct with ``bytes`` or plain."""
    if not pa.types.is_struct(column.type):
        return column
    place = column.type.get_field_index("bytes")
    arrays = [chunk.flatten()[place] for chunk in column.chunks]
    return pa.chunked_array(arrays, type=column.type.field("bytes").type)


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0
