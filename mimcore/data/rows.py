"""Collects the rows of an index: each image is looked at, broken ones are set aside with a reason."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mimcore.data.header import BrokenImageError, Header, inspect
from mimcore.data.perceptual import perceptual_hash
from mimcore.data.pool import ShardIndex, Skipped
from mimcore.errors import UserError

#: What every row has, in the order of the index.
REQUIRED: dict[str, pa.DataType] = {
    "key": pa.string(),
    "shard": pa.string(),
    "offset": pa.int64(),
    "length": pa.int64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "checksum": pa.string(),
    "split": pa.string(),
}

#: What a row has where the pool knows it, with the type it must have.
OPTIONAL: dict[str, pa.DataType] = {
    "label": pa.int64(),
    "caption": pa.string(),
    "tags": pa.list_(pa.string()),
    "boxes": pa.list_(pa.list_(pa.float32())),
    "box_labels": pa.list_(pa.int32()),
    "box_areas": pa.list_(pa.float32()),
    "box_crowd": pa.list_(pa.bool_()),
    "masks": pa.list_(pa.string()),
    "phash": pa.uint64(),
}


class Rows:
    """Rows of one shard in the making.

    Args:
        hashed: whether each image is decoded for its perceptual hash, the column ``phash``.
    """

    def __init__(self, hashed: bool) -> None:
        self._hashed = hashed
        self._required: list[tuple[Any, ...]] = []
        self._fields: list[Mapping[str, Any]] = []
        self._skipped: list[Skipped] = []

    def add(
        self,
        key: str,
        shard: str,
        offset: int,
        data: bytes,
        split: str,
        fields: Mapping[str, Any],
        size: tuple[int, int] | None = None,
    ) -> None:
        """Look at one image and add its row, or set it aside.

        Args:
            key: unique in the pool.
            shard: path of the container below the root.
            offset: first byte in the container, or row number.
            data: the encoded image.
            split: ``train`` or ``val``.
            fields: what else the pool knows of the image.
            size: width and height that it must have, pixels, since boxes count on them.
        """
        try:
            header = inspect(data)
            if self._hashed:
                fields = {**fields, "phash": perceptual_hash(data)}
        except BrokenImageError as error:
            self.skip(key, shard, str(error))
            return
        if size is not None and size != tuple(header):
            self.skip(key, shard, f"{header.width}x{header.height} pixels, but annotated as {size[0]}x{size[1]}")
            return
        self.put(key, shard, offset, data, split, header, fields)

    def put(
        self, key: str, shard: str, offset: int, data: bytes, split: str, header: Header, fields: Mapping[str, Any]
    ) -> None:
        """Add the row of what was looked at already; arguments as in ``add``, and its size in pixels."""
        checksum = hashlib.sha256(data).hexdigest()[:16]
        self._required.append((key, shard, offset, len(data), header.width, header.height, checksum, split))
        self._fields.append(fields)

    def skip(self, key: str, shard: str, reason: str) -> None:
        """Set an image aside."""
        self._skipped.append(Skipped(key, shard, reason))

    def finish(self, where: str) -> ShardIndex:
        """The rows as a table, with what was set aside.

        Raises:
            UserError: a field has values of the wrong type; ``where`` is named.
        """
        columns = list(zip(*self._required, strict=True)) or [()] * len(REQUIRED)
        arrays = {name: pa.array(values, kind) for (name, kind), values in zip(REQUIRED.items(), columns, strict=True)}
        # Columns in the order in which they are met, so that the same shard always gives the same table.
        names = dict.fromkeys(name for fields in self._fields for name in fields if name not in REQUIRED)
        for name in names:
            try:
                arrays[name] = column([fields.get(name) for fields in self._fields], OPTIONAL.get(name))
            except (pa.ArrowException, OverflowError, TypeError) as error:
                raise UserError(
                    f"{where}: '{name}' has to be {OPTIONAL[name]}, but not all of it is ({error}); correct it, or"
                    " give it another name."
                ) from error
        return ShardIndex(pa.table(arrays), self._skipped)


def column(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """An array of the type that is asked for, or of the one that fits all values: text if nothing else does.

    Raises:
        pa.ArrowInvalid: the values cannot be of the type that is asked for.
    """
    if kind is not None:
        return pa.array(values, kind)
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1 or dict in kinds:
        values = [
            value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True) for value in values
        ]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
