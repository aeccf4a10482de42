"""``python -m flows.serve``: Prefect's page on this machine, with the flows of this checkout behind it.

Three things run until Ctrl-C, all of them on loopback only: Prefect's server, the process that starts runs
(``flows.deployments``), and a small web server for the report. The database and the logs are in ``.mimcore/prefect``;
a user's own Prefect profile is neither read nor changed.
"""

import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from mimcore import layout
from mimcore.errors import UserError
from mimcore.lifetime import end_with_parent

HOME = layout.SCRATCH / "prefect"
HOST = "127.0.0.1"
#: The report of the study in force, and those of experiments.
REPORTS = (layout.REPORT, layout.SCRATCH / "reports")
#: Seconds for a part to be ready.
START = 300.0
#: Seconds for a part to end when told; Prefect gives a run 30 to end before it kills it.
END = 45.0


def environment(port: int) -> dict[str, str]:
    """The environment of the server and of every flow run: this checkout's Prefect, and no word to anyone outside.

    What else the user has set of Prefect (authentication, another database, log levels) holds.
    """
    home = HOME.resolve()
    user = {name: value for name, value in os.environ.items() if name not in {"PREFECT_PROFILE", "PREFECT_API_KEY"}}
    return user | {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "MIMCORE_REPORTS": f"http://{HOST}:{port + 1}",
    }


@dataclass(frozen=True)
class Part:
    """A process that must run for as long as the page does."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def refuse_end(self) -> None:
        """Make sure that it runs.

        Raises:
            UserError: it ended by itself; with the last lines of its log.
        """
        if self.process.poll() is not None:
            last = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
            said = "\n".join(f"  {line}" for line in last)
            raise UserError(f"Prefect's {self.name} ended by itself; the end of its log {self.log}:\n{said}")


@contextmanager
def part(name: str, command: list[str], env: dict[str, str]) -> Iterator[Part]:
    """Run a Python process for the length of the block, out of Ctrl-C's reach, since the parts must end in order."""
    log = HOME / f"{name}.log"
    # Even a killed page leaves nothing behind. Told to end in order, the runner would ask a server that has ended, too.
    end = partial(end_with_parent, signal.SIGKILL, os.getpid())
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end,
        )
    try:
        yield Part(name, process, log)
    finally:
        process.terminate()
        try:
            process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(ready: Callable[[], bool], *parts: Part) -> None:
    """Wait until what was started last is ready.

    Raises:
        UserError: a part has ended, or it took too long.
    """
    deadline = time.monotonic() + START
    while not ready():
        for each in parts:
            each.refuse_end()
        if time.monotonic() > deadline:
            raise UserError(f"Prefect's {parts[-1].name} was not ready within {START:.0f} s; see {parts[-1].log}.")
        time.sleep(0.2)


def healthy(port: int) -> bool:
    """Whether Prefect's server answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the checkout's database: two servers on it would disturb each other.

    Raises:
        UserError: another one has it.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("this checkout's page is up already; use it, or end the other 'make ui' first.") from None
        yield


def refuse_taken(port: int) -> None:
    """Make sure that a port can be listened on.

    Raises:
        UserError: it cannot.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            said = getattr(error, "strerror", None) or error
            raise UserError(f"cannot listen on port {port} ({said}); choose another with --port.") from None


class Reports(SimpleHTTPRequestHandler):
    """Shows the reports by their paths in the checkout, nothing else of it, and logs nothing."""

    def translate_path(self, path: str) -> str:
        """The file of a URL's path; none for what is no report."""
        file = Path(super().translate_path(path))
        return str(file) if any(file.is_relative_to(folder.resolve()) for folder in REPORTS) else ""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def report_server(port: int) -> Iterator[None]:
    """Show the reports on loopback, so that a run's link to its report opens: a page may not link to a file."""
    server = ThreadingHTTPServer((HOST, port), partial(Reports, directory=str(Path.cwd())))
    threading.Thread(target=server.serve_forever, name="reports", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def serve(
    port: Annotated[int, typer.Option(help="Of the page; reports are at the next one.")] = 4200,
    nightly: Annotated[bool, typer.Option("--nightly", help="Switch the nightly schedule on.")] = False,
) -> None:
    """Start Prefect's page for this checkout's flows, on loopback; Ctrl-C ends all of it."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) is not signal.SIG_IGN:  # as 'nohup' wants it
            signal.signal(each, _interrupt)
    with only_one():
        refuse_taken(port)
        refuse_taken(port + 1)
        env = environment(port)
        ready = HOME / "ready"
        ready.unlink(missing_ok=True)
        page = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
        runs = ["-m", "flows.deployments", "serve", "--ready", str(ready), *(["--nightly"] if nightly else [])]
        with report_server(port + 1), part("server", page, env) as server:
            wait_for(lambda: healthy(port), server)
            with part("runner", runs, env) as runner:
                wait_for(ready.exists, server, runner)
                print(f"http://{HOST}:{port} (Ctrl-C ends it; logs are in {HOME})", flush=True)
                while True:
                    time.sleep(1)
                    server.refuse_end()
                    runner.refuse_end()


def main() -> None:
    """Serve until told to end; a mistake of the user ends in a sentence and exit status 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(serve)
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"mimcore: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
