"""Where a pool lies: in a folder, or in a bucket of S3."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mimcore.errors import UserError

#: How the path of a pool on S3 begins.
S3 = "s3://"


class S3Folder(NamedTuple):
    """What lies below a prefix of a bucket."""

    bucket: str
    #: Without a slash at either end; empty for the whole bucket.
    prefix: str

    def key(self, name: str) -> str:
        """The key of the object that is called ``name`` below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        return f"{S3}{self.bucket}/{self.prefix}".rstrip("/")


#: Where the names of shards count from.
Root = Path | S3Folder


def pool_root(options: Mapping[str, Any], root: Path) -> Root:
    """The folder of a pool.

    Args:
        options: ``pools.<name>`` of ``params.yaml``. ``path`` may have ``~`` and environment variables, or be
            ``s3://bucket/prefix``; without one the pool lies in ``data/<format>``.
        root: the folder of ``params.yaml``. A relative path counts from there, or in a git worktree from
            the same folder of the main checkout: images are never copied into a worktree.

    Raises:
        UserError: an address on S3 names no bucket.
    """
    text = os.path.expandvars(str(options.get("path") or Path("data") / str(options.get("format", ""))))
    if text.startswith(S3):
        bucket, _, prefix = text.removeprefix(S3).partition("/")
        # What Amazon takes, and other stores too; an access point's ARN is none of it.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", bucket):
            # The address is not shown: whoever wrote credentials into it does not want them in a log.
            raise UserError("path: the address on S3 names no bucket; write s3://BUCKET/PREFIX, with no credentials.")
        return S3Folder(bucket, prefix.strip("/"))
    path = Path(text).expanduser()
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
