"""Dask workers for stages: what each task needs, and as many Slurm jobs as that fills."""

import logging
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from dask_jobqueue import SLURMCluster
from distributed.deploy import Adaptive
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_dask import DaskTaskRunner

from flows.cluster import RESOURCES, Slurm

if TYPE_CHECKING:
    from prefect import Task
    from prefect.futures import PrefectFuture


class StageRunner(DaskTaskRunner):
    """Dask, told of each task what its stage needs; a worker runs as many at once as its resources hold."""

    def submit(
        self,
        task: "Task[..., Any]",
        parameters: dict[str, Any],
        wait_for: Iterable["PrefectFuture[Any]"] | None = None,
        dependencies: dict[str, set[Any]] | None = None,
    ) -> "PrefectFuture[Any]":
        """Submit a task whose parameter ``needs`` says what it takes, and give it the server that this flow reports to."""
        with get_client(sync_client=True) as client:
            server = str(client.api_url)
        needs = {name: float(parameters["needs"].get(name, 0)) for name in RESOURCES}
        with (
            temporary_settings({PREFECT_API_URL: server}),
            dask.annotate(resources={name: amount for name, amount in needs.items() if amount}),
        ):
            return super().submit(task, parameters, wait_for, dependencies)


class ByNeed(Adaptive):
    """As many jobs as the waiting and running stages fill.

    Dask's own estimate goes by how long tasks took and counts threads: it would ask for one job for eight stages that
    each need a whole one.
    """

    def __init__(self, cluster: SLURMCluster, job: Mapping[str, float], **options: Any) -> None:
        self.job = job  # what one job has
        super().__init__(cluster, **options)

    async def target(self) -> int:
        """Jobs that are needed now, by the scarcest resource."""
        tasks = self.cluster.scheduler.tasks.values()
        wanted = [task.resource_restrictions or {} for task in tasks if task.state not in ("memory", "erred", "released")]
        if not wanted:
            return 0
        totals = {name: sum(need.get(name, 0) for need in wanted) for name in self.job}
        fullest = max(totals[name] / have for name, have in self.job.items() if have)
        jobs = max(1, math.ceil(fullest))
        return min(jobs, int(self.maximum))


def slurm_cluster(slurm: Slurm, job: Mapping[str, float], checkout: Path) -> Callable[[], SLURMCluster]:
    """Makes a cluster of Slurm jobs, when the flow starts its tasks; each ``job`` has so much of the ``RESOURCES``."""
    _quiet_dask()
    logs = checkout / ".mimcore" / "slurm"
    resources = ",".join(f"{name}={amount:g}" for name, amount in job.items())
    directives = [slurm.gpu_directive.format(gpus=int(job["gpus"]))] if job["gpus"] else []
    path = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
    options: dict[str, Any] = {
        "job_name": "mimcore",
        "queue": slurm.partition,
        "account": slurm.account,
        "cores": int(job["cores"]),
        "processes": 1,
        "memory": f"{job['memory_gib']:g}GiB",
        # Stages are processes of their own: Slurm holds them to their memory.
        "nanny": False,
        "walltime": slurm.walltime,
        "interface": slurm.interface,
        "python": slurm.python,
        "local_directory": str(logs),
        "log_directory": str(logs),
        "worker_extra_args": ["--resources", resources, "--no-dashboard", "--memory-limit", "0"],
        "job_extra_directives": [*directives, *slurm.directives],
        "job_script_prologue": [f"cd {shlex.quote(str(checkout))}", f"export PYTHONPATH={shlex.quote(path)}", *slurm.setup],
        "scheduler_options": {"dashboard": False},
    }

    def start() -> SLURMCluster:
        logs.mkdir(parents=True, exist_ok=True)
        cluster = SLURMCluster(**options)
        cluster.adapt(
            Adaptive=ByNeed, job=job, minimum_jobs=0, maximum_jobs=slurm.jobs, interval="1s", wait_count=slurm.idle_seconds
        )
        return cluster

    return start


def _quiet_dask() -> None:
    """Dask tells of each connection that it closes; what matters reaches the flow as a failed task."""
    logging.getLogger("distributed").setLevel(logging.ERROR)
