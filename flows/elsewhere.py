"""A stage on a worker: in the flow's own folder where the disk is shared, else in a copy that meets it at DVC's remote."""

import io
import os
import shutil
import signal
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from dvc.repo import Repo
from prefect import get_run_logger, task
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import pages, remote
from flows.stage import StoppedError, run_stage
from flows.workspace import share_cache
from mimcore import layout

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State

    from flows.graph import Stage
    from flows.resources import Needs

#: Flow runs that this worker was told to stop.
_stopped: set[str] = set()
#: Workspaces that this worker has tasks in, by their flow run.
_folders: dict[str, set[Path]] = {}


@task(name="stage")
def bring_on_worker(
    stage: "Stage", needs: "Needs", root: str, key: str | None, cache: str, parcel: bytes | None
) -> "State[Any]":
    """Bring one stage up to date on this worker.

    Args:
        stage: which.
        needs: what it takes of the machine.
        root: the workspace, where the disk is shared.
        key: see ``flows.graph.Graph.key``.
        cache: DVC's, where the disk is shared.
        parcel: what ``pack`` made of the workspace, where it is not.
    """
    from flows.runner import bring

    if parcel is None:
        with _known(Path(root)):
            return bring.fn(stage, needs, root, key, cache)
    with unpacked(parcel, Path.cwd()) as (there, own_cache), _known(there):
        remote.fetch_inputs(there, stage.name)
        remote.fetch_result(there, stage.name)
        state = bring.fn(stage, needs, str(there), key, str(own_cache))
        if state.is_completed():
            remote.publish(there, stage.name)
        return state


@task(name="stage")
def bring_and_share(stage: "Stage", needs: "Needs", root: str, key: str | None, cache: str) -> "State[Any]":
    """Bring one stage up to date here, from DVC's remote if anybody has made it, and leave the result there."""
    from flows.runner import bring

    remote.fetch_result(Path(root), stage.name)
    state = bring.fn(stage, needs, root, key, cache)
    if state.is_completed():
        remote.publish(Path(root), stage.name)
    return state


class SharingRunner(ThreadPoolTaskRunner[Any]):
    """Threads of the flow run that share what they make by DVC's remote."""

    def submit(self, task: "Task[..., Any]", parameters: dict[str, Any], *others: Any, **options: Any) -> Any:
        """Submit a task of ``flows.runner``: ``bring`` with a look at the remote before it, and after it."""
        return super().submit(
            like(task, bring_and_share) if "needs" in parameters else task, parameters, *others, **options
        )


def like(task: "Task[..., Any]", other: "Task[..., Any]") -> "Task[..., Any]":
    """Another task under a task's name, tried again as often."""
    return other.with_options(
        task_run_name=task.task_run_name, retries=task.retries, retry_delay_seconds=task.retry_delay_seconds
    )


@task(name="restore")
def restore(stage: "Stage", needs: "Needs", root: str, key: str | None, cache: str) -> "State[Any]":
    """Let DVC restore, in the flow's own workspace, what was fetched from the remote."""
    result = run_stage(Path(root), stage.name, {}, get_run_logger().info, lambda progress: None)
    if result.code:
        return Failed(message=result.failure(stage.name))
    pages.publish_stage(Path(root), stage)
    return Completed(name="Ran" if result.executed else "Restored")


@contextmanager
def _known(root: Path) -> Iterator[None]:
    """Let ``stop`` find what runs here for a flow run."""
    mine = str(flow_run.id)
    if mine in _stopped:
        raise StoppedError("the flow run ends.")
    _folders.setdefault(mine, set()).add(root)
    yield


def stop(flow_run_id: str) -> None:
    """Kill, in a worker, the stages of a flow run that has ended, and start no more of them."""
    _stopped.add(flow_run_id)
    folders = _folders.get(flow_run_id, set())
    for child in psutil.Process().children():
        with suppress(psutil.Error, ProcessLookupError):
            if Path(child.cwd()) in folders:  # the process of a stage, which leads a group of its own
                os.killpg(child.pid, signal.SIGKILL)


def pack(root: Path) -> bytes:
    """A workspace without what DVC keeps: every file that git tracks or would track, ``dvc.lock`` among them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in sorted({os.fsdecode(line) for line in listed.stdout.split(b"\0") if line}):
            if (root / name).is_file():
                archive.add(root / name, name)
    return stream.getvalue()


@contextmanager
def unpacked(parcel: bytes, home: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a copy of a packed workspace, and DVC's cache that it uses: a worktree of the worker's own checkout.

    Nothing of an earlier stage lies there, so that a folder that a stage reads whole is what it was where it was packed.
    Pools, the cache, the remote's credentials and checkpoints are those of the worker's checkout.
    """
    there = home / layout.SCRATCH / "elsewhere" / uuid.uuid4().hex
    there.parent.mkdir(parents=True, exist_ok=True)
    add = ["git", "worktree", "add", "--quiet", "--detach", "--no-checkout", str(there)]
    subprocess.run(add, cwd=home, check=True, capture_output=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(parcel)) as archive:
            archive.extractall(there, filter="data")
        share_cache(home, there)
        (there / ".mimcore").symlink_to(home / layout.SCRATCH)
        with Repo(str(there)) as repo:
            cache, state = Path(repo.cache.legacy.path), Path(repo.site_cache_dir)
        yield there, cache
        shutil.rmtree(state, ignore_errors=True)
    finally:
        (there / ".mimcore").unlink(missing_ok=True)
        subprocess.run(["git", "worktree", "remove", "--force", str(there)], cwd=home, check=False, capture_output=True)
