"""The scratch folder of a run in progress: its lock, and the last checkpoint."""

import ctypes
import errno
import fcntl
import os
import pickle
import signal
import sys
import threading
import time
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
    f"mimcore.{name}" for name in ("__main__", "cli", "study", "layout", "explain", "setaside", "progress", "execution")
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


def die_with_parent() -> None:
    """End this process when its parent ends, so that a killed ``dvc`` leaves no training behind (Linux only).

    The kernel tells of the parent alone, and a shell may stand between ``dvc`` and this process: it is watched too.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        above = _up_to_dvc()
        if len(above) > 1:
            threading.Thread(target=_watch, args=(above,), name="die-with-dvc", daemon=True).start()


def _up_to_dvc() -> list[int]:
    """The processes above this one, up to ``dvc`` if it started this one: what it starts has DVC_STAGE, itself not.

    A process that ends gives its children another parent, so that the list differs from then on.
    """
    above: list[int] = []
    process = os.getpid()
    while process > 1 and b"DVC_STAGE=" in _proc(process, "environ"):
        # The name, in brackets, may hold anything; then come the state and the parent.
        fields = _proc(process, "stat").rpartition(b")")[2].split()
        if len(fields) < 2:
            break
        process = int(fields[1])
        above.append(process)
    return above


def _proc(process: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{file}").read_bytes()
    except OSError:  # it has ended, or belongs to someone else
        return b""


def _watch(above: list[int]) -> None:
    while _up_to_dvc() == above:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


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
