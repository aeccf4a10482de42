"""Lists of videos with their labels, as the code of SlowFast and VideoMAE reads them: on each line a path and a label.

``path label`` (SlowFast's slowfast/datasets/DATASET.md, VideoMAE's DATASET.md), or with a comma or a tab between the two. A
label is a number from 0, or the name of a class.
"""

from pathlib import PurePosixPath
from typing import NamedTuple

from mimcore.data.files import Files, MissingFileError
from mimcore.data.videos import VIDEO_SUFFIXES
from mimcore.errors import UserError

#: How the names of lists end.
LIST_SUFFIXES = frozenset({"csv", "tsv", "txt"})


class Line(NamedTuple):
    """A video of a list: its path below the root of the pool, and its label as it is written."""

    name: str
    label: str


def is_list(name: str | None) -> bool:
    """Whether a split is given by a list, and not by a folder."""
    return name is not None and PurePosixPath(name).suffix.lower().removeprefix(".") in LIST_SUFFIXES


def read_list(files: Files, name: str, base: str) -> list[Line]:
    """The videos of a list, in its order; a first line that names no video is taken for a header.

    Args:
        files: of the pool.
        name: of the list.
        base: the folder that relative paths count from.

    Raises:
        UserError: the list is missing, a line is none of a path and a label, or a path leads out of the pool.
    """
    where = files.where(name)
    try:
        text = files.read(name).decode("utf-8-sig", errors="replace")
    except MissingFileError:
        raise UserError(f"{where} is missing; correct 'train' and 'val', the lists of the splits.") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        parts = _parts(line)
        if parts is not None:
            found.append(Line(_below(files, base, parts[0], f"{where}, line {number}"), parts[1]))
        elif number > 1:
            raise UserError(
                f"{where}, line {number}: '{line.strip()[:80]}' is not the path of a video and a label with a comma, a tab or"
                f" a space between them; correct it (videos end in {', '.join(sorted(VIDEO_SUFFIXES))})."
            )
    return found


def _parts(line: str) -> tuple[str, str] | None:
    """Path and label: the separator is the one before which a video is named, since both may have spaces and commas."""
    for separator in (",", "\t", " "):
        fields = line.strip().split(separator)
        for cut in range(1, len(fields)):
            path, label = (_unquoted(separator.join(some)) for some in (fields[:cut], fields[cut:]))
            if label and PurePosixPath(path).suffix.lower().removeprefix(".") in VIDEO_SUFFIXES:
                return path, label
    return None


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def _below(files: Files, base: str, path: str, where: str) -> str:
    root = files.where().rstrip("/") + "/"
    inside = path.startswith(root)
    found = PurePosixPath(path.removeprefix(root) if inside else f"{base}/{path}" if not path.startswith("/") else path)
    if found.is_absolute() or ".." in found.parts or "://" in path.removeprefix(root):
        raise UserError(f"{where}: '{path}' does not lie below the pool's path, {root}; correct the path of the pool.")
    return found.as_posix()
