"""The scratch folder of a run in progress: its lock, and the last checkpoint."""

import errno
import fcntl
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mimcore import artifacts
from mimcore.errors import UserError

#: What a file that is no checkpoint, or a damaged one, is found out by.
_BROKEN = (
    zipfile.BadZipFile,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    pickle.UnpicklingError,
)


#: Modules that translate and show: they cannot change a result.
OUTSIDE = {
    f"mimcore.{name}"
    for name in ("__main__", "cli", "study", "layout", "explain", "setaside", "progress", "execution", "lifetime")
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


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the checkpoint, whole or not at all.

    Raises:
        UserError: the disk is full or cannot be written; the checkpoint before is kept.
    """
    with artifacts.file(folder / "checkpoint.pt") as part, part.open("wb") as stream:
        try:
            torch.save(dict(state), stream)
        except RuntimeError as error:  # torch's writer fails once more while it ends, and hides what the disk said
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the last checkpoint, or None if there is none.

    One that is broken is set aside as ``checkpoint.broken.pt`` and said so: training starts over.

    Raises:
        UserError: it cannot be read at all.
    """
    file = folder / "checkpoint.pt"
    try:
        with zipfile.ZipFile(file) as archive:  # torch writes checksums, but reads tensors without a look at them
            whole = archive.testzip() is None
        state: dict[str, Any] | None = torch.load(file, map_location="cpu", weights_only=True) if whole else None
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a damaged offset leads to
            raise _unusable(folder, error) from error
        state = None
    except _BROKEN:
        state = None
    if state is None:
        aside = file.replace(folder / "checkpoint.broken.pt")
        print(f"mimcore: the checkpoint was broken; it is now {aside}, and training starts over.", file=sys.stderr)
    return state


def _unusable(folder: Path, error: OSError) -> UserError:
    what = (error.strerror or str(error)).lower()
    return UserError(f"cannot use the scratch folder {folder}: {what}; free or mend the disk and run again.")
