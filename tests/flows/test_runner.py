"""What is executed is counted by what the commands write, never by what a log says."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from uuid import UUID

import psutil
import pytest
from prefect import flow
from prefect.artifacts import Artifact, create_progress_artifact
from scratch_checkout import WORK, Scratch, ended, until, write_stages

from flows.runner import Outcome, bring_up_to_date
from flows.study import RUNNER
from flows.workspace import Workspace

#: A flow in a process of its own.
FLOW = """
    from pathlib import Path
    from prefect import flow
    from flows.runner import bring_up_to_date
    from flows.study import RUNNER
    from flows.workspace import Workspace
    @flow(task_runner=RUNNER)
    def walk():
        bring_up_to_date(Workspace(Path.cwd(), Path.cwd()))
    walk()
"""


@pytest.fixture(autouse=True)
def _server(prefect_server: str) -> None:
    pass


def bring(checkout: Scratch, *targets: str, deadline: float | None = None) -> dict[str, Outcome]:
    @flow(task_runner=RUNNER)
    def walk() -> list[Outcome]:
        return bring_up_to_date(Workspace(checkout.root, checkout.root), targets, deadline=deadline)

    return {outcome.stage: outcome for outcome in walk()}


def states(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.state for name, outcome in outcomes.items()}


def test_each_stage_runs_once_by_the_flow_or_by_dvc(scratch: Callable[..., Scratch]) -> None:
    checkout = scratch()
    checkout.repro("b")
    assert checkout.ran() == ["a", "b"]
    found = bring(checkout)
    assert states(found) == {"a": "cached", "b": "cached", "c": "ran", "d": "ran"}
    assert checkout.ran() == ["a", "b", "c", "d"]
    assert set(states(bring(checkout)).values()) == {"cached"}
    checkout.repro()
    assert checkout.status() == {}
    assert checkout.ran() == ["a", "b", "c", "d"]


def test_a_change_that_changes_nothing_below_stops_there_and_what_was_made_before_is_restored(
    scratch: Callable[..., Scratch],
) -> None:
    checkout = scratch({"a": [], "b": ["a"]})
    bring(checkout)
    text = (checkout.root / "dvc.yaml").read_text()
    (checkout.root / "dvc.yaml").write_text(text.replace("work.py a\n", "work.py  a\n"))
    assert states(bring(checkout)) == {"a": "ran", "b": "cached"}
    assert checkout.ran() == ["a", "b", "a"]
    (checkout.root / "dvc.yaml").write_text(text)
    (checkout.root / "out/b/data.txt").unlink()
    assert states(bring(checkout)) == {"a": "restored", "b": "restored"}
    assert checkout.ran() == ["a", "b", "a"]


def test_a_failure_leaves_siblings_running_and_says_how_its_log_ends(
    scratch: Callable[..., Scratch], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = scratch({"a": [], "b": ["a"], "c": ["a"], "d": ["b"]}, meta="{mimcore: {retries: 1}}")
    monkeypatch.setattr("flows.runner.RETRY_SECONDS", 0)
    monkeypatch.setenv("FAIL", "b")
    found = bring(checkout)
    assert states(found) == {"a": "ran", "b": "failed", "c": "ran", "d": "skipped"}
    assert Counter(checkout.ran()) == {"a": 1, "b": 2, "c": 1}  # tried again once
    assert "the disk of b is on fire" in found["b"].reason
    assert "dvc repro --single-item b" in found["b"].reason
    assert found["d"].reason == "b failed"
    monkeypatch.delenv("FAIL")
    assert states(bring(checkout)) == {"a": "cached", "b": "ran", "c": "cached", "d": "ran"}


def test_no_stage_starts_after_the_deadline_and_targets_limit_the_walk(scratch: Callable[..., Scratch]) -> None:
    checkout = scratch()
    found = bring(checkout, "b", deadline=0.0)
    assert states(found) == {"a": "skipped", "b": "skipped"}
    assert checkout.ran() == []


def test_stages_are_told_their_share(scratch: Callable[..., Scratch], monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import runner
    from flows.resources import Machine

    monkeypatch.setattr(runner, "this_machine", lambda: Machine((0, 1), ("GPU-a",), 16.0))
    checkout = scratch({"a": [], "b": []}, meta="{mimcore: {gpus: 1, cores: 2}}")
    bring(checkout)
    assert [line.split()[2:] for line in checkout.lines()] == [["GPU-a", "2"], ["GPU-a", "2"]]


def test_a_long_stage_shows_how_far_it_is(scratch: Callable[..., Scratch], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.pages.LONG", 0.0)
    monkeypatch.setattr("flows.stage.LOOK", 0.1)
    first: list[tuple[float, str, str]] = []

    def create(share: float, key: str, words: str) -> UUID:
        first.append((share, key, words))
        made = create_progress_artifact(share, key, words)
        assert isinstance(made, UUID)
        return made

    monkeypatch.setattr("flows.pages.create_progress_artifact", create)
    checkout = scratch({"a": []})
    far = {"title": "mae", "unit": "images", "done": 30, "total": 120, "rate": 10.0, "left_seconds": 9.0}
    (checkout.root / "work.py").write_text(
        f"{WORK}\nPath(os.environ['MIMCORE_PROGRESS']).write_text('{json.dumps(far)}')\ntime.sleep(2)\n"
    )
    bring(checkout)
    assert first == [(25.0, "progress-a", "mae: 10 images/s, 9 s left")]
    found = Artifact.get("progress-a")
    assert found is not None
    assert found.data == 100
    assert str(found.description).startswith("a: done in")


def test_two_flows_at_once_in_two_workspaces_make_a_common_stage_once(scratch: Callable[..., Scratch]) -> None:
    checkout = scratch({"a": [], "b": []})
    checkout.take(2)
    other = Scratch(checkout.root.with_name("other"))
    subprocess.run(["git", "clone", "--quiet", str(checkout.root), str(other.root)], check=True)
    (other.root / ".dvc/config.local").write_text(f"[cache]\n    dir = {checkout.root}/.dvc/cache\n")
    both = [where.start(FLOW) for where in (checkout, other)]
    said = [process.communicate(timeout=180)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert Counter(checkout.ran()) == {"a": 1, "b": 1}
    assert (other.root / "out/a/data.txt").read_text() == "a"
    for text in said:
        assert "WARN" not in text
        assert "Traceback" not in text
        assert "ERROR" not in text


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_flow_that_is_killed_or_cancelled_takes_its_stage_along(
    how: signal.Signals, scratch: Callable[..., Scratch]
) -> None:
    checkout = scratch({"a": [], "b": ["a"]})
    checkout.repro("a")
    checkout.take(300)
    process = checkout.start(FLOW)
    until(lambda: len(checkout.lines()) == 2)
    command = int(checkout.lines()[1].split()[1])
    above = psutil.Process(command).parents()
    dvc = [p for p in above if "child.py" in " ".join(p.cmdline())]
    assert dvc
    process.send_signal(how)
    until(lambda: all(ended(pid) for pid in [command, *(p.pid for p in dvc)]), 30)
    process.communicate(timeout=60)
    checkout.take(0)
    assert states(bring(checkout)) == {"a": "cached", "b": "ran"}
    assert checkout.ran() == ["a", "b", "b"]


def test_a_dvc_that_is_killed_fails_its_stage_and_leaves_nothing(
    scratch: Callable[..., Scratch], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = scratch({"a": []})
    checkout.take(300)
    process = checkout.start(FLOW)
    until(lambda: len(checkout.lines()) == 1)
    command = int(checkout.lines()[0].split()[1])
    [dvc, *_] = [p for p in psutil.Process(command).parents() if "child.py" in " ".join(p.cmdline())]
    os.kill(dvc.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    until(lambda: ended(command), 30)
    checkout.take(0)
    assert states(bring(checkout)) == {"a": "ran"}


def test_a_pipeline_that_needs_more_than_the_machine_has_is_refused(scratch: Callable[..., Scratch]) -> None:
    checkout = scratch({"a": []})
    write_stages(checkout.root, {"a": []}, meta="{mimcore: {cores: 9999}}")
    with pytest.raises(Exception, match="a needs 9999 cores"):
        bring(checkout)
    assert checkout.ran() == []
