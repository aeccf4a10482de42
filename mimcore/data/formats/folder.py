"""A folder of image files: flat, or with a subfolder for each class (ImageFolder).

The key of an image is its path without the ending. A listing has one entry for each folder with images in it.
"""

from collections import defaultdict
from pathlib import PurePosixPath
from typing import Literal

from mimcore.data.files import Files
from mimcore.data.pool import IMAGE_SUFFIXES, Classes, Shard, ShardIndex, SplitConfig, files_shard
from mimcore.data.rows import Rows
from mimcore.errors import UserError


class Config(SplitConfig):
    """Options of a folder of images; ``train`` and ``val`` are subfolders, by default all images are of one split."""

    format: Literal["folder"] = "folder"
    #: Take the subfolders of a split, sorted by name, as classes; images that lie beside none have no label.
    labels: bool = True


def list_shards(config: Config, files: Files) -> list[Shard]:
    """Every folder that has images in it."""
    return [files_shard(name, files, names) for name, names in sorted(_folders(config, files).items())]


def index_shard(config: Config, files: Files, shard: Shard) -> ShardIndex:
    """Look at every image in one folder, by name."""
    base = _base(config, shard.name)
    below = PurePosixPath(shard.name).relative_to(base)
    names = _class_names(config, files)
    fields = {"label": names.index(below.parts[0])} if names and below.parts else {}
    rows = Rows(config.perceptual_hash)
    split = "val" if base == config.val else "train"
    images = _folders(config, files)[shard.name]
    for name, data in zip(images, files.read_each(images), strict=True):
        if data is None:
            raise UserError(f"{files.where(name)} is missing since it was listed; bring it back, or pin the pool anew.")
        rows.add(PurePosixPath(name).with_suffix("").as_posix(), name, 0, data, split, fields)
    return rows.finish(files.where(shard.name))


def classes(config: Config, files: Files) -> Classes:
    """Names of the class folders."""
    return Classes(labels=_class_names(config, files))


def _bases(config: Config) -> list[str]:
    """Subfolders of the splits."""
    return [base for base in (config.train or ("." if config.val is None else None), config.val) if base is not None]


def _base(config: Config, folder: str) -> str:
    """The split that a folder is in."""
    inside = [base for base in _bases(config) if PurePosixPath(folder).is_relative_to(base)]
    return max(inside, key=lambda base: len(PurePosixPath(base).parts))


def _folders(config: Config, files: Files) -> dict[str, list[str]]:
    """Names of images by folder, both sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for base in _bases(config):
        names = files.walk(base)
        if names is None:
            raise UserError(f"{files.where(base)} is missing; correct 'train' and 'val', the subfolders of the splits.")
        for name in names:
            path = PurePosixPath(name)
            if _is_image(path):
                found[path.parent.as_posix()].add(name)
    return {folder: sorted(found[folder]) for folder in sorted(found)}


def _is_image(path: PurePosixPath) -> bool:
    return not path.name.startswith(".") and path.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES


def _class_names(config: Config, files: Files) -> list[str] | None:
    """Class folders of the training split; None if its images lie flat.

    Raises:
        UserError: some images lie in class folders and some beside them, or validation has a class of its own.
    """
    if not config.labels:
        return None
    found: dict[str, set[str]] = {base: set() for base in _bases(config)}
    for folder in _folders(config, files):
        base = _base(config, folder)
        below = PurePosixPath(folder).relative_to(base)
        found[base].add(below.parts[0] if below.parts else "")
    names = found[_bases(config)[0]]
    for base, here in found.items():
        if "" in here and len(here) > 1:
            raise UserError(
                f"{files.where(base)}: some images lie in subfolders and some beside them, so that the subfolders are no"
                " classes; sort them in, or set 'labels' to false."
            )
        if not here <= names:
            extra = ", ".join(sorted(here - names)[:3]) or "none"
            raise UserError(
                f"{files.where(base)}: its class folders ({extra}) are not all in the training split; move them."
            )
    return None if "" in names else sorted(names)
