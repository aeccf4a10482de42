"""Tar shards as of webdataset and img2dataset: the files of one sample share their name up to the first dot.

``KEY.jpg`` (or png, webp, bmp, tif, tiff, gif) is the image, ``KEY.txt`` its caption, ``KEY.cls`` its label,
``KEY.json`` more fields. A Parquet file beside the tar, of the same name, adds its columns by ``key``.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mimcore.data.classes import read_classes
from mimcore.data.files import Files, matches
from mimcore.data.pool import IMAGE_SUFFIXES, Classes, Shard, ShardIndex, SplitConfig, file_shard
from mimcore.data.rows import REQUIRED, Rows
from mimcore.errors import UserError


class Config(SplitConfig):
    """Options of a pool of tar shards; ``train`` and ``val`` are patterns of shards."""

    format: Literal["tar"] = "tar"
    train: str = "*.tar"
    #: JSON file with the names of the classes in the order of the labels.
    classes: str | None = None
    #: JSON file with the names of the classes of boxes, in the order of ``box_labels``.
    box_classes: str | None = None


def list_shards(config: Config, files: Files) -> list[Shard]:
    """Every tar of either split; the side Parquet is part of its tag."""
    found = []
    for name in sorted({*files.match(config.train), *files.match(config.val)}):
        shard = file_shard(files, name)
        side = _side_file(name)
        found.append(shard._replace(etag=f"{shard.etag}-{files.tag(side).etag}") if files.exists(side) else shard)
    return found


def index_shard(config: Config, files: Files, shard: Shard) -> ShardIndex:
    """Look at every image of a tar, in its order.

    Raises:
        UserError: the tar is cut short or compressed, or its side Parquet does not fit.
    """
    split = "val" if matches(shard.name, config.val) else "train"
    return index_tar(files, shard, split, config.perceptual_hash)


def classes(config: Config, files: Files) -> Classes:
    """Names of the labels and of the boxes, if there are files of them."""
    return Classes(
        labels=read_classes(files, config.classes) if config.classes else None,
        boxes=read_classes(files, config.box_classes) if config.box_classes else None,
    )


def index_tar(
    files: Files, shard: Shard, split: str, hashed: bool, named: Callable[[str], str] = lambda stem: stem
) -> ShardIndex:
    """Rows of one tar; ``named`` gives the key of the image that a name in the tar stands for."""
    rows = Rows(hashed)
    side = _side_columns(files, shard)
    where = files.where(shard.name)
    try:
        with files.open(shard.name, shard.etag) as file:
            for key, members in _samples(where, file):
                _add(rows, file, shard.name, split, named(key), members, side.get(key, {}))
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error}); mend it or take it out of the pool.") from error
    return rows.finish(where)


def _samples(where: str, file: BinaryIO) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Groups of neighbouring members whose names agree up to the first dot: (key, members by suffix)."""
    key, members = None, dict[str, tarfile.TarInfo]()
    for member in _members(where, file):
        if not member.isfile():
            continue
        base = PurePosixPath(member.name)
        stem, _, suffix = base.name.partition(".")
        if not stem:
            continue
        current = (base.parent / stem).as_posix()
        if key is not None and current != key:
            yield key, members
            members = {}
        key = current
        members[suffix.lower()] = member
    if key is not None:
        yield key, members


def _members(where: str, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    if file.read(2) == b"\x1f\x8b":
        raise UserError(
            f"{where} is compressed, so that no image in it can be reached; unpack it with 'gunzip' to a plain tar."
        )
    file.seek(0)
    cut = UserError(f"{where} is cut short or damaged; fetch it again, or take it out of the pool.")
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield from tar
            end = tar.offset
    except tarfile.TarError:
        raise cut from None
    # tarfile takes any damaged header for the end; a whole tar ends with a block of zeros.
    file.seek(end)
    if file.read(512) != bytes(512):
        raise cut


def _add(
    rows: Rows,
    file: BinaryIO,
    shard: str,
    split: str,
    key: str,
    members: Mapping[str, tarfile.TarInfo],
    side: Mapping[str, Any],
) -> None:
    image = next((member for suffix, member in members.items() if suffix in IMAGE_SUFFIXES), None)
    if image is None:
        # img2dataset leaves samples without an image behind when a download failed.
        return
    fields: dict[str, Any] = {}
    if "json" in members:
        try:
            found = dict(json.loads(_read(file, members["json"])))
        except (ValueError, TypeError):
            rows.skip(key, shard, "its .json is no mapping")
            return
        fields |= {name: value for name, value in found.items() if isinstance(value, str | int | float | bool | None)}
    fields |= side
    if "txt" in members:
        fields["caption"] = _read(file, members["txt"]).decode(errors="replace").strip()
    if "cls" in members:
        text = _read(file, members["cls"]).decode(errors="replace").strip()
        if not text.isdigit():
            rows.skip(key, shard, f"its .cls is no label: '{text[:20]}'")
            return
        fields["label"] = int(text)
    rows.add(key, shard, image.offset_data, _read(file, image), split, fields)


def _read(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    # tarfile itself has moved the file on; it seeks to where the next header is.
    file.seek(member.offset_data)
    return file.read(member.size)


def _side_file(name: str) -> str:
    return PurePosixPath(name).with_suffix(".parquet").as_posix()


def _side_columns(files: Files, shard: Shard) -> dict[str, dict[str, Any]]:
    """Columns of the Parquet beside a tar, by key."""
    name = _side_file(shard.name)
    if not files.exists(name):
        return {}
    side, tar = files.where(name), PurePosixPath(shard.name).name
    try:
        table = pq.read_table(files.table(name, shard.etag), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{side} cannot be read ({error}); mend it, or remove it to index {tar} without.") from error
    if "key" not in table.column_names:
        raise UserError(f"{side}: there is no column 'key' that joins it with {tar}; add it, or remove the file.")
    keys = table["key"].cast(pa.string()).to_pylist()
    rest = table.select([name for name in table.column_names if name not in REQUIRED])
    return dict(zip(keys, rest.to_pylist(), strict=True))
