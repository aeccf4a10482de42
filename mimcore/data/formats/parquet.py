"""Parquet files with the encoded images inside, as of Hugging Face data sets.

The image column is a struct with binary ``bytes``, or binary itself. Other plain columns are taken along.
"""

import json
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mimcore.data.classes import read_classes
from mimcore.data.files import Files, matches
from mimcore.data.pool import Classes, Shard, ShardIndex, SplitConfig, file_shard
from mimcore.data.rows import OPTIONAL, REQUIRED, Rows
from mimcore.data.storage import image_bytes, image_field
from mimcore.errors import UserError


class Config(SplitConfig):
    """Options of a pool of Parquet files; ``train`` and ``val`` are patterns of files."""

    format: Literal["parquet"] = "parquet"
    train: str = "train-*.parquet"
    #: Column of the encoded images.
    image_column: str = "image"
    #: Column of the labels, whole numbers from 0; None where there is none.
    label_column: str | None = "label"
    caption_column: str | None = None
    #: Column of the keys; by default an image is called ``<file>/<row>``, without the ending.
    key_column: str | None = None
    #: JSON file with the names of the classes; by default those in the Hugging Face metadata are taken, if there.
    classes: str | None = None


def list_shards(config: Config, files: Files) -> list[Shard]:
    """Every file of either split."""
    return [file_shard(files, name) for name in sorted({*files.match(config.train), *files.match(config.val)})]


def index_shard(config: Config, files: Files, shard: Shard) -> ShardIndex:
    """Look at every image of a file, one row group at a time.

    Raises:
        UserError: the file is damaged, or lacks a column that the options name.
    """
    where = files.where(shard.name)
    split = "val" if matches(shard.name, config.val) else "train"
    rows = Rows(config.perceptual_hash)
    try:
        file = pq.ParquetFile(files.table(shard.name, shard.etag), pre_buffer=True)
        columns = _columns(config, file.schema_arrow, where)
        number = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=sorted({config.image_column, *columns.values()}))
            images = image_bytes(table[config.image_column]).to_pylist()
            for data, fields in zip(images, _fields(table, columns), strict=True):
                key = fields.pop("key", f"{PurePosixPath(shard.name).with_suffix('').as_posix()}/{number}")
                rows.add(str(key), shard.name, number, data or b"", split, fields)
                number += 1
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{where} cannot be read ({error}); mend it, or take it out of the pool.") from error
    return rows.finish(where)


def classes(config: Config, files: Files) -> Classes:
    """Names of the labels, from the file of the option or from the metadata of the first file."""
    if config.classes:
        return Classes(labels=read_classes(files, config.classes))
    for name in files.match(config.train)[:1]:
        return Classes(labels=_metadata_classes(pq.read_schema(files.table(name, None)), config.label_column))
    return Classes()


def _columns(config: Config, schema: pa.Schema, where: str) -> dict[str, str]:
    """Columns to take along, by what each is called in the index."""
    image_field(schema, config.image_column, where)
    columns = {}
    named = {"label": config.label_column, "caption": config.caption_column, "key": config.key_column}
    for name, column in named.items():
        if column is not None and column not in schema.names:
            raise UserError(
                f"{where}: there is no column '{column}'; correct '{name}_column', or set it to null"
                f" (known: {', '.join(schema.names)})."
            )
        if column is not None:
            columns[name] = column
    for field in schema:
        known = field.name in OPTIONAL or not _is_bulky(field.type)
        if field.name not in {config.image_column, *columns, *columns.values(), *REQUIRED} and known:
            columns[field.name] = field.name
    return columns


def _is_bulky(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _fields(table: pa.Table, columns: dict[str, str]) -> list[dict[str, Any]]:
    """Each row of a table, under the names of the index."""
    if not columns:
        return [{} for _ in range(table.num_rows)]
    fields: list[dict[str, Any]] = pa.table({name: table[column] for name, column in columns.items()}).to_pylist()
    return fields


def _metadata_classes(schema: pa.Schema, label_column: str | None) -> list[str] | None:
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        names = info["info"]["features"][label_column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names]
