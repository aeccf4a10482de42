"""The ``nightly`` flow: how the pools have grown, the studies brought up to date and pushed, what is new since last night.

It is a difference to the present, not a list of nights to catch up with: however many nights were missed, one run does
what is to be done, and runs that were due before it began end at once.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from flows import difference, pages, remote
from flows.parameters import StudyParameters, study_file
from flows.resources import try_lock
from flows.stage import end_with_worker
from flows.study import RUNNER, run_in
from flows.workspace import Workspace, open_workspace, prune
from mimcore import artifacts, layout
from mimcore.data.listing import scan
from mimcore.data.pool import load_pool
from mimcore.errors import UserError
from mimcore.study import Study

FOLDER = layout.SCRATCH / "nightly"
LAST = "last.json"


class NightlyParameters(BaseModel):
    """What a night does."""

    model_config = ConfigDict(extra="forbid")

    studies: list[StudyParameters] = Field(
        default_factory=lambda: [StudyParameters.model_validate({})],
        title="Studies",
        description="Each with its overrides, in this order; one without any is the checkout's own.",
    )
    adopt: bool = Field(
        False,
        title="Adopt growth",
        description="Pin pools as they are now: what they feed is made anew. Else only told.",
    )
    budget_hours: float | None = Field(
        None, gt=0, title="Budget, hours", description="No stage is started after it; what is left is said."
    )


class OutOfTimeError(UserError):
    """The budget was spent before a study was up to date."""


@flow(name="nightly", task_runner=RUNNER)
def nightly(parameters: NightlyParameters) -> "dict[str, Any] | State[Any]":
    """Bring studies up to date at night and say what is new.

    Returns:
        ``outcomes``: how many stages ended in each state; ``left``: sentences on what the budget left over.
    """
    end_with_worker()
    main, begun = Path.cwd(), datetime.now(UTC)
    (main / FOLDER).mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        if not try_lock(main / FOLDER / "lock", held):
            return Completed(message="Another nightly run is under way; it does what this one would have done.")
        if since := _covered(main, parameters):
            return Completed(
                message=f"Nothing to catch up with: the run that began at {since} came after this one was due."
            )
        night = _Night(main, parameters)
        night.run()
        artifacts.write_json(main / FOLDER / LAST, {"began": begun.isoformat(), "parameters": _digest(parameters)})
    if night.failures:
        return Failed(message="\n\n".join(night.failures))
    return {"outcomes": night.counts, "left": night.left}


class _Night:
    """The work of one night. What goes wrong with one study is kept for the end."""

    def __init__(self, main: Path, parameters: NightlyParameters) -> None:
        self.main, self.parameters, self.log = main, parameters, get_run_logger()
        hours = parameters.budget_hours
        self.deadline = None if hours is None else time.monotonic() + hours * 3600
        self.failures: list[str] = []
        self.left: list[str] = []
        self.counts: dict[str, int] = {}
        self.page = [f"# Night of {datetime.now():%Y-%m-%d}"]

    def run(self) -> None:
        try:
            self.page += ["## Pools", *self._growth()]
            for study in self.parameters.studies:
                self.page.append(f"## {_title(study)}")
                try:
                    self._bring(study)
                except OutOfTimeError as error:
                    self.left.append(str(error))
                    self.page.append(str(error))
                except UserError as error:
                    self.log.error("%s", error)
                    self.failures.append(f"{_title(study)}: {error}")
                    self.page.append(f"Failed: {error}")
            if removed := prune(self.main):
                self.page.append(f"Worktrees that runs had left behind were removed: {', '.join(removed)}.")
        finally:
            create_markdown_artifact("\n\n".join(self.page), "nightly", "what is new since last night")

    def _growth(self) -> Iterator[str]:
        """A sentence for each pool of the studies."""
        seen: set[str] = set()
        for file in dict.fromkeys(study_file(self.main, one.study) for one in self.parameters.studies):
            try:
                study = Study.read(file)
                for name in study.grid.pools:
                    if name not in seen:
                        seen.add(name)
                        yield f"* {self._scan(name, study.options('pools', name))}"
            except UserError as error:
                self.failures.append(str(error))
                yield f"* {error}"

    def _scan(self, name: str, options: Mapping[str, Any]) -> str:
        listing = self.main / layout.listing(name)
        if not listing.exists():
            return f"pool '{name}' was never listed; 'mimcore scan {name}' pins it."
        return scan(load_pool(name, options, self.main), listing, self.parameters.adopt).sentence()

    def _bring(self, study: StudyParameters) -> None:
        # Without overrides the pipeline's first stage checks the study.
        changes = study.changes(self.main) if study.overrides.model_dump(exclude_none=True) else {}
        with open_workspace(self.main, study.study, changes, study.name) as workspace:
            try:
                outcomes = run_in(workspace, deadline=self.deadline)
            finally:
                self._push(workspace)
            for state, many in pages.count_states(outcomes).items():
                self.counts[state] = self.counts.get(state, 0) + many
            if left := [outcome.stage for outcome in outcomes if outcome.state == "skipped"]:
                # Raised within the block: half a study is no experiment.
                raise OutOfTimeError(
                    f"The budget is spent; left for the next night: {len(left)} stages, {left[0]} first."
                )
            self.page.append(self._since_last_night(study, workspace))

    def _push(self, workspace: Workspace) -> None:
        if not remote.has_remote(workspace.root):
            return
        try:
            sent = remote.publish(workspace.root)
        except UserError as error:  # the results are here all the same
            self.failures.append(str(error))
            self.page.append(f"Not sent to DVC's remote: {error}")
        else:
            self.page.append(
                f"Sent to DVC's remote: the results of {sent} stages." if sent else "DVC's remote has it all."
            )

    def _since_last_night(self, study: StudyParameters, workspace: Workspace) -> str:
        """Keep tonight's results, and compare them with those that were kept before."""
        found = [workspace.root / layout.RESULTS / difference.RESULTS, workspace.root / layout.FIT / difference.FIT]
        if not all(file.is_file() for file in found):
            return "There are no results to compare: the study ends before them."
        kept = self.main / FOLDER / artifacts.digest(study.model_dump(mode="json"))[:16]
        said = "The first night of this study: there is none to compare with."
        with artifacts.directory(kept) as tonight:
            for file in found:
                shutil.copyfile(file, tonight / file.name)
            if kept.is_dir():
                since = datetime.fromtimestamp(kept.stat().st_mtime)
                said = difference.markdown(difference.compare(kept, tonight), f"{since:%Y-%m-%d %H:%M}")
        return said


def _covered(main: Path, parameters: NightlyParameters) -> str | None:
    """When the last such night began, if that was after this run was due: a late run has nothing left to do."""
    file, due = main / FOLDER / LAST, flow_run.scheduled_start_time
    if not file.exists() or due is None:
        return None
    last = artifacts.read_json(file)
    begun = datetime.fromisoformat(last["began"])
    return f"{begun.astimezone():%Y-%m-%d %H:%M}" if last["parameters"] == _digest(parameters) and due < begun else None


def _digest(parameters: NightlyParameters) -> str:
    return artifacts.digest(parameters.model_dump(mode="json"))


def _title(study: StudyParameters) -> str:
    """A study and its overrides, in a line."""
    overrides = study.overrides.model_dump(mode="json", exclude_defaults=True)
    words = [f"{name}: {value}" for name, value in overrides.items()]
    return " ".join([study.name or study.study, f"({', '.join(words)})" if words else ""]).strip()
