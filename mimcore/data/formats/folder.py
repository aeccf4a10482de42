"""A folder of image files: flat, or with a subfolder for each class (ImageFolder).

The key of an image is its path without the ending. A listing has one entry for each folder with images in it.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Literal

from mimcore.data.pool import IMAGE_SUFFIXES, Classes, Shard, ShardIndex, SplitConfig, files_shard
from mimcore.data.rows import Rows
from mimcore.errors import UserError


class Config(SplitConfig):
    """Options of a folder of images; ``train`` and ``val`` are subfolders, by default all images are of one split."""

    format: Literal["folder"] = "folder"
    #: Take the subfolders of a split, sorted by name, as classes; images that lie beside none have no label.
    labels: bool = True


def list_shards(config: Config, root: Path) -> list[Shard]:
    """Every folder that has images in it."""
    return [files_shard(name, files) for name, files in sorted(_folders(config, root).items())]


def index_shard(config: Config, root: Path, shard: Shard) -> ShardIndex:
    """Look at every image in one folder, by name."""
    base = _base(config, shard.name)
    below = Path(shard.name).relative_to(base)
    names = _class_names(config, root)
    fields = {"label": names.index(below.parts[0])} if names and below.parts else {}
    rows = Rows(config.perceptual_hash)
    for path in _folders(config, root)[shard.name]:
        relative = path.relative_to(root)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); mend or remove it.") from error
        split = "val" if base == config.val else "train"
        rows.add(relative.with_suffix("").as_posix(), relative.as_posix(), 0, data, split, fields)
    return rows.finish(root / shard.name)


def classes(config: Config, root: Path) -> Classes:
    """Names of the class folders."""
    return Classes(labels=_class_names(config, root))


def _bases(config: Config) -> list[str]:
    """Subfolders of the splits."""
    return [base for base in (config.train or ("." if config.val is None else None), config.val) if base is not None]


def _base(config: Config, folder: str) -> str:
    """The split that a folder is in."""
    inside = [base for base in _bases(config) if Path(folder).is_relative_to(base)]
    return max(inside, key=lambda base: len(Path(base).parts))


def _folders(config: Config, root: Path) -> dict[str, list[Path]]:
    """Image files by folder, relative to the root, both sorted by name."""
    found: dict[str, list[Path]] = defaultdict(list)
    for base in _bases(config):
        if not (root / base).is_dir():
            raise UserError(f"{root / base} is missing; correct 'train' and 'val', the subfolders of the splits.")
        for folder, _, names in os.walk(root / base, followlinks=True):
            images = [Path(folder) / name for name in sorted(names) if _is_image(name)]
            if images:
                found[Path(folder).relative_to(root).as_posix()] = images
    return dict(sorted(found.items()))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower().removeprefix(".") in IMAGE_SUFFIXES


def _class_names(config: Config, root: Path) -> list[str] | None:
    """Class folders of the training split; None if its images lie flat.

    Raises:
        UserError: some images lie in class folders and some beside them, or validation has a class of its own.
    """
    if not config.labels:
        return None
    found: dict[str, set[str]] = {base: set() for base in _bases(config)}
    for folder in _folders(config, root):
        base = _base(config, folder)
        below = Path(folder).relative_to(base)
        found[base].add(below.parts[0] if below.parts else "")
    names = found[_bases(config)[0]]
    for base, here in found.items():
        if "" in here and len(here) > 1:
            raise UserError(
                f"{root / base}: some images lie in subfolders and some beside them, so that the subfolders are no"
                " classes; sort them in, or set 'labels' to false."
            )
        if not here <= names:
            extra = ", ".join(sorted(here - names)[:3]) or "none"
            raise UserError(f"{root / base}: its class folders ({extra}) are not all in the training split; move them.")
    return None if "" in names else sorted(names)
