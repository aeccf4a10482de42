"""Both sides of ``fork_server.py``: a flow's process starts it and offers it to its stages, a stage's process asks for its command."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.fork_server import UNABLE
from mimcore.startup import OPENMP

#: Set for the process of a stage: the number of its socket to the server.
SOCKET = "MIMCORE_FORK_SERVER"
#: The first words of a command that the server can be, and the module that it runs.
PYTHON, MODULE = ("python", "-m"), "mimcore"
#: Bytes kept for the name of a command.
ROOM = 1024


@dataclass
class _Server:
    process: "subprocess.Popen[bytes]"
    control: socket.socket


_lock = threading.Lock()
_servers: dict[str, _Server] = {}


def offer(environment: Mapping[str, str]) -> socket.socket | None:
    """A socket for the process of one stage, by which it may have its command forked; None where it has to start it itself.

    Libraries read the number of threads as they are loaded: there is a server for each. A stage that has a GPU starts
    its command itself, since what looks for one when it is loaded leaves it unusable in a fork.

    Args:
        environment: the stage's own, beside this process's.
    """
    threads = environment.get("OMP_NUM_THREADS")
    if not sys.platform.startswith("linux") or threads is None or environment.get("CUDA_VISIBLE_DEVICES") != "":
        return None
    with _lock:
        for _ in range(2):  # one that ended for want of work is started anew
            server = _servers.get(threads)
            if server is not None and server.process.poll() == UNABLE:
                return None
            if server is None or server.process.poll() is not None:
                server = _servers[threads] = _start(environment)
            ours, theirs = socket.socketpair()
            with theirs, suppress(OSError):
                socket.send_fds(server.control, [b"s"], [theirs.fileno()])
                return ours
            ours.close()
            server.process.wait()
    return None


def _start(environment: Mapping[str, str]) -> _Server:
    ours, theirs = socket.socketpair()
    with theirs:
        file = Path(__file__).with_name("fork_server.py")
        process = subprocess.Popen(
            [sys.executable, str(file), str(theirs.fileno()), " " * ROOM],
            # mimcore.cli says as much, before torch is loaded.
            env={**OPENMP, **os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
    return _Server(process, ours)


def run(command: str, folder: str, environment: Mapping[str, str]) -> int | None:
    """Have a command forked by the server that this process was offered, and wait for its end.

    Args:
        command: a line of a shell.
        folder: where it runs.
        environment: the whole of it.

    Returns:
        Its exit status, or minus the number of the signal that killed it; None if nothing was started: there is no server, or the
        command is none for it.
    """
    number, words = os.environ.get(SOCKET), _words(command)
    if number is None or words is None:
        return None
    request = {
        "words": words,
        "folder": folder,
        "group": os.getpgid(0),
        "environment": {name: value for name, value in environment.items() if name != SOCKET},
    }
    with socket.socket(fileno=os.dup(int(number))) as server, tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        json.dump(request, file)
        file.flush()
        file.seek(0)
        started = status = ""
        with suppress(OSError):  # the server ended
            socket.send_fds(server, [b"r"], [file.fileno(), 1, 2])
            with server.makefile("r") as answers:
                started = answers.readline()
                status = answers.readline()
    if not started:
        return None
    return int(status) if status else -signal.SIGKILL  # the server ended, and its forks with it


def _words(command: str) -> list[str] | None:
    """``mimcore`` and what follows, if the command is plainly that."""
    if any(sign in command for sign in "|&;<>()$`\\\"'*?[#~%\n"):
        return None
    first, second, *words = [*shlex.split(command), "", ""]
    words = [word for word in words if word]
    return words if (first, second) == PYTHON and words[:1] == [MODULE] else None
