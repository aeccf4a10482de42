"""Files in a folder for each split, flat, or with a subfolder for each class (torchvision's ImageFolder)."""

from collections import defaultdict
from pathlib import PurePosixPath

from mimcore.data.files import Files
from mimcore.data.pool import SplitConfig
from mimcore.errors import UserError


class FolderConfig(SplitConfig):
    """Options of such a pool; ``train`` and ``val`` are subfolders, by default all files are of one split."""

    #: Take the subfolders of a split, sorted by name, as classes; files that lie beside none have no label.
    labels: bool = True


def folders(config: FolderConfig, files: Files, suffixes: frozenset[str]) -> dict[str, list[str]]:
    """Names of the files with one of these endings by folder, both sorted.

    Raises:
        UserError: the folder of a split is missing.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for base in _bases(config):
        names = files.walk(base)
        if names is None:
            raise UserError(f"{files.where(base)} is missing; correct 'train' and 'val', the subfolders of the splits.")
        for name in names:
            path = PurePosixPath(name)
            if not path.name.startswith(".") and path.suffix.lower().removeprefix(".") in suffixes:
                found[path.parent.as_posix()].add(name)
    return {folder: sorted(found[folder]) for folder in sorted(found)}


def class_names(config: FolderConfig, files: Files, folders: dict[str, list[str]], what: str) -> list[str] | None:
    """Class folders of the training split; None if its files lie flat.

    Args:
        config: of the pool.
        files: of the pool.
        folders: as found by the function of this name.
        what: lies there, for an error.

    Raises:
        UserError: some files lie in class folders and some beside them, or validation has a class of its own.
    """
    if not config.labels:
        return None
    found: dict[str, set[str]] = {base: set() for base in _bases(config)}
    for folder in folders:
        base = _base(config, folder)
        below = PurePosixPath(folder).relative_to(base)
        found[base].add(below.parts[0] if below.parts else "")
    names = found[_bases(config)[0]]
    for base, here in found.items():
        if "" in here and len(here) > 1:
            raise UserError(
                f"{files.where(base)}: some {what} lie in subfolders and some beside them, so that the subfolders are no"
                " classes; sort them in, or set 'labels' to false."
            )
        if not here <= names:
            extra = ", ".join(sorted(here - names)[:3]) or "none"
            raise UserError(
                f"{files.where(base)}: its class folders ({extra}) are not all in the training split; move them."
            )
    return None if "" in names else sorted(names)


def split_and_label(config: FolderConfig, folder: str, names: list[str] | None) -> tuple[str, int | None]:
    """The split of the files in a folder, and the number of their class, where they have one."""
    base = _base(config, folder)
    below = PurePosixPath(folder).relative_to(base).parts
    return "val" if base == config.val else "train", names.index(below[0]) if names and below else None


def _bases(config: FolderConfig) -> list[str]:
    """Subfolders of the splits."""
    return [base for base in (config.train or ("." if config.val is None else None), config.val) if base is not None]


def _base(config: FolderConfig, folder: str) -> str:
    """The split that a folder is in."""
    inside = [base for base in _bases(config) if PurePosixPath(folder).is_relative_to(base)]
    return max(inside, key=lambda base: len(PurePosixPath(base).parts))
