"""Artifacts that a study no longer names are set aside before it is collected, never deleted.

DVC hashes the folders that ``collect`` looks at as a whole: what lies there and is not of the study would make it
stale, and different in two checkouts. DVC takes the hash after the command, so that the lock holds the clean state.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

#: DVC's own, beside its outputs; it is in ``.dvcignore``.
KEPT = {".gitignore"}


def set_aside(artifacts: Path, named: Iterable[Path], aside: Path) -> list[Path]:
    """Move whatever lies in the folders of ``named`` but is not named to ``aside``, replacing what is there.

    Args:
        artifacts: the folder of artifacts.
        named: every artifact of the study, such as ``artifacts/runs/NAME`` and ``artifacts/evals/NAME/TASK``; their first
            folders below ``artifacts`` are looked through, and nothing else is.
        aside: where strangers go, under the same path as below ``artifacts``.

    Returns:
        where each stranger lay, sorted.
    """
    wanted = {path.relative_to(artifacts) for path in named}
    parents = {parent for path in wanted for parent in path.parents if parent != Path()}
    folders = sorted({path.parts[0] for path in wanted})
    strangers = [stranger for name in folders for stranger in _strangers(artifacts, Path(name), wanted, parents)]
    for stranger in strangers:
        target = aside / stranger
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(artifacts / stranger, target)
    return [artifacts / stranger for stranger in strangers]


def _strangers(root: Path, folder: Path, wanted: set[Path], parents: set[Path]) -> Iterator[Path]:
    if not (root / folder).is_dir():
        return
    for child in sorted((root / folder).iterdir()):
        place = child.relative_to(root)
        if place in wanted or child.name in KEPT:
            continue
        if place in parents:
            yield from _strangers(root, place, wanted, parents)
        else:
            yield place
