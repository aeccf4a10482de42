"""A checkout with a study of one short run, and its page: a real server on ports of its own, with a database of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
#: No proxy of this machine stands between a test and its own server.
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
#: Seconds that a server may say that it is busy.
BUSY = 120

STUDY: dict[str, Any] = {
    "pools": {"digits": {"format": "digits", "images": 200, "image_size": 32, "val_images": 40}},
    "subsets": {"n32": {"pool": "digits", "images": 32}},
    "models": {
        "nano": {
            "architecture": "vit_tiny_patch16_224",
            "image_size": 32,
            "patch_size": 8,
            "embed_dim": 32,
            "depth": 1,
            "num_heads": 2,
        }
    },
    "objectives": {"mae": {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}},
    "schedules": {
        "brief": {
            "images_seen": 64,
            "batch_size": 16,
            "base_learning_rate": 1e-2,
            "warmup_images": 0,
            "precision": "float32",
            "validations": 2,
            "validation_images": 16,
        }
    },
    "features": {"all": {"pool": "digits", "train_images": 100}},
    "tasks": {"knn": {"features": "all", "neighbors": 5}},
    "study": {
        "title": "A small study",
        "pools": ["digits"],
        "subsets": ["n32"],
        "models": ["nano"],
        "objectives": ["mae"],
        "schedules": ["brief"],
        "seeds": ["s0"],
        "features": ["all"],
        "probes": ["knn"],
        "tasks": [],
        "extra": {},
        "phases": {},
    },
    "fit": {"bootstrap": 100},
    "execution": {"device": "cpu", "threads": 1, "workers": 0},
}


def environment(home: Path) -> dict[str, str]:
    """As a user's, without this machine's settings of Prefect and DVC."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DVC_", "MIMCORE_"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc-system"),
        "OMP_NUM_THREADS": "1",
    }


def make_checkout(base: Path) -> Path:
    """Copy what a study needs of the tracked tree, as it is on disk, with a small study as ``studies/small.yaml``."""
    root = base / "checkout"
    wanted = (
        "mimcore",
        "flows",
        "prefect.yaml",
        "dvc.yaml",
        "forecasts.json",
        "imported.json",
        ".dvc",
        ".dvcignore",
        ".gitignore",
    )
    listed = subprocess.run(
        ["git", "ls-files", "-z", *wanted], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("needs a git checkout")
    for name in listed.stdout.rstrip("\0").split("\0"):
        if (CHECKOUT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / name, root / name)
    (root / "studies").mkdir()
    for name in ("params.yaml", "studies/small.yaml"):
        (root / name).write_text(yaml.safe_dump(STUDY, sort_keys=False))
    env = environment(base)
    for command in (
        ["git", "init", "--quiet"],
        ["git", "config", "user.name", "Test"],
        ["git", "config", "user.email", "test@example.org"],
        [sys.executable, "-m", "mimcore", "scan"],
        ["git", "add", "--all"],
        ["git", "commit", "--quiet", "--message", "A study"],
    ):
        subprocess.run(command, cwd=root, env=env, check=True, capture_output=True)
    return root


def free_ports() -> int:
    """A port that is free, and so is the next."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def wait_for(ask: Callable[[], Any], seconds: float, what: str) -> Any:
    """Ask until the answer is something; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.5)
    return answer


@dataclass(frozen=True)
class Page:
    """A running page."""

    root: Path
    port: int
    process: "subprocess.Popen[bytes]"
    said: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the JSON that the API answers with; one that is busy (503) is asked again, as Prefect's client does."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.address}/api{path}", data=data, headers={"Content-Type": "application/json"}
        )
        until = time.monotonic() + BUSY
        while True:
            try:
                with OPEN(request, timeout=60) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > until:
                    return error.code, json.load(error)
            time.sleep(1)

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/deployments/name/{name}")[1]
        return found

    def logs(self) -> str:
        """All that the server, the process that starts runs, and the runs have said."""
        return "".join(file.read_text() for file in sorted((self.root / ".mimcore/prefect").glob("*.log")))

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to end; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(120)


@contextmanager
def served(root: Path, *options: str) -> Iterator[Page]:
    """Serve a checkout for the length of the block."""
    port, said = free_ports(), root.parent / "said.txt"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", "--port", str(port), *options],
            cwd=root,
            env=environment(root.parent),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    page = Page(root, port, process, said)
    try:
        wait_for(lambda: said.read_text() or process.poll() is not None, 300, "the page")
        assert process.poll() is None, said.read_text()
        yield page
    finally:
        page.end()
