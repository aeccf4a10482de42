"""The life of a process: a stage ends with the ``dvc`` that started it, and what serves the flows with its starter."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path


def die_with_parent() -> None:
    """End this process when its parent ends, so that a killed ``dvc`` leaves no work behind (Linux only).

    The kernel tells of the parent alone, and a shell may stand between ``dvc`` and this process: it is watched too.
    """
    if sys.platform == "linux":
        end_with_parent(signal.SIGKILL)
        above = _up_to_dvc()
        if len(above) > 1:
            threading.Thread(target=_watch, args=(above,), name="die-with-dvc", daemon=True).start()


def end_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Let the kernel send this process a signal when its parent ends in any way (Linux only).

    Args:
        number: the signal.
        parent: the process that must be the parent still; the present one if None.
    """
    if sys.platform == "linux":
        parent = parent or os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)
        if os.getppid() != parent:  # it had ended before the kernel knew
            os.kill(os.getpid(), number)


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
