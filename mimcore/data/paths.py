"""Where a pool lies on disk."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def pool_root(options: Mapping[str, Any], root: Path) -> Path:
    """The folder of a pool.

    Args:
        options: ``pools.<name>`` of ``params.yaml``. ``path`` may have ``~`` and environment variables; without one
            the pool lies in ``data/<format>``.
        root: the folder of ``params.yaml``. A relative path counts from there, or in a git worktree from
            the same folder of the main checkout: images are never copied into a worktree.
    """
    text = str(options.get("path") or Path("data") / str(options.get("format", "")))
    path = Path(os.path.expandvars(text)).expanduser()
    return path if path.is_absolute() else main_checkout(root) / path


def main_checkout(folder: Path) -> Path:
    """The counterpart of ``folder`` in the main git checkout; ``folder`` itself outside of a git worktree."""
    folder = folder.resolve()
    for top in (folder, *folder.parents):
        mark = top / ".git"
        if mark.is_file():
            main = _main_of_worktree(mark)
            return main / folder.relative_to(top) if main else folder
        if mark.exists():
            break
    return folder


def _main_of_worktree(mark: Path) -> Path | None:
    """Follow the ``.git`` file of a worktree: ``gitdir:`` names its folder, ``commondir`` there the shared one."""
    text = mark.read_text(encoding="utf-8").strip()
    private = (mark.parent / text.removeprefix("gitdir:").strip()).resolve()
    common = private / "commondir"
    if not text.startswith("gitdir:") or not common.is_file():
        return None
    shared = (private / common.read_text(encoding="utf-8").strip()).resolve()
    # A bare repository has worktrees but no main checkout.
    return shared.parent if shared.name == ".git" else None
