"""Brings one workspace up to date: a walk down DVC's graph, one Prefect task for each stage, as many at once as fit."""

import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import pages
from flows.graph import Graph, Stage, mend
from flows.resources import Machine, Needs, Share, claim, needs_of, this_machine
from flows.stage import alone, go_on, run_stage, start_anew, stop_all
from flows.workspace import Workspace, want_space

Ending = Literal["cached", "restored", "ran", "failed", "skipped"]
#: Seconds before a stage that failed is tried again.
RETRY_SECONDS = 2


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    stage: str
    verb: str
    state: Ending
    seconds: float
    reason: str = ""
    """Why it failed or was skipped; empty otherwise."""


@task(name="stage")
def bring(stage: Stage, needs: Needs, root: str, key: str | None, cache: str) -> "State[Any]":
    """Bring one stage up to date where this runs: a thread of the flow run, or a worker of a cluster.

    Arguments are plain, so that they travel. The state is named Ran, Restored or Failed.
    """
    log = get_run_logger()
    machine = this_machine()
    share = machine.share(stage.name, needs)
    begun = time.monotonic()
    with alone(Path(cache), key), claim(share, machine, go_on) as environment, pages.shown(stage.label) as show:
        waited = time.monotonic() - begun
        if waited > 1:
            log.info("waited %.0f s for %s.", waited, _words(share))
        result = run_stage(Path(root), stage.name, environment, log.info, show)
        if result.code:
            mend(Path(root), log)
    if result.code:
        return Failed(message=result.failure(stage.name))
    pages.publish_stage(Path(root), stage)
    return Completed(name="Ran" if result.executed else "Restored")


@task(name="fresh")
def keep() -> "State[Any]":
    """A stage that is up to date."""
    return Completed(name="Cached", message="up to date")


@task(name="skipped")
def skip(reason: str) -> "State[Any]":
    """A stage whose turn does not come."""
    return Cancelled(name="Skipped", message=reason)


def bring_up_to_date(
    workspace: Workspace, targets: Sequence[str] = (), *, deadline: float | None = None
) -> list[Outcome]:
    """Bring stages up to date, inside a Prefect flow: each is a task run named by its verb and run.

    A stage that fails leaves the others running; those below it are skipped. Nothing is raised for a failed stage.

    Args:
        workspace: where.
        targets: names of stages, with all that they need; every stage if empty.
        deadline: seconds of ``time.monotonic``; no stage is started after it, and what is left is skipped.

    Returns:
        what became of each stage, in the order of the graph.

    Raises:
        UserError: the pipeline cannot be read, a stage needs more than the machine has, or the disk is too small.
    """
    start_anew()
    mend(workspace.root, get_run_logger())
    walk = _Walk(workspace, Graph(workspace.root), targets, deadline)
    try:
        return walk.run()
    except BaseException:  # the flow run is cancelled or broken: training ends with it
        stop_all()
        raise


class _Walk:
    """The state of one walk down the graph."""

    def __init__(self, workspace: Workspace, graph: Graph, targets: Sequence[str], deadline: float | None) -> None:
        self.workspace, self.graph, self.deadline = workspace, graph, deadline
        self.names = graph.wanted(targets)
        self.outcomes: dict[str, Outcome] = {}
        self.started: dict[str, tuple[PrefectFuture[Any], Share | None, float]] = {}
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.needs = {name: needs_of(name, graph.stages[name].meta) for name in self.names}
        # A cluster hands out its own resources; tasks in threads share this machine.
        context = FlowRunContext.get()
        local = context is not None and isinstance(context.task_runner, ThreadPoolTaskRunner)
        self.machine: Machine | None = this_machine() if local else None
        self.small: list[PrefectFuture[Any]] = []

    def run(self) -> list[Outcome]:
        stale = self.graph.stale_ones(self.names)
        want_space(self.workspace.root, self.graph.cache, self.graph.output_bytes(stale))
        shares = {name: self._share(name) for name in self.names if name in stale}
        for name in self.names:
            if name not in stale:
                self._keep(name)
        waiting = [name for name in self.names if name in stale]
        while waiting or self.started:
            waiting = self._start(waiting, shares)
            if self.started:
                self._finish(self.ended.get())
        for future in self.small:
            future.wait()
        return [self.outcomes[name] for name in self.names]

    def _share(self, name: str) -> Share | None:
        return self.machine.share(name, self.needs[name]) if self.machine else None

    def _start(self, waiting: list[str], shares: Mapping[str, Share | None]) -> list[str]:
        """Start what can be started; returns what still waits."""
        left = []
        for name in waiting:
            above = [self.outcomes.get(parent) for parent in self.graph.parents[name]]
            if bad := [o for o in above if o and o.state in ("failed", "skipped")]:
                self._skip(name, f"{bad[0].stage} {bad[0].state}" if bad[0].state == "failed" else bad[0].reason)
            elif self.deadline is not None and time.monotonic() >= self.deadline:
                self._skip(name, "the time is over")
            elif not all(above) or self._full(shares[name]):
                left.append(name)
            elif not self.graph.stale(name):
                self._keep(name)
            else:
                self._submit(name, shares[name])
        return left

    def _full(self, share: Share | None) -> bool:
        taken = [s for _, s, _ in self.started.values() if s]
        return bool(share and self.machine and not share.fits(taken, self.machine))

    def _submit(self, name: str, share: Share | None) -> None:
        stage, needs = self.graph.stages[name], self.needs[name]
        named = bring.with_options(task_run_name=stage.label, retries=needs.retries, retry_delay_seconds=RETRY_SECONDS)
        future = named.submit(stage, needs, str(self.workspace.root), self.graph.key(name), str(self.graph.cache))
        self.started[name] = (future, share, time.monotonic())
        future.add_done_callback(lambda _: self.ended.put(name))

    def _finish(self, name: str) -> None:
        future, _, begun = self.started.pop(name)
        future.wait()
        state = future.state
        ending = (state.name or "").lower()
        if not state.is_completed() or ending not in get_args(Ending):
            self._record(name, "failed", time.monotonic() - begun, state.message or str(state.type.value))
        else:
            self._record(name, cast("Ending", ending), time.monotonic() - begun)

    def _keep(self, name: str) -> None:
        self.small.append(keep.with_options(task_run_name=self.graph.stages[name].label).submit())
        self._record(name, "cached")

    def _skip(self, name: str, reason: str) -> None:
        self.small.append(skip.with_options(task_run_name=self.graph.stages[name].label).submit(reason))
        self._record(name, "skipped", reason=reason)

    def _record(self, name: str, state: Ending, seconds: float = 0.0, reason: str = "") -> None:
        self.outcomes[name] = Outcome(name, self.graph.stages[name].verb, state, seconds, reason)


def _words(share: Share) -> str:
    gpus = f" and {share.gpus} GPU{'s' if share.gpus > 1 else ''}" if share.gpus else ""
    return f"{share.cores} core{'s' if share.cores > 1 else ''}{gpus}"
