"""A folder of image files: flat, or with a subfolder for each class (ImageFolder).

The key of an image is its path without the ending. A listing has one entry for each folder with images in it.
"""

from pathlib import PurePosixPath
from typing import Literal

from mimcore import artifacts
from mimcore.data.files import Files
from mimcore.data.formats._class_folders import FolderConfig, class_names, folders, split_and_label
from mimcore.data.pool import IMAGE_SUFFIXES, Classes, Shard, ShardIndex, files_shard
from mimcore.data.rows import Rows
from mimcore.errors import UserError


class Config(FolderConfig):
    """Options of a folder of images; ``train`` and ``val`` are subfolders, by default all images are of one split."""

    format: Literal["folder"] = "folder"


def list_shards(config: Config, files: Files) -> list[Shard]:
    """Every folder that has images in it; the number of its class is a part of its tag, since another folder may change it."""
    found = folders(config, files, IMAGE_SUFFIXES)
    classes = class_names(config, files, found, "images")
    return [_labelled(files_shard(name, files, names), config, classes) for name, names in found.items()]


def _labelled(shard: Shard, config: Config, classes: list[str] | None) -> Shard:
    label = split_and_label(config, shard.name, classes)[1]
    return shard if label is None else shard._replace(etag=artifacts.digest([shard.etag, label])[:16])


def index_shard(config: Config, files: Files, shard: Shard) -> ShardIndex:
    """Look at every image in one folder, by name."""
    found = folders(config, files, IMAGE_SUFFIXES)
    split, label = split_and_label(config, shard.name, class_names(config, files, found, "images"))
    fields = {} if label is None else {"label": label}
    rows = Rows(config.perceptual_hash)
    images = found[shard.name]
    for name, data in zip(images, files.read_each(images), strict=True):
        if data is None:
            raise UserError(f"{files.where(name)} is missing since it was listed; bring it back, or pin the pool anew.")
        rows.add(PurePosixPath(name).with_suffix("").as_posix(), name, 0, data, split, fields)
    return rows.finish(files.where(shard.name))


def classes(config: Config, files: Files) -> Classes:
    """Names of the class folders."""
    return Classes(labels=class_names(config, files, folders(config, files, IMAGE_SUFFIXES), "images"))
