"""The ``study`` flow: parameters in; stages brought up to date as Prefect tasks; an experiment and a report out.

``python -m flows.study`` runs it once, in this terminal, for the study in force.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import pages
from flows.cluster import stages_elsewhere
from flows.parameters import StudyParameters
from flows.runner import Outcome, bring_up_to_date
from flows.stage import end_with_worker
from flows.workspace import Workspace, open_workspace
from mimcore import layout
from mimcore.errors import UserError

#: Threads of task runs; how many stages run at once, their resources decide.
RUNNER = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=64))


@flow(name="study", task_runner=RUNNER)
def study(parameters: StudyParameters) -> "dict[str, Any] | State[Any]":
    """Bring a study up to date, each stage as a task run; with overrides, in a copy that ends as a DVC experiment.

    Returns:
        ``experiment``: its name or None; ``outcomes``: how many stages ended in each state.
    """
    end_with_worker()
    log = get_run_logger()
    main = Path.cwd()
    try:
        # Without overrides the pipeline's first stage checks the study.
        changes = parameters.changes(main) if parameters.overrides.model_dump(exclude_none=True) else {}
        with open_workspace(main, parameters.study, changes, parameters.name) as workspace:
            outcomes = run_in(workspace)
    except FailedStagesError as error:
        return Failed(message=str(error))
    except UserError as error:
        log.error("%s", error)
        return Failed(message=str(error))
    return {"experiment": workspace.experiment, "outcomes": pages.count_states(outcomes)}


class FailedStagesError(UserError):
    """Stages failed, or were not reached."""


def run_in(workspace: Workspace, targets: Sequence[str] = (), *, deadline: float | None = None) -> list[Outcome]:
    """Bring a workspace up to date and publish the report; called inside a flow.

    Raises:
        FailedStagesError: some failed; the others are done, and the report is out.
    """
    before = pages.read_headline(workspace.root)
    with stages_elsewhere(workspace):
        outcomes = bring_up_to_date(workspace, targets, deadline=deadline)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    kept = None if failed else _keep_report(workspace)
    pages.publish_report(workspace.root, outcomes, before, None if failed else workspace.experiment, kept)
    if failed:
        skipped = sum(outcome.state == "skipped" for outcome in outcomes)
        names = ", ".join(outcome.stage for outcome in failed)
        below = f", and {skipped} below could not be made" if skipped else ""
        raise FailedStagesError(
            f"{len(failed)} of {len(outcomes)} stages failed: {names}{below}; their task runs say why."
        )
    return outcomes


def _keep_report(workspace: Workspace) -> Path | None:
    """The report's file; that of an experiment is copied out of the worktree, which is removed."""
    report = workspace.root / layout.REPORT
    if workspace.experiment is not None and report.is_dir():
        kept = workspace.main / layout.SCRATCH / "reports" / workspace.experiment
        shutil.copytree(report, kept, dirs_exist_ok=True)
        report = kept
    page = report / "report.html"
    return page if page.exists() else None


if __name__ == "__main__":
    # Without a server of the user's, Prefect starts one for this run, which at its end complains of what it was about to do.
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    sys.exit(study(StudyParameters.model_validate({}), return_state=True).is_failed())
