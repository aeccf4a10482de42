"""Encoded images out of their containers, by byte range or row number; nothing is unpacked or copied."""

import bisect
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mimcore.errors import UserError

_CURE = "bring the pool back to what its listing says, or pin it anew with 'mimcore scan' and '--adopt'."


class Storage:
    """Reads encoded images below one folder; safe to use from several threads."""

    def __init__(
        self, root: Path, image_column: str = "image", open_files: int = 128, row_group_mib: int = 256
    ) -> None:
        """Open nothing yet.

        Args:
            root: folder of the pool.
            image_column: column of ``.parquet`` shards: binary, or a struct with binary ``bytes``.
            open_files: files kept open at a time.
            row_group_mib: memory for row groups of Parquet shards, MiB; the latest is kept even if it is larger.
        """
        self._root = root
        self._image_column = image_column
        self._open_files = open_files
        self._row_group_bytes = row_group_mib << 20
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._tables: OrderedDict[str, _Table] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()

    def read(self, shard: str, offset: int, length: int) -> bytes:
        """The encoded bytes of one image.

        Args:
            shard: path below the root.
            offset: first byte in the shard; for ``.parquet`` shards the row number.
            length: number of bytes.

        Raises:
            UserError: the shard is missing or holds less than that.
        """
        try:
            data = (
                self._read_row(shard, offset) if shard.endswith(".parquet") else self._read_range(shard, offset, length)
            )
        except FileNotFoundError:
            raise UserError(f"{self._root / shard} is missing; {_CURE}") from None
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self._root / shard} cannot be read ({error}); {_CURE}") from error
        if len(data) != length:
            raise UserError(
                f"{self._root / shard}: {length} bytes were expected at {offset}, {len(data)} are there; {_CURE}"
            )
        return data

    def read_many(self, requests: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """The encoded bytes of several images, each asked for by its (shard, offset, length); raises what ``read`` does."""
        return [self.read(*request) for request in requests]

    def _read_range(self, shard: str, offset: int, length: int) -> bytes:
        with self._lock:
            file = self._files.pop(shard, None) or _File(self._root / shard)
            self._files[shard] = file
            while len(self._files) > self._open_files:
                self._files.popitem(last=False)
        return os.pread(file.descriptor, length, offset)

    def _read_row(self, shard: str, row: int) -> bytes:
        with self._lock:
            table = self._tables.pop(shard, None) or _Table(self._root / shard, self._image_column)
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


class _File:
    """An open file that closes when the last thread has let go of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class _Table:
    """A Parquet shard: where its row groups end, and the images of one of them."""

    def __init__(self, path: Path, image_column: str) -> None:
        self._file = pq.ParquetFile(path)
        field = image_field(self._file.schema_arrow, image_column, path)
        self._column = f"{image_column}.bytes" if pa.types.is_struct(field.type) else image_column
        self.ends: list[int] = []
        for group in range(self._file.num_row_groups):
            self.ends.append((self.ends[-1] if self.ends else 0) + self._file.metadata.row_group(group).num_rows)
        self.ends = self.ends or [0]

    def read(self, group: int) -> Any:
        """The encoded images of a row group, a chunked array of binary."""
        return image_bytes(self._file.read_row_group(group, columns=[self._column]).column(0))


def image_field(schema: pa.Schema, image_column: str, path: Path) -> pa.Field:
    """The field of a Parquet file that holds the images.

    Raises:
        UserError: there is none of this name, or it holds no bytes.
    """
    if image_column not in schema.names:
        raise UserError(
            f"{path}: there is no column '{image_column}'; name the column of the images in 'image_column'"
            f" (known: {', '.join(schema.names)})."
        )
    field = schema.field(image_column)
    inner = field.type.field("bytes").type if _has_bytes(field.type) else field.type
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise UserError(
            f"{path}: column '{image_column}' is {field.type}, but binary or struct<bytes, path> is needed."
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
