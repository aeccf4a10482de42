"""Several processes of one command on this machine; ``torchrun`` does the like over machines."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from mimcore.errors import Preempted
from mimcore.lifetime import end_with_parent

#: What a rank finds the process in that started it.
STARTER = "MIMCORE_LAUNCHER"
#: Ends that starting again would not change: done, a mistake of the user, asked to end, interrupted.
FINAL = (0, 2, Preempted.EXIT_STATUS, 130)
#: Seconds that a rank has to end by itself.
GRACE_SECONDS = 30.0


def launched() -> bool:
    """Whether this process is a rank already."""
    return "RANK" in os.environ


def rank() -> int:
    """Which of the processes of a run this one is; the first one tells the user."""
    return int(os.environ.get("RANK", "0"))


def join_launcher() -> None:
    """Let a rank end with the process that started it."""
    if starter := os.environ.get(STARTER):
        end_with_parent(signal.SIGKILL, int(starter))


def launch(command: Sequence[str], ranks: int, restarts: int) -> int:
    """Run a command as so many ranks; where one dies, all are ended and started again.

    Signals that ask to end are passed on to the ranks.

    Args:
        command: program and arguments.
        ranks: how many processes.
        restarts: how often they are started again.

    Returns:
        The exit status: 0 if all ended well, else that of the first to end otherwise.
    """
    running: list[subprocess.Popen[bytes]] = []
    told = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        for process in running:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        for left in range(restarts, -1, -1):
            running[:] = _start(command, ranks)
            status = _wait(running)
            if status in FINAL or told or not left:
                return status if status >= 0 else 128 - status
            print(f"mimcore: a rank ended with status {status}; all start again.", file=sys.stderr)
    finally:
        _end(running)
        for number, handler in before.items():
            signal.signal(number, handler)
    raise AssertionError("the last try returns")


def _start(command: Sequence[str], ranks: int) -> list[subprocess.Popen[bytes]]:
    cores = len(os.sched_getaffinity(0))
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // ranks)),
        STARTER: str(os.getpid()),
    }
    return [
        subprocess.Popen(list(command), env=shared | {"RANK": str(number), "LOCAL_RANK": str(number)})
        for number in range(ranks)
    ]


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended well, or one has not, and then end the others."""
    while True:
        ended = [process.poll() for process in running]
        if bad := [status for status in ended if status]:
            _end(running)
            return bad[0]
        if None not in ended:
            return 0
        time.sleep(0.05)


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """End those that are left. One that was asked to end does so by itself, within a while; the rest is killed."""
    asked = any(process.poll() in FINAL[1:] for process in running)
    until = time.monotonic() + (GRACE_SECONDS if asked else 0.0)
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
