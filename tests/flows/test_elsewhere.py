"""Flows that share nothing but a DVC remote: two checkouts with threads, and a worker that has a checkout of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("prefect", reason="needs the extra 'flows'")
pytest.importorskip("dvc_s3", reason="needs the extra 's3'")
pytest.importorskip("moto.server", reason="needs the extra 'dev'")

from s3_server import s3_server
from scratch_cluster import end_flow, environment, repro, start_flow
from scratch_store import Store

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    return Store(endpoint, tmp_path, monkeypatch)


@contextmanager
def dask(name: str, folder: Path, *arguments: str) -> Iterator[None]:
    """Run Dask's scheduler or worker in a folder, as a person would."""
    command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *arguments]
    with (folder.parent / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder.parent), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def test_two_checkouts_make_everything_once(store: Store, prefect_server: str) -> None:
    first, second = store.checkout("first"), store.checkout("second")
    for root in (first, second):
        (root / "cluster.yaml").write_text("{engine: threads, share: remote}\n")
    run = end_flow(start_flow(first, prefect_server))
    assert set(run.states.values()) == {"ran"}, run.output
    assert store.executed() == ["draw", "count"]
    run = end_flow(start_flow(second, prefect_server))
    assert set(run.states.values()) == {"restored"}, run.output
    assert store.executed() == ["draw", "count"]
    repro(second)
    assert store.executed() == ["draw", "count"]
    for name in ("drawn/a.txt", "counted.txt", "metric.json"):
        assert (second / name).read_bytes() == (first / name).read_bytes()


def test_a_worker_with_a_checkout_of_its_own(store: Store, prefect_server: str) -> None:
    pytest.importorskip("prefect_dask", reason="needs the extra 'cluster'")
    first, worker = store.checkout("first"), store.checkout("worker")
    # The worker's checkout is older: it must do what the flow's says, uncommitted edits included.
    (first / "seed.txt").write_text("two\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    (first / "cluster.yaml").write_text(f"{{engine: dask, address: '{address}', share: remote}}\n")
    with ExitStack() as running:
        running.enter_context(dask("scheduler", first, "--host", address, "--no-dashboard"))
        resources = ("--resources", "cores=1 memory_gib=2")
        running.enter_context(dask("worker", worker, address, "--no-nanny", "--no-dashboard", *resources))
        run = end_flow(start_flow(first, prefect_server))
    assert set(run.states.values()) == {"ran"}, run.output
    assert store.executed() == ["draw", "count"]
    assert all(Path(place).is_relative_to(worker) for place in store.places()), store.places()
    assert (first / "counted.txt").read_text() == "two\ntwo\n"
    assert (worker / "seed.txt").read_text() == "one\n", "the worker's own files were touched"
    assert not (worker / "counted.txt").exists()
    assert not list((worker / ".mimcore/elsewhere").iterdir()), "a workspace was left behind"
    repro(first)
    assert store.executed() == ["draw", "count"]


def test_a_cancelled_flow_stops_its_stages_on_workers(store: Store, prefect_server: str) -> None:
    pytest.importorskip("prefect_dask", reason="needs the extra 'cluster'")
    root = store.checkout("first")
    mark = root.parent / "pid"
    (root / "dvc.yaml").write_text(
        f"stages:\n  long:\n    cmd: echo $$ > {mark}; sleep 200; cp seed.txt out.txt\n"
        "    deps: [seed.txt]\n    outs: [out.txt]\n    meta: {mimcore: {retries: 2}}\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    (root / "cluster.yaml").write_text(f"{{engine: dask, address: '{address}'}}\n")
    with ExitStack() as running:
        running.enter_context(dask("scheduler", root, "--host", address, "--no-dashboard"))
        running.enter_context(
            dask("worker", root, address, "--no-nanny", "--no-dashboard", "--resources", "cores=1 memory_gib=2")
        )
        process = start_flow(root, prefect_server)
        try:
            wait_until(lambda: mark.exists() and mark.read_text().strip() != "", 300)
            process.terminate()
            process.communicate(timeout=120)
        finally:
            process.kill()
        pid = int(mark.read_text())
        wait_until(lambda: not alive(pid), 30)
        time.sleep(5)
        assert int(mark.read_text()) == pid, "the stage was started once more after its flow had ended"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
