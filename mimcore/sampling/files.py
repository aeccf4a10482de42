"""Files that options name: pinned by their digest, so that a definition says all that its result depends on."""

import os
from pathlib import Path

from pydantic import Field

from mimcore import artifacts
from mimcore.data.paths import main_checkout
from mimcore.definition import D, Definition
from mimcore.errors import UserError


class PinnedFile(Definition):
    """A file, and what must be in it.

    DVC cannot be told of a file that an option names; with its digest among the parameters, a changed file is an
    edit of the definition, which makes the subset stale, or else it is refused.
    """

    #: ``~`` and environment variables are expanded; a relative path starts at the repository.
    path: str
    #: SHA-256 in hexadecimal, at least the first 16 digits, as ``sha256sum`` prints it.
    sha256: str = Field(pattern=r"^[0-9a-f]{16,64}$")


def located(config: D, root: Path, where: str) -> D:
    """Options in which each pinned file has its absolute path, and was found to hold what it must.

    Args:
        config: any options.
        root: the folder of ``params.yaml``.
        where: their dotted path.

    Raises:
        UserError: a file is missing or another one.
    """
    files = {name: value for name, value in config if isinstance(value, PinnedFile)}
    return config.model_copy(update={name: _located(file, root, f"{where}.{name}") for name, file in files.items()})


def _located(file: PinnedFile, root: Path, where: str) -> PinnedFile:
    named = Path(os.path.expandvars(file.path)).expanduser()
    # A file that git does not keep lies in the main checkout alone.
    found = next((path for base in (root, main_checkout(root)) if (path := base / named).is_file()), None)
    if found is None:
        raise UserError(f"{where}.path: there is no file {root / named}; correct the path, or fetch the file.")
    digest = artifacts.file_digest(found)
    if not digest.startswith(file.sha256):
        raise UserError(
            f"{where}.sha256: {found} is not the file that was pinned; restore it, or adopt it with 'sha256: {digest}'."
        )
    return file.model_copy(update={"path": str(found)})
