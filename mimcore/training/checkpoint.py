"""The scratch folder of a run in progress: its lock, and the last checkpoint."""

import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mimcore import artifacts
from mimcore.errors import UserError


def scratch_key(definition: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """What a checkpoint may be resumed for: the definition, the inputs, the loaded code and the libraries.

    A checkpoint of older code is never resumed: every loaded file of this package is part of the key.
    """
    root = Path(__file__).parents[1]
    sources = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.startswith("mimcore.") and name not in {"mimcore.cli", "mimcore.study", "mimcore.__main__"} and file:
            sources[str(Path(file).relative_to(root))] = artifacts.digest(Path(file).read_text(encoding="utf-8"))
    parts = {"definition": dict(definition), "inputs": dict(inputs), "sources": sources}
    return artifacts.digest(parts | {"libraries": artifacts.libraries()})[:24]


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Hold the scratch folder for this process alone.

    Raises:
        UserError: another process is working on the same run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise UserError(
                f"this run is being trained already, by process {holder} (lock {folder / 'lock'}); wait for it, or stop it."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
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
    """Write the checkpoint, whole or not at all."""
    with artifacts.file(folder / "checkpoint.pt") as part:
        torch.save(dict(state), part)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the last checkpoint, or None if there is none."""
    file = folder / "checkpoint.pt"
    if not file.exists():
        return None
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state
