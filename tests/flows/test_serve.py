"""``make ui``: what it starts, what it refuses, and what it leaves when it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from served_page import CHECKOUT, OPEN, Page, environment, free_ports, make_checkout, served, wait_for

from flows import serve
from flows.deployments import clear_schedules, close_dead_runs, deployments
from mimcore.errors import UserError

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with served(make_checkout(tmp_path_factory.mktemp("page"))) as page:
        yield page


def start(root: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Start a page that is refused."""
    command = [sys.executable, "-m", "flows.serve", *options]
    return subprocess.run(
        command, cwd=root, env=environment(root.parent), capture_output=True, text=True, timeout=120, check=False
    )


def stages_of(page: Page) -> list[psutil.Process]:
    """Processes of stages below a page."""
    found = []
    for process in psutil.Process(page.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            found += [process] if any(word.endswith("child.py") for word in process.cmdline()) else []
    return found


def test_the_users_own_prefect_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PREFECT_API_URL": "https://elsewhere.example.org/api",
        "PREFECT_API_KEY": "secret",
        "PREFECT_PROFILE": "elsewhere",
        "PREFECT_HOME": "/home/user/.prefect",
        "PREFECT_SERVER_API_AUTH_STRING": "admin:pass",
    }.items():
        monkeypatch.setenv(name, value)
    env = serve.environment(4400)
    assert env["PREFECT_API_URL"] == "http://127.0.0.1:4400/api"
    assert Path(env["PREFECT_HOME"]) == Path.cwd() / ".mimcore/prefect"
    assert not {"PREFECT_API_KEY", "PREFECT_PROFILE"} & set(env)
    assert env["PREFECT_SERVER_API_AUTH_STRING"] == "admin:pass"


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"^cannot listen on port \d+ \(Address already in use\); choose another"):
            serve.refuse_taken(taken.getsockname()[1])
    with pytest.raises(UserError, match="cannot listen on port 70000"):
        serve.refuse_taken(70000)


def test_reports_are_shown_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("artifacts/report/report.html", ".mimcore/reports/mine/report.html", "params.yaml"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    port = free_ports()
    with serve.report_server(port):
        for name in ("artifacts/report/report.html", ".mimcore/reports/mine/report.html"):
            with OPEN(f"http://127.0.0.1:{port}/{name}", timeout=10) as answer:
                assert answer.read().decode() == name
        for name in ("params.yaml", "artifacts/report/../../params.yaml", "artifacts/", ".mimcore/reports/../../", ""):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                OPEN(f"http://127.0.0.1:{port}/{name}", timeout=10)


def test_work_pools_are_given_what_this_machine_serves() -> None:
    written = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]
    written = [each for each in written if (CHECKOUT / each["entrypoint"].partition(":")[0]).exists()]
    served_here = {d.name: d for d in deployments(nightly=False)}
    assert {each["name"].removesuffix("-pool") for each in written} == set(served_here)
    for each in written:
        here = served_here[each["name"].removesuffix("-pool")]
        file, _, flow = each["entrypoint"].partition(":")
        assert here.entrypoint == f"{file.removesuffix('.py').replace('/', '.')}.{flow}"
        assert each["tags"] == here.tags
        assert each["parameters"] == here.parameters
        schedules = [(s.schedule.cron, s.active) for s in here.schedules or []]
        assert [(s["cron"], s["active"]) for s in each["schedules"]] == schedules
        assert not any(active for _, active in schedules)


def test_all_of_it_listens_on_loopback_only(page: Page) -> None:
    processes = [psutil.Process(page.process.pid), *psutil.Process(page.process.pid).children(recursive=True)]
    listening = {c.laddr for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    assert {page.port, page.port + 1} <= {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_a_second_page_of_the_checkout_is_refused(page: Page) -> None:
    refused = start(page.root, "--port", str(free_ports()))
    assert refused.returncode == 2
    assert refused.stderr == "mimcore: this checkout's page is up already; use it, or end the other 'make ui' first.\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"study": "smal"},
        {"overrides": {"mask_ratio": 1.5}},
        {"overrides": {"images_seen": "many"}},
        {"overrides": {"image_seen": 64}},
        {"overrides": {"subsets": []}},
    ],
)
def test_wrong_values_start_no_run(page: Page, wrong: dict[str, Any]) -> None:
    path = f"/deployments/{page.deployment('study/study')['id']}/create_flow_run"
    status, answer = page.ask(path, {"parameters": {"parameters": wrong}})
    assert status in (409, 422), answer
    assert page.ask("/flow_runs/count", {})[1] == 0


def test_a_dropped_schedule_fires_no_more(page: Page) -> None:
    path = f"/deployments/{page.deployment('study/study')['id']}"
    nightly = {"active": True, "schedule": {"cron": "0 2 * * *", "timezone": "UTC"}}
    assert page.ask(f"{path}/schedules", [nightly])[0] == 201
    page.ask(f"{path}/schedule", {})  # now, not at the scheduler's next turn
    wait_for(lambda: page.ask("/flow_runs/count", {})[1], 120, "a scheduled run")

    async def clear() -> None:
        async with get_client() as client:
            await clear_schedules(client, in_pools=False)

    with temporary_settings({PREFECT_API_URL: f"{page.address}/api"}):
        asyncio.run(clear())
    assert page.deployment("study/study")["schedules"] == []
    waiting = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    assert page.ask("/flow_runs/count", waiting)[1] == 0


def test_a_run_that_nothing_drives_any_more_is_closed(page: Page) -> None:
    path = f"/deployments/{page.deployment('study/study')['id']}/create_flow_run"
    body = {"parameters": {"parameters": {}}, "state": {"type": "RUNNING"}}
    _, run = page.ask(path, body)

    async def close() -> None:
        async with get_client() as client:
            await close_dead_runs(client)

    with temporary_settings({PREFECT_API_URL: f"{page.address}/api"}):
        asyncio.run(close())
    state = page.ask(f"/flow_runs/{run['id']}")[1]["state"]
    assert state["type"] == "CRASHED"
    assert "run it again" in state["message"]


def test_it_says_one_line_and_ends_with_all_it_started(page: Page) -> None:
    children = psutil.Process(page.process.pid).children(recursive=True)
    assert len(children) >= 2
    assert page.end(signal.SIGINT) == 0  # Ctrl-C
    assert page.said.read_text() == f"{page.address} (Ctrl-C ends it; logs are in .mimcore/prefect)\n"
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert "Traceback" not in page.logs()
    assert "WARNING" not in page.logs().upper()


def test_a_killed_page_leaves_no_process(page: Page) -> None:
    """Starts a new page in the checkout of the ended one, and a run."""
    with served(page.root) as second:
        path = f"/deployments/{second.deployment('study/study')['id']}/create_flow_run"
        assert second.ask(path, {"parameters": {"parameters": {}}})[0] == 201
        wait_for(lambda: stages_of(second), 120, "the process of a stage")
        children = psutil.Process(second.process.pid).children(recursive=True)
        second.process.send_signal(signal.SIGKILL)
        second.process.wait()
        # Told to end in order, they would wait for each other for minutes.
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert alive == []
        assert len(gone) >= 4  # the server, what starts runs, the run and its stage
    assert not any(Path(f"/proc/{child.pid}").exists() and os.getpgid(child.pid) for child in gone)
