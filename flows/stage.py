"""One stage as one process over DVC: its log and its progress as they come, its end with ours, its result."""

import collections
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flows.forking import SOCKET, offer
from flows.resources import wait_for
from mimcore.lifetime import end_with_parent

#: Seconds between two looks at how far a stage is.
LOOK = 2.0
#: Lines of a failed stage's log that its message repeats.
LAST = 20
#: What DVC says to a person at a terminal.
HINTS = ("Use `dvc push`", "To track the changes with git", "To enable auto staging", "\tgit add", "\tdvc config core.")

_running: set[int] = set()
_stopping = threading.Event()


class StoppedError(Exception):
    """The flow run was told to end."""


@dataclass(frozen=True)
class Progress:
    """How far a stage is; ``mimcore.progress`` writes it."""

    title: str
    unit: str
    done: int
    total: int
    rate: float
    """Units per second."""
    left_seconds: float | None
    """None as long as nobody knows."""


@dataclass(frozen=True)
class Result:
    """How a stage's process ended."""

    code: int
    executed: bool
    """Whether the stage's command was run; if not, DVC had the result."""
    last: str
    """The last lines of the log."""

    def failure(self, name: str) -> str:
        """Say why it failed and what to do."""
        how = f"was killed by signal {-self.code}" if self.code < 0 else "failed"
        return (
            f"{name} {how}; its log ends with:\n\n{self.last}\n\n"
            f"Mend what it names and run the flow again: finished stages stay, training goes on from its last "
            f"checkpoint. Alone and in a terminal it is: dvc repro --single-item {name}"
        )


def run_stage(
    root: Path,
    stage: str,
    environment: Mapping[str, str],
    log: Callable[[str], None],
    show: Callable[[Progress], None],
) -> Result:
    """Bring ``stage`` of the workspace ``root`` up to date in a process group of its own and wait for its end.

    Args:
        root: the workspace.
        stage: its name.
        environment: in addition to this process's own.
        log: is given each line of the output.
        show: is given the progress now and then.

    Raises:
        StoppedError: the flow run ends; nothing of the stage's process group is left.
    """
    with tempfile.TemporaryDirectory(prefix="mimcore-") as folder:
        mark, progress = Path(folder) / "executed", Path(folder) / "progress.json"
        command = [sys.executable, str(Path(__file__).with_name("child.py")), str(os.getpid()), str(mark), stage]
        # The command of a stage says 'python': the one that runs here.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        own = {"PATH": path, "MIMCORE_PROGRESS": str(progress), "PYTHONUNBUFFERED": "1"}
        with offer(environment) or nullcontext() as server:
            process = subprocess.Popen(
                command,
                cwd=root,
                env={**os.environ, **environment, **own, **({SOCKET: str(server.fileno())} if server else {})},
                pass_fds=[server.fileno()] if server else [],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # In the session of the fork server, whose forks join the group.
                process_group=0,
            )
        assert process.stdout is not None
        with process.stdout as output, _in_charge(process):
            last = _follow(process, output, log, lambda: _look(progress, show))
        if _stopping.is_set():
            raise StoppedError(f"{stage} was stopped.")
        return Result(process.returncode, mark.exists(), "\n".join(last))


@contextmanager
def _in_charge(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Leave nothing of the process group behind, however the block ends."""
    _running.add(process.pid)
    try:
        if _stopping.is_set():
            _kill(process.pid)
        yield
    finally:
        _kill(process.pid)
        _running.discard(process.pid)
        process.wait()


def _follow(
    process: "subprocess.Popen[str]", output: IO[str], log: Callable[[str], None], look: Callable[[], None]
) -> collections.deque[str]:
    """Pass on the output line by line until the process ends; returns the last lines."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        with suppress(ValueError):  # closed under its hands
            for line in output:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    def end() -> None:
        with suppress(ChildProcessError):  # waited for already
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            _kill(process.pid)  # whoever still holds the pipe

    for work in (read, end):
        threading.Thread(target=work, daemon=True).start()
    last: collections.deque[str] = collections.deque(maxlen=LAST)
    looked = time.monotonic()
    while True:
        with suppress(queue.Empty):
            line = lines.get(timeout=LOOK)
            if line is None:
                return last
            if line.strip() and not line.startswith(HINTS):
                last.append(line)
                log(line)
        if time.monotonic() - looked >= LOOK:
            looked = time.monotonic()
            look()


def _look(file: Path, show: Callable[[Progress], None]) -> None:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    show(Progress(**found))


def _kill(group: int) -> None:
    """Kill what is left of a group. Its leader has not been waited for: its number is still its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def stop_all() -> None:
    """Kill every stage that this process runs, and start no more until ``start_anew``."""
    _stopping.set()
    for group in list(_running):
        _kill(group)


def end_with_worker() -> None:
    """Let this flow run's process end with the one of Prefect that started it, if one did: nobody else would end it."""
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        end_with_parent(signal.SIGKILL)


def start_anew() -> None:
    """Allow stages again, at the start of a flow run."""
    _stopping.clear()


def go_on() -> None:
    """Return while the flow run goes on.

    Raises:
        StoppedError: it ends.
    """
    if _stopping.is_set():
        raise StoppedError("the flow run ends.")


@contextmanager
def alone(cache: Path, key: str | None) -> Iterator[None]:
    """Hold the stage of this key for this process alone, among all workspaces that share the cache.

    DVC does not see that a result is in the making elsewhere. Whoever waited here finds it in DVC's run-cache. One of
    4096 files is locked, so that they do not pile up: now and then a stage waits for another one in vain.
    """
    if key is None:
        yield
        return
    folder = cache / "in-flight"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        wait_for(folder / key[:3], held, go_on)
        yield
