"""The flow of a study, from its form's parameters to the experiment; executions are counted by what the commands write."""

import re
import subprocess
import sys
from collections import Counter
from contextlib import chdir
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from scratch_checkout import Scratch

from flows.parameters import StudyParameters
from flows.study import study


@pytest.fixture(autouse=True)
def _server(prefect_server: str) -> None:
    pass


def run(checkout: Scratch, **parameters: object) -> State:
    with chdir(checkout.root):
        found: State = study(StudyParameters.model_validate(parameters), return_state=True)
    return found


def task_runs(flow_run: UUID) -> dict[str, str]:
    """Names and states of the task runs, as the page shows them."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])), limit=200)
    return {run.name: run.state_name or "" for run in runs}


def report(flow_run: UUID) -> str:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={"artifacts": {"key": {"any_": ["study-report"]}}})
    [text] = [a["data"] for a in found.json() if a["flow_run_id"] == str(flow_run)]
    return str(text)


def test_overrides_end_as_an_experiment_and_the_checkout_is_as_it_was(small_study: Scratch) -> None:
    first = run(small_study)
    assert first.is_completed(), first.message
    assert first.result()["experiment"] is None
    assert sorted(small_study.ran()) == ["small", "tiny"]
    small_study.git("add", "--all")
    small_study.git("commit", "--quiet", "--message", "Results")
    status = small_study.git("status", "--porcelain")
    state = run(small_study, overrides={"models": ["tiny"], "images_seen": 1024}, name="longer")
    assert state.is_completed(), state.message
    assert state.result() == {
        "experiment": "longer",
        "outcomes": {"cached": 0, "restored": 0, "ran": 1, "failed": 0, "skipped": 0},
    }
    assert Counter(small_study.ran()) == {"small": 1, "tiny": 2}
    assert small_study.experiments() == {"longer"}
    assert small_study.git("status", "--porcelain") == status
    assert small_study.status() == {}
    assert state.state_details.flow_run_id is not None
    said = report(state.state_details.flow_run_id)
    assert "DVC experiment `longer`" in said
    assert "1 ran" in said


def test_a_failure_is_the_flow_run_s_and_names_the_stage(small_study: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "tiny")
    state = run(small_study)
    assert state.is_failed()
    assert re.search(r"1 of 2 stages failed: pretrain@tiny", state.message or "")
    assert state.state_details.flow_run_id is not None
    said = report(state.state_details.flow_run_id)
    assert "the disk of tiny is on fire" in said
    assert task_runs(state.state_details.flow_run_id) == {"pretrain tiny": "Failed", "pretrain small": "Ran"}


def test_wrong_overrides_are_refused_before_any_work(small_study: Scratch) -> None:
    state = run(small_study, overrides={"images_seen": 100})  # no whole number of batches, and less than the warmup
    assert state.is_failed()
    assert "schedules.short" in (state.message or "")
    assert small_study.ran() == []
    assert not (small_study.root / ".mimcore").exists()


@pytest.mark.parametrize("server", ["the user's", "of this run alone"])
def test_a_normal_run_in_a_terminal_prints_no_warning(
    server: str, small_study: Scratch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if server == "of this run alone":
        monkeypatch.delenv("PREFECT_API_URL")
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    done = small_study.start("import runpy; runpy.run_module('flows.study', run_name='__main__')")
    text, _ = done.communicate(timeout=180)
    assert done.returncode == 0, text
    assert not re.search(r"WARN|Traceback|ERROR|Error", text), text


def test_settings_come_before_prefect() -> None:
    code = "import flows, sys; assert 'prefect' not in sys.modules and 'dvc' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
