"""kill -9 of every kind of process that a study from the page has, at random moments; the results are as if nothing had been."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml
from scratch_checkout import ended, until
from served_page import STUDY, Page, environment, make_checkout, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

RUNS = 20
#: Seconds after the start of a run within which a process is killed: about as long as a whole run takes.
WITHIN = 50.0
#: A word of the command line of each kind; the page is the process that the others hang on, the worker starts runs.
KINDS = {
    "training": "mimcore",
    "dvc": "child.py",
    "flow": "prefect.engine",
    "worker": "flows.deployments",
    "server": "server",
    "page": "flows.serve",
}


def test_results_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    study = {**STUDY, "execution": {**STUDY["execution"], "checkpoint_seconds": 0.5}}
    study["schedules"] = {"brief": {**STUDY["schedules"]["brief"], "images_seen": 32768}}
    root = make_checkout(tmp_path / "chaos")
    (root / "params.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(root, undisturbed / "checkout")
    command = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    subprocess.run(command, cwd=undisturbed / "checkout", env=environment(undisturbed), check=True)
    expected = results(undisturbed / "checkout")
    assert any(name.endswith("encoder.safetensors") for name in expected)

    moments = random.Random(0)
    begun = time.monotonic()
    killed: list[str] = []
    with ExitStack() as pages:
        page = pages.enter_context(served(root))
        for kind in [*KINDS] * RUNS:
            if len(killed) == RUNS:
                break
            run = start_run(page)
            around: dict[str, list[int]] = {}
            died = kill(page, kind, run, moments.uniform(0, WITHIN), around)
            finished = records(root)
            if died:
                killed.append(kind)
                print(f"{time.monotonic() - begun:6.0f} s: {kind} killed, {len(finished)} stages finished", flush=True)
            if died and kind in ("worker", "server", "page"):  # what is of the page ends with it
                page.process.wait(180)
                until(lambda: all(ended(pid) for pids in around.values() for pid in pids), 60)  # noqa: B023
                page = pages.enter_context(served(root))
            state = wait_for_end(page, run)
            for name, record in finished.items():
                assert (root / name).read_bytes() == record, f"{name}: a stage that had ended ran again"
            if state == "COMPLETED":  # it was done sooner: from the beginning
                assert results(root) == expected
                reset(root)
        run = start_run(page)
        assert wait_for_end(page, run) == "COMPLETED", page.logs()
        assert results(root) == expected
        # Nothing is stale, and no lock is left that DVC would stumble over.
        done = subprocess.run(
            [*command[:-1], "--dry"], cwd=root, env=environment(root.parent), check=True, capture_output=True, text=True
        )
        assert "Running stage" not in done.stdout + done.stderr
    assert len(killed) == RUNS
    assert set(killed) == set(KINDS)


def results(root: Path) -> dict[str, bytes]:
    """All that stages made, but for what says when and where."""
    artifacts = root / "artifacts"
    files = [path for path in artifacts.rglob("*") if path.is_file() and path.suffix != ".html"]
    names = {path.relative_to(artifacts).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("provenance/")}


def records(root: Path) -> dict[str, bytes]:
    """Provenance of the stages that ``dvc.lock`` says are done, which each execution would write anew."""
    try:
        done = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
        outs = [out["path"] for stage in done.values() for out in stage["outs"]]
    except (FileNotFoundError, TypeError, KeyError, yaml.YAMLError):  # none yet, or cut short
        return {}
    files = [root / "artifacts/provenance" / Path(out).relative_to("artifacts").with_suffix(".json") for out in outs]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if file.exists()}


def start_run(page: Page) -> str:
    path = f"/deployments/{page.deployment('study/study')['id']}/create_flow_run"
    status, run = page.ask(path, {"parameters": {"parameters": {}}})
    assert status == 201, run
    return str(run["id"])


def state_of(page: Page, run: str) -> str:
    return str(page.ask(f"/flow_runs/{run}")[1]["state_type"])


def over(page: Page, run: str) -> bool:
    return state_of(page, run) in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def wait_for_end(page: Page, run: str) -> str:
    until(lambda: over(page, run), 400)
    return state_of(page, run)


def kill(page: Page, kind: str, run: str, seconds: float, around: dict[str, list[int]]) -> bool:
    """Kill one process of a kind once so much time has passed; False if the run is over before. ``around`` gets them all."""
    moment = time.monotonic() + seconds
    while True:
        if over(page, run):
            return False
        around.update(processes(page))
        found = around[kind]
        if found and time.monotonic() >= moment:
            os.kill(found[0], signal.SIGKILL)
            if kind != "page":
                until(partial(ended, found[0]), 30)
            return True
        time.sleep(0.1)


def processes(page: Page) -> dict[str, list[int]]:
    """The processes of each kind, by their command lines."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for process in [psutil.Process(page.process.pid), *psutil.Process(page.process.pid).children(recursive=True)]:
        with suppress(psutil.Error):  # it has just ended
            words = {word.rpartition("/")[2] for word in process.cmdline()}
            for kind, word in KINDS.items():
                if word in words:
                    found[kind].append(process.pid)
    return found


def reset(root: Path) -> None:
    for name in ("artifacts", ".dvc/cache", ".mimcore/runs"):
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "dvc.lock").unlink()
