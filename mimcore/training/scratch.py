"""The scratch folder of a run in progress: what it is for, and its lock."""

import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mimcore import artifacts
from mimcore.errors import UserError

#: Modules that translate and show: they cannot change a result.
OUTSIDE = {
    f"mimcore.{name}"
    for name in (
        "__main__",
        "cli",
        "study",
        "runs",
        "layout",
        "explain",
        "setaside",
        "progress",
        "execution",
        "lifetime",
        "launch",
    )
}


def scratch_key(definition: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """What a checkpoint may be resumed for: the definition, the inputs, the loaded code and the libraries.

    A checkpoint of older code is never resumed: every loaded file of this package that can change a result is part of the key.
    """
    root = Path(__file__).parents[1]
    sources = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.startswith("mimcore.") and name not in OUTSIDE and file:
            sources[str(Path(file).relative_to(root))] = artifacts.digest(Path(file).read_text(encoding="utf-8"))
    parts = {"definition": dict(definition), "inputs": dict(inputs), "sources": sources}
    return artifacts.digest(parts | {"libraries": artifacts.libraries()})[:24]


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Hold the scratch folder for this process alone.

    Raises:
        UserError: another process is working on the same run, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise _unusable(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise UserError(
                f"this run is being trained already, by process {holder} (lock {folder / 'lock'}); wait for it, or stop it."
            ) from None
        except OSError as error:
            raise _unusable(folder, error) from error
        yield folder


def _unusable(folder: Path, error: OSError) -> UserError:
    what = (error.strerror or str(error)).lower()
    return UserError(f"cannot use the scratch folder {folder}: {what}; free or mend the disk and run again.")
