"""Dask workers for stages: each task goes where its needs fit, and as many Slurm jobs are held as that fills."""

import contextvars
import logging
import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dask.base import annotate
from dask_jobqueue.slurm import SLURMCluster
from distributed.deploy.adaptive import Adaptive
from prefect.client.orchestration import get_client
from prefect.futures import PrefectConcurrentFuture, PrefectFuture
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from flows import elsewhere, remote
from flows.cluster import RESOURCES, Cluster, Slurm, amounts
from mimcore.errors import UserError

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State

    from flows.resources import Needs

#: Stages that may be on their way between here and the workers at once.
THREADS = 64


class StageRunner(DaskTaskRunner):
    """Dask for tasks that have ``needs``, threads of the flow run for those that only say that a stage is up to date.

    Args:
        cluster: where stages run.
        checkout: the main checkout.
        job: what a Slurm job has of the ``RESOURCES``; None for a Dask that others started.
    """

    def __init__(self, cluster: Cluster, checkout: Path, job: Mapping[str, float] | None) -> None:
        _quiet_dask()
        if job is None:
            super().__init__(address=cluster.address)
        else:
            super().__init__(cluster_class=slurm_cluster(cluster, job, checkout))
        self.share, self.job = cluster.share, job
        self._here: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="on its way")

    def __enter__(self) -> "StageRunner":
        super().__enter__()  # type: ignore[no-untyped-call]
        self._here.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None and self._client is not None:
            with suppress(OSError, TimeoutError):  # Dask is gone, and its workers with it
                self._client.run(elsewhere.stop, str(flow_run.id))
        self._threads.shutdown(wait=kind is None, cancel_futures=True)
        self._here.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)

    def submit(  # type: ignore[override]
        self,
        task: "Task[..., Any]",
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[Any]] | None = None,
    ) -> PrefectFuture[Any]:
        """Submit a task of ``flows.runner``: ``bring`` to a worker, what costs nothing to a thread.

        Raises:
            UserError: no worker has what the stage needs.
        """
        if "needs" not in parameters:
            return self._here.submit(task, parameters, wait_for, dependencies)
        resources = self._resources(parameters["stage"].name, parameters["needs"])
        if self.share == "disk":
            return self._send(task, parameters, None, resources)
        context = contextvars.copy_context()
        journey = self._threads.submit(context.run, self._by_remote, task, parameters, resources)
        return PrefectConcurrentFuture(uuid4(), journey)

    def _send(
        self, task: "Task[..., Any]", parameters: dict[str, Any], parcel: bytes | None, resources: Mapping[str, float]
    ) -> PrefectFuture[Any]:
        """Submit to a worker, which reports to the server that this flow run reports to."""
        there = elsewhere.like(task, elsewhere.bring_on_worker)
        with get_client(sync_client=True) as client:
            server = str(client.api_url)
        with temporary_settings({PREFECT_API_URL: server}), annotate(resources=dict(resources)):
            return super().submit(there, {**parameters, "parcel": parcel})

    def _by_remote(
        self, task: "Task[..., Any]", parameters: dict[str, Any], resources: Mapping[str, float]
    ) -> "State[Any]":
        """Let a worker without our disk do it, and restore the result from DVC's remote."""
        root, stage = Path(parameters["root"]), parameters["stage"].name
        try:
            found = remote.fetch_result(root, stage)
            if found == "unfiled":  # what a worker made of it, nobody would find
                return _ended_as(self._here.submit(task, parameters))
            made = None
            if found == "unknown":
                made = _ended_as(self._send(task, parameters, elsewhere.pack(root), resources))
                if not made.is_completed():
                    return made
                if remote.fetch_result(root, stage) != "fetched":
                    return Failed(
                        message=f"a worker made {stage}, but from other inputs than there are here; see that nothing else "
                        f"writes to {root}, and run the flow again."
                    )
            restored = _ended_as(self._here.submit(elsewhere.like(task, elsewhere.restore), parameters))
            return made if made is not None and restored.is_completed() else restored
        except UserError as error:
            return Failed(message=str(error))

    def _resources(self, stage: str, needs: "Needs") -> dict[str, float]:
        """What a stage needs of a worker.

        Raises:
            UserError: no worker has so much.
        """
        offer: list[Mapping[str, float]]
        if self.job is not None:
            offer = [self.job]
        else:
            offer = [worker["resources"] for worker in self.client.scheduler_info(n_workers=-1)["workers"].values()]
        wanted = amounts(needs, offer)
        if offer and not any(all(one.get(name, 0) >= n for name, n in wanted.items()) for one in offer):
            words = " ".join(f"{name}={amount:g}" for name, amount in wanted.items())
            raise UserError(
                f"{stage} needs {words}, and no worker has that; start one with 'dask worker ... --resources \"{words}\"', "
                "or raise slurm's cores, gpus or memory_gib in the cluster file."
            )
        return wanted


class ByNeed(Adaptive):
    """As many jobs as the waiting and running stages fill.

    Dask's own estimate goes by how long tasks took and counts threads: it would ask for one job for eight stages that
    each need a whole one.
    """

    def __init__(self, cluster: SLURMCluster, job: Mapping[str, float], **options: Any) -> None:
        self.job = job
        super().__init__(cluster, **options)

    async def target(self) -> int:
        """Jobs that are needed now, by the scarcest resource."""
        tasks = self.cluster.scheduler.tasks.values()  # type: ignore[attr-defined]
        wanted = [task.resource_restrictions for task in tasks if task.resource_restrictions and not _ended(task)]
        used = [sum(one.get(name, 0) for one in wanted) / have for name, have in self.job.items() if have]
        return int(min(math.ceil(max(used)), self.maximum))


def _ended_as(future: PrefectFuture[Any]) -> "State[Any]":
    future.wait()
    return future.state


def _ended(task: Any) -> bool:
    return str(task.state) in ("memory", "erred", "released", "forgotten")


def slurm_cluster(cluster: Cluster, job: Mapping[str, float], checkout: Path) -> Callable[[], SLURMCluster]:
    """Makes a cluster of Slurm jobs, when the first stage is submitted; each ``job`` has so much of the ``RESOURCES``."""
    slurm = cluster.slurm
    home = slurm.home or checkout
    options: dict[str, Any] = {
        "job_name": "mimcore",
        "queue": slurm.partition,
        "account": slurm.account,
        "cores": int(job["cores"]),
        "processes": 1,
        "memory": f"{job['memory_gib']:g}GiB",
        # Stages are processes of their own: Slurm holds them to their memory, not Dask.
        "nanny": False,
        "walltime": slurm.walltime,
        "interface": slurm.interface,
        "python": slurm.python,
        "local_directory": str(home / ".mimcore" / "dask"),
        "worker_extra_args": ["--resources", ",".join(f"{name}={job[name]:g}" for name in RESOURCES), "--no-dashboard"],
        "job_extra_directives": _directives(slurm, job),
        "job_script_prologue": [
            f"cd {shlex.quote(str(home))}",
            f"export PYTHONPATH={shlex.quote(str(home))}${{PYTHONPATH:+:$PYTHONPATH}}",
            *slurm.setup,
        ],
        "scheduler_options": {"dashboard": False},
    }
    if cluster.share == "disk":  # Slurm starts no job whose log has no folder
        options["log_directory"] = str(home / ".mimcore" / "slurm")

    def start() -> SLURMCluster:
        if cluster.share == "disk":
            (home / ".mimcore" / "slurm").mkdir(parents=True, exist_ok=True)
        made = SLURMCluster(**options)
        made.adapt(
            Adaptive=ByNeed,
            job=job,
            minimum_jobs=0,
            maximum_jobs=slurm.jobs,
            interval="1s",
            wait_count=slurm.idle_seconds,
        )
        return made

    return start


def _directives(slurm: Slurm, job: Mapping[str, float]) -> list[str]:
    gpus = [slurm.gpu_directive.format(gpus=int(job["gpus"]))] if job["gpus"] else []
    return [*gpus, *slurm.directives]


def _quiet_dask() -> None:
    """Dask tells of each connection that it closes; what matters reaches the flow as a failed task."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
