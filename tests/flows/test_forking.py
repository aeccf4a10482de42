"""Commands of stages that are forked: what they see, and that nothing of them is left, whoever is killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from scratch_checkout import ROOT, Scratch, ended, until
from test_runner import FLOW, bring, states

from flows import forking

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has pidfds")

#: What stands for mimcore: it says what it sees, waits, and writes.
MAIN = """
import os, sys, threading, time
from pathlib import Path

name = sys.argv[1]
above = Path(f"/proc/{os.getppid()}/cmdline").read_text().replace("\\0", " ")
seen = ["torch" in sys.modules, "fork_server" in above, os.getcwd(), os.environ["OMP_NUM_THREADS"], os.environ["DVC_STAGE"]]
with open(os.environ["RAN"], "a") as log:
    log.write(f"{name} {os.getpid()} {os.getpgid(0)} {seen}\\n")
print("working on", name)
seconds = Path(os.environ["RAN"]).with_name("seconds")
time.sleep(float(seconds.read_text()) if seconds.exists() else 0)
if name in os.environ.get("FAIL", "").split():
    sys.exit("the disk is on fire")
out = Path("out") / name
out.mkdir(parents=True)
threading.Timer(0.1, (out / "data.txt").write_text, ("VERSION",)).start()
"""


@pytest.fixture(autouse=True)
def _server(prefect_server: str) -> Iterator[None]:
    yield
    for server in forking._servers.values():
        server.process.kill()
        server.process.wait()
        server.control.close()
    forking._servers.clear()


@pytest.fixture
def checkout(scratch: Callable[..., Scratch], monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """Two stages, one after the other, of a module named mimcore."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("MIMCORE_GPUS", "")
    made = scratch({"a": [], "b": ["a"]})
    text = (made.root / "dvc.yaml").read_text().replace("python work.py", "python -m mimcore")
    (made.root / "dvc.yaml").write_text(text.replace("work.py", "mimcore/__main__.py"))
    write(made, "first")
    return made


def write(checkout: Scratch, version: str) -> None:
    (checkout.root / "mimcore").mkdir(exist_ok=True)
    (checkout.root / "mimcore" / "__init__.py").touch()
    (checkout.root / "mimcore" / "__main__.py").write_text(MAIN.replace("VERSION", version))


def test_a_command_is_forked_with_the_libraries_and_the_code_of_its_time(checkout: Scratch) -> None:
    assert states(bring(checkout)) == {"a": "ran", "b": "ran"}
    for line, name in zip(checkout.lines(), "ab", strict=True):
        _, process, group, seen = line.split(maxsplit=3)
        assert seen == str([True, True, str(checkout.root), "1", name])
        assert process != group  # it is in that of the stage's process
    # The thread that writes this is waited for.
    assert (checkout.root / "out/a/data.txt").read_text() == "first"
    [server] = forking._servers.values()
    write(checkout, "second")
    assert states(bring(checkout)) == {"a": "ran", "b": "ran"}
    assert (checkout.root / "out/b/data.txt").read_text() == "second"
    assert list(forking._servers.values()) == [server]
    checkout.repro()
    assert len(checkout.lines()) == 4  # to dvc itself nothing is stale


def test_a_command_that_fails_says_so(
    checkout: Scratch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAIL", "a")
    found = bring(checkout)
    assert states(found) == {"a": "failed", "b": "skipped"}
    assert "the disk is on fire" in found["a"].reason
    assert "working on a" in found["a"].reason


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("who", ["flow", "dvc", "server", "command"])
def test_whoever_is_killed_nothing_runs_on(checkout: Scratch, who: str, how: signal.Signals) -> None:
    checkout.take(300)
    flow = checkout.start(FLOW)
    until(lambda: len(checkout.lines()) == 1)
    command = psutil.Process(int(checkout.lines()[0].split()[1]))
    assert command.cmdline()[1:] == ["-m", "mimcore", "a"]
    server = psutil.Process(command.ppid())
    dvc = psutil.Process(os.getpgid(command.pid))
    assert "child.py" in " ".join(dvc.cmdline())
    {"flow": psutil.Process(flow.pid), "dvc": dvc, "server": server, "command": command}[who].send_signal(how)
    until(lambda: all(ended(process.pid) for process in (command, dvc)), 30)
    text = flow.communicate(timeout=60)[0]
    until(lambda: ended(server.pid), 30)
    if who in ("server", "command"):
        assert "a failed" in text
    checkout.take(0)
    assert states(bring(checkout)) == {"a": "ran", "b": "ran"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two stages at once need two cores")
def test_a_stage_that_is_killed_whole_leaves_the_others_alone(
    scratch: Callable[..., Scratch], checkout: Scratch
) -> None:
    """Its process and its command end in one moment: the server hears of both at once."""
    text = (checkout.root / "dvc.yaml").read_text()
    (checkout.root / "dvc.yaml").write_text(text.replace("mimcore b a", "mimcore b").replace(", out/a]", "]"))
    checkout.take(4)
    flow = checkout.start(FLOW)
    until(lambda: len(checkout.lines()) == 2)
    groups = {line.split()[0]: int(line.split()[2]) for line in checkout.lines()}
    os.killpg(groups["a"], signal.SIGKILL)
    said = flow.communicate(timeout=120)[0]
    assert "a was killed" in said
    assert [line.split()[0] for line in checkout.lines()].count("b") == 1, said
    assert (checkout.root / "out/b/data.txt").read_text() == "first"


def test_a_message_of_two_ends_at_once_is_understood(tmp_path: Path) -> None:
    """A server that sees the end of a command and of who asked for it in one look goes on serving."""
    code = f"""
import os, selectors, signal, socket, subprocess, sys, tempfile, json, time
sys.path.insert(0, {str(ROOT)!r})
from flows import fork_server
fork_server.load = lambda: None
ours, theirs = socket.socketpair()
server = os.fork()
if server == 0:
    ours.close()
    fork_server.serve(theirs)
    os._exit(7)
theirs.close()
for _ in range(20):
    mine, its = socket.socketpair()
    socket.send_fds(ours, [b"s"], [its.fileno()])
    its.close()
    file = tempfile.TemporaryFile("w+")
    words = ["this", "--help"]
    json.dump({{"words": words, "folder": "/", "group": os.getpgid(0), "environment": dict(os.environ)}}, file)
    file.flush()
    file.seek(0)
    null = os.open(os.devnull, os.O_WRONLY)
    socket.send_fds(mine, [b"r"], [file.fileno(), null, null])
    assert mine.recv(8) == b"started\\n"
    os.kill(server, signal.SIGSTOP)
    time.sleep(0.1)  # the command ends
    mine.close()
    os.kill(server, signal.SIGCONT)
ours.close()
print("ended with", os.waitstatus_to_exitcode(os.waitpid(server, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ended with 7\n", done.stderr


def test_a_server_that_ended_is_started_anew(checkout: Scratch) -> None:
    assert states(bring(checkout, "a")) == {"a": "ran"}
    [first] = forking._servers.values()
    first.process.kill()
    first.process.wait()
    assert states(bring(checkout)) == {"a": "cached", "b": "ran"}
    assert "True, True" in checkout.lines()[-1]


def test_what_cannot_fork_starts_its_command_itself(checkout: Scratch) -> None:
    """A library that starts a thread as it is loaded."""
    site = checkout.root.parent / "site"
    (site / "typer").mkdir(parents=True)
    (site / "typer" / "__init__.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
    )
    text = f'import os\nos.environ["PYTHONPATH"] = "{site}:{ROOT}"\n' + FLOW.replace("\n    ", "\n")
    flow = checkout.start(text)
    said = flow.communicate(timeout=120)[0]
    assert flow.returncode == 0, said
    assert [line.split(maxsplit=3)[3].startswith("[False, False") for line in checkout.lines()] == [True, True], said


def test_a_stage_with_a_gpu_or_of_no_stated_cores_is_not_forked() -> None:
    assert forking.offer({"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"}) is None
    assert forking.offer({"CUDA_VISIBLE_DEVICES": ""}) is None
    assert forking.offer({"OMP_NUM_THREADS": "1"}) is None
    assert not forking._servers


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "python -m mimcore pretrain mae-tiny --out artifacts/x",
            ["mimcore", "pretrain", "mae-tiny", "--out", "artifacts/x"],
        ),
        ("python -m mimcore check", ["mimcore", "check"]),
        ("python -m mimcorex check", None),
        ("python work.py", None),
        ("PATH=/x python -m mimcore check", None),
        ("python -m mimcore check | tee log", None),
        ("python -m mimcore check > log", None),
        ("python -m mimcore check $HOME", None),
        ("python -m mimcore check 'a b'", None),
        ("python -m mimcore check *", None),
        ("", None),
    ],
)
def test_only_plain_commands_of_mimcore_are_forked(command: str, words: list[str] | None) -> None:
    assert forking._words(command) == words


@pytest.mark.parametrize(
    ("said", "expected"), [(b"", None), (b"started\n", -9), (b"started\n3\n", 3), (b"started\n-15\n", -15)]
)
def test_a_command_that_was_started_is_never_started_again(
    said: bytes, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the server ends: once it has said that a command runs, there is an exit status."""
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(forking.SOCKET, str(ours.fileno()))

    def serve() -> None:
        socket.recv_fds(theirs, 1, 3)
        theirs.sendall(said)
        theirs.close()

    server = threading.Thread(target=serve)
    server.start()
    assert forking.run("python -m mimcore --help", ".", {}) == expected
    server.join()
    ours.close()


def test_without_a_server_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(forking.SOCKET, raising=False)
    assert forking.run("python -m mimcore --help", ".", {}) is None


def test_an_idle_server_ends(tmp_path: Path) -> None:
    code = f"""
import socket, sys
sys.path.insert(0, {str(ROOT)!r})
from flows import fork_server
fork_server.IDLE = 0.2
ours, theirs = socket.socketpair()
fork_server.serve(theirs)
print("ended", "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "ended False\n"
