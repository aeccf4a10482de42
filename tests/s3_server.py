"""An S3 server in a process of its own, and a proxy before it that writes down requests and makes things go wrong."""

import http.client
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@contextmanager
def s3_server() -> Iterator[str]:
    """Yield the URL of a server, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@dataclass
class Asked:
    """A request that was answered."""

    method: str
    key: str
    range: tuple[int, int] | None
    if_match: str | None
    status: int
    sent: int


#: Told of each request before it goes on; says how to spoil the answer, or nothing.
Fault = Callable[[str, str], str | None]


class Proxy:
    """Before a server; ``fault(method, key)`` may answer:

    ``error:CODE:STATUS``  the store's own error, of this code
    ``reset`` or ``cut``   half of the body, then a reset or an orderly end
    ``short``              half of the body, told to be all of it
    ``whole``              the range is ignored
    ``unmatched``          If-Match is ignored
    """

    def __init__(self, server: str) -> None:
        self.reset()
        outer, target = self, urlsplit(server)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                with suppress(ConnectionError):
                    super().handle()

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path + (f"&max-keys={outer.page}" if "list-type=2" in self.path else "")
                key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
                fault = outer.fault(self.command, key) or ""
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                if fault == "whole":
                    headers.pop("Range", None)
                if fault == "unmatched":
                    headers.pop("If-Match", None)
                if fault.startswith("error"):
                    _, code, status = fault.split(":")
                    answer = f"<Error><Code>{code}</Code><Message>secret-of-the-store</Message></Error>".encode()
                    self._answer(key, int(status), {"Content-Type": "application/xml"}, answer, "")
                    return
                connection = http.client.HTTPConnection(str(target.hostname), target.port)
                try:
                    connection.request(self.command, path, body or None, headers)
                    found = connection.getresponse()
                    self._answer(key, found.status, dict(found.getheaders()), found.read(), fault)
                finally:
                    connection.close()

            def _answer(self, key: str, status: int, headers: dict[str, str], body: bytes, fault: str) -> None:
                spoil = fault in ("reset", "cut", "short") and status in (200, 206)
                sent = body[: len(body) // 2] if spoil else body
                length = headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
                told = {**headers, "Content-Length": str(len(sent) if spoil and fault == "short" else length)}
                # Written down first: whoever has the answer may look.
                span = self.headers.get("Range")
                bounds = tuple(map(int, span.removeprefix("bytes=").split("-"))) if span else None
                outer.asked.append(
                    Asked(self.command, key, bounds, self.headers.get("If-Match"), status, len(sent))  # type: ignore[arg-type]
                )
                self.send_response_only(status)
                for name, value in told.items():
                    if name.lower() not in ("connection", "transfer-encoding", "keep-alive"):
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(sent)
                    self.wfile.flush()
                if spoil and fault == "reset":
                    # What has been sent is to arrive before the reset.
                    time.sleep(0.05)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if spoil and fault in ("reset", "cut"):
                    self.close_connection = True

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass  # noqa: N815

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def shutdown_request(self, request: Any) -> None:
                # An orderly shutdown first would make an end of a reset.
                request.close()

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Forget what was asked, and let all go well."""
        self.asked: list[Asked] = []
        self.fault: Fault = lambda method, key: None
        self.page = 1000

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def gets(self, suffix: str = "") -> list[Asked]:
        """Requests for bytes of objects whose keys end so."""
        return [one for one in self.asked if one.method == "GET" and one.key.endswith(suffix) and one.key]
