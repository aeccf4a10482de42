"""The scratch folder of a run in progress: its lock, and the last checkpoint."""

import ctypes
import fcntl
import os
import signal
import sys
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
    """End this process when its parent ends, so that a killed ``dvc`` leaves no training behind (Linux only)."""
    if sys.platform == "linux":
        parent = os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
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
