"""A process that loads torch and the like once, and forks itself for each command of a stage: all but the first start at once.

Run by its path: ``fork_server.py SOCKET ROOM``, where ``SOCKET`` is the number of an open socket, over which the flow's
process hands in one more for each stage, and ``ROOM`` is blank: what the command of a fork is called by ``ps`` is written there.
Over that socket the stage's process (``flows.forking``) asks for its command and hears how it ended; when it is closed, the
command is killed.

Nothing of mimcore is loaded before the fork: a stage runs the code that its files have when it starts. Threads do not live on
in a fork, nor does a GPU: a library that starts some, as pyarrow does, is left to the command.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

#: What most stages load, and what takes long.
LIBRARIES = (
    *("torch", "torch._dynamo", "torchvision", "timm", "safetensors.torch"),
    *("numpy", "PIL.Image", "pydantic", "typer", "rich.progress", "yaml"),
)
#: Seconds without work after which the server ends; the next stage starts another one.
IDLE = 60.0
#: Exit status of a server that cannot serve here.
UNABLE = 3


def serve(control: socket.socket) -> None:
    """Fork for each request until ``control`` is closed, or nothing has been asked for a while."""
    running: dict[int, tuple[socket.socket, int]] = {}  # by the descriptor that tells of the end of a process
    with selectors.DefaultSelector() as ready:
        ready.register(control, selectors.EVENT_READ)
        while True:
            events = ready.select(IDLE)
            if not events and len(ready.get_map()) == 1:
                return
            for key, _ in events:
                if ready.get_map().get(key.fd) is not key:  # closed by what was looked at before it
                    continue
                if key.fileobj is control:
                    word, handed, _, _ = socket.recv_fds(control, 1, 1)
                    if not word:
                        for _, process in running.values():
                            os.kill(process, signal.SIGKILL)
                        return
                    ready.register(socket.socket(fileno=handed[0]), selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket):
                    _heard(key.fileobj, ready, running)
                elif isinstance(key.fileobj, int):
                    _ended(key.fileobj, ready, running)


def _heard(
    asked: socket.socket, ready: selectors.BaseSelector, running: "dict[int, tuple[socket.socket, int]]"
) -> None:
    """A stage's process asks, or has gone."""
    mine = [process for connection, process in running.values() if connection is asked]
    try:
        word, handed, _, _ = socket.recv_fds(asked, 1, 3)
    except OSError:
        word, handed = b"", []
    if mine or not word:  # after its request it says nothing more
        ready.unregister(asked)
        if not mine:
            asked.close()
        for process in mine:
            os.kill(process, signal.SIGKILL)
        return
    load()
    server = os.getpid()
    process = os.fork()
    if process == 0:
        for key in ready.get_map().values():
            os.close(key.fd)
        _become(handed, server)
    for descriptor in handed:
        os.close(descriptor)
    with suppress(OSError):  # it has just ended: there will be an end of the file to read
        asked.sendall(b"started\n")
    tells = os.pidfd_open(process)
    running[tells] = (asked, process)
    ready.register(tells, selectors.EVENT_READ)


def _ended(tells: int, ready: selectors.BaseSelector, running: "dict[int, tuple[socket.socket, int]]") -> None:
    """Say how a command ended, as ``subprocess`` does: its exit status, or minus the signal that killed it."""
    asked, process = running.pop(tells)
    ready.unregister(tells)
    os.close(tells)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if asked in ready.get_map():
        ready.unregister(asked)
    with suppress(OSError):  # nobody may listen any more
        asked.sendall(f"{status}\n".encode())
    asked.close()


def _become(handed: list[int], server: int) -> NoReturn:
    """Be ``python -m MODULE ARGUMENTS`` in the group of the stage's process; never returns."""
    code = 1
    try:
        code = _run(handed, server)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            # As at the end of any Python: threads are waited for, then what was registered is called.
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _run(handed: list[int], server: int) -> int:
    wanted, *streams = handed
    with os.fdopen(wanted, encoding="utf-8") as file:
        request: dict[str, Any] = json.load(file)
    module, *arguments = request["words"]
    os.setpgid(0, request["group"])
    for number, descriptor in zip((1, 2), streams, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != server:  # it had ended before the kernel knew
        return -signal.SIGKILL
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _name(f"{sys.executable} -m {module} {' '.join(arguments)}")
    sys.path.insert(0, request["folder"])
    importlib.invalidate_caches()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _name(words: str) -> None:
    """Let ``ps`` and ``nvidia-smi`` show these words: they replace those that this process was started by."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: proc(5) counts from 1, and from the pid
    # What does not end with a NUL is taken for a name, which ends with the first NUL (fs/proc/base.c of Linux).
    name = words.encode()[: end - start - 2].ljust(end - start - 1, b"\0") + b" "
    ctypes.memmove(start, name, end - start)


@cache
def load() -> None:
    """Import what is there of the libraries, and keep the collector from touching, and so copying, their memory.

    Ends this process where one of them has started a thread.
    """
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        os._exit(UNABLE)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    # Python puts the folder of a script first: its modules would hide others of the same name.
    sys.path.pop(0)
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # what is frozen would be reported as leaked
