"""Nights: what is executed is counted by what the stages themselves wrote down."""

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect", reason="needs the extra 'flows'")

from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.states import Scheduled
from scratch_cluster import repro
from scratch_study import add_photo, build, write_night

from flows.nightly import FOLDER, NightlyParameters, nightly
from mimcore.data.listing import scan
from mimcore.data.pool import load_pool
from mimcore.study import Study

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]
ALL = ["index", "collect", "fit"]
SIZES = (64, 128, 256, 512)


class Nights:
    """A checkout, and nights in it; ``executed`` takes what was executed since it was last asked."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root, self.log = root, log
        self.pin()

    def pin(self) -> None:
        study = Study.read(self.root / "params.yaml")
        pool = load_pool("photos", study.options("pools", "photos"), self.root)
        scan(pool, self.root / "listings/photos.json", adopt=True)

    def night(self, due: datetime | None = None, **parameters: Any) -> State[Any]:
        """Run it now, as a person would; or as the schedule's run that was due at a time."""
        given = {"parameters": NightlyParameters.model_validate(parameters)}
        if due is None:
            return nightly(**given, return_state=True)
        with get_client(sync_client=True) as client:
            run = client.create_flow_run(nightly, state=Scheduled(scheduled_time=due))
        found: State[Any] = run_flow(nightly, flow_run=run, parameters=given, return_type="state")
        return found

    def executed(self) -> list[str]:
        found = self.log.read_text().split()
        self.log.write_text("")
        return found

    def page(self) -> str:
        found = Artifact.get("nightly")
        assert found is not None
        return str(found.data)


@pytest.fixture
def nights(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Nights]:
    def make(**options: str) -> Nights:
        log = tmp_path / "executed"
        root = build(tmp_path / "study", log, **options)
        monkeypatch.chdir(root)
        monkeypatch.setenv("MIMCORE_SLOTS", str(tmp_path / "slots"))
        return Nights(root, log)

    return make


def test_twice_in_a_row_does_nothing_the_second_time(nights: Callable[..., Nights]) -> None:
    study = nights()
    assert study.night().is_completed()
    assert study.executed() == ALL
    assert "The first night of this study" in study.page()
    assert study.night().is_completed()
    assert study.executed() == []
    assert "Nothing has changed since" in study.page()
    repro(study.root)
    assert study.executed() == []

    # Larger runs came in by day, one of them off the law: the next night says so.
    write_night(study.root / "table", (*SIZES, 1024, 2048), {2048: 0.2})
    assert study.night().is_completed()
    assert study.executed() == ["collect", "fit"]
    page = study.page()
    assert "| mae-tiny-n1024-short-s0 | validation loss |" in page
    assert "Fits that moved" in page
    assert page.count("| hit |") == 1
    assert page.count("| missed |") == 1


def test_growth_is_told_and_adopted_only_when_asked(nights: Callable[..., Nights]) -> None:
    study = nights()
    study.night()
    study.executed()
    pinned = (study.root / "listings/photos.json").read_text()
    add_photo(study.root, "a third")
    assert study.night().is_completed()
    assert study.executed() == []
    assert (study.root / "listings/photos.json").read_text() == pinned
    assert "pool 'photos': 1 changed (.); 'mimcore scan photos --adopt' pins it anew." in study.page()
    assert study.night(adopt=True).is_completed()
    assert (study.root / "listings/photos.json").read_text() != pinned
    assert study.executed() == ["index", "collect"], "the results are the same, and the fit is of them"


def test_missed_nights_are_caught_up_by_one_run(nights: Callable[..., Nights]) -> None:
    study = nights()
    study.night()
    study.executed()
    write_night(study.root / "table", (*SIZES, 1024))
    # The last night was five days ago: the server was down since, and now starts the runs of two nights.
    last = study.root / FOLDER / "last.json"
    content = json.loads(last.read_text())
    content["began"] = (datetime.now(UTC) - timedelta(days=5)).isoformat()
    last.write_text(json.dumps(content))
    assert study.night(due=datetime.now(UTC) - timedelta(days=2)).is_completed()
    assert study.executed() == ["collect", "fit"]
    page = study.page()
    write_night(study.root / "table", (*SIZES, 1024, 2048))
    state = study.night(due=datetime.now(UTC) - timedelta(days=1))
    assert state.is_completed()
    assert "Nothing to catch up with" in str(state.message)
    assert study.executed() == []
    assert study.page() == page, "a run with nothing to do published something"
    assert study.night(due=datetime.now(UTC)).is_completed()
    assert study.executed() == ["collect", "fit"], "a night that is due now was held back"


def test_one_night_at_a_time(nights: Callable[..., Nights]) -> None:
    study = nights()
    (study.root / FOLDER).mkdir(parents=True)
    with (study.root / FOLDER / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        state = study.night()
    assert state.is_completed()
    assert "Another nightly run" in str(state.message)
    assert study.executed() == []


def test_the_budget_ends_it_between_stages(nights: Callable[..., Nights]) -> None:
    study = nights(work="sleep 8; ")
    state = study.night(budget_hours=6 / 3600)
    assert state.is_completed()
    assert study.executed() == ["index"], "a stage that had begun is not cut short, and none is begun after it"
    assert state.result()["left"] == ["The budget is spent; left for the next night: 2 stages, collect first."]
    assert "2 stages, collect first" in study.page()
    assert study.night().is_completed()
    assert study.executed() == ["collect", "fit"]


def test_overrides_end_as_experiments_and_leave_no_worktree(nights: Callable[..., Nights]) -> None:
    study = nights()
    subprocess.run(["git", "add", "--all"], cwd=study.root, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "A study"], cwd=study.root, check=True)
    studies = [{}, {"overrides": {"more": {"fit.bootstrap": 200}}, "name": "more-replicates"}]
    assert study.night(studies=studies).is_completed()
    assert study.executed() == [*ALL, "collect", "fit"], "the index is the same in both"
    assert not [path for path in (study.root / ".mimcore/worktrees").glob("*") if path.is_dir()]
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        cwd=study.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == ["more-replicates"]
    assert study.night(studies=studies).is_completed()
    assert study.executed() == []


def test_results_are_pushed_where_another_checkout_finds_them(nights: Callable[..., Nights], tmp_path: Path) -> None:
    config = (
        f"[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n    url = {tmp_path / 'store'}\n"
    )
    study = nights(config=config)
    assert study.night().is_completed()
    assert "Sent to DVC's remote: the results of 3 stages." in study.page()
    study.executed()
    other = build(tmp_path / "other", tmp_path / "executed", config=config)
    (other / "listings").mkdir()
    (other / "listings/photos.json").write_bytes((study.root / "listings/photos.json").read_bytes())
    from flows import remote

    for stage in ALL:
        assert remote.fetch_result(other, stage) == "fetched"
        repro(other, stage)
    assert study.executed() == []
    assert (other / "artifacts/fit/fit.json").read_bytes() == (study.root / "artifacts/fit/fit.json").read_bytes()


def test_a_study_that_fails_is_told_and_the_others_go_on(nights: Callable[..., Nights]) -> None:
    study = nights()
    state = study.night(studies=[{"overrides": {"more": {"fit.bootstrap": 7}}}, {}])
    assert state.is_failed()
    assert "fit.bootstrap" in str(state.message)
    assert study.executed() == ALL
