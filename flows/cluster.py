"""Stages beyond one machine: the same Prefect tasks on Dask workers, which Slurm may be asked for.

Where is said by a small YAML file (see docs/cluster.md), so that no flow and no stage differs by it::

    engine: slurm            # threads (this machine), dask (an address) or slurm
    share: disk              # or remote: they meet at DVC's remote only
    slurm: {partition: gpu, jobs: 8, cores: 8, gpus: 1, memory_gib: 64, walltime: "1-00:00:00"}
"""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from prefect.context import FlowRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

from flows.graph import Graph
from flows.resources import Needs, needs_of
from flows.workspace import Workspace
from mimcore import definition
from mimcore.definition import Definition
from mimcore.errors import UserError

#: Names a cluster file, before ``cluster.yaml`` of the checkout.
VARIABLE = "MIMCORE_CLUSTER"
FILE = Path("cluster.yaml")
#: What a stage may need and a worker may have; names of Dask's resources.
RESOURCES = ("cores", "gpus", "memory_gib")


class Slurm(Definition):
    """What is asked of Slurm: jobs of one kind, each with one Dask worker, which runs as many stages as fit in it."""

    partition: str | None = None
    account: str | None = None
    #: At most so many jobs at once; none is held while there is nothing to do.
    jobs: int = Field(4, ge=1)
    #: Of one job; what is not given is what the most demanding stage needs.
    cores: int | None = Field(None, ge=1)
    gpus: int | None = Field(None, ge=0)
    memory_gib: float | None = Field(None, gt=0)
    #: As Slurm writes it. A stage that is cut short goes on in another job, a pretraining from its checkpoint.
    walltime: str = "1-00:00:00"
    #: Seconds that a job without work is kept, as the next one may wait in a queue.
    idle_seconds: int = Field(60, ge=1)
    #: How GPUs are asked for.
    gpu_directive: str = "--gres=gpu:{gpus}"
    #: Further options of sbatch, such as "--qos=long".
    directives: list[str] = Field(default_factory=list)
    #: Lines of shell before the worker starts, such as "module load cuda".
    setup: list[str] = Field(default_factory=list)
    #: Network interface that the nodes reach each other by, such as "ib0"; by default the one that leads out.
    interface: str | None = None
    #: Python on the nodes; by default the flow's own.
    python: str = sys.executable
    #: Where jobs start: a checkout on the nodes. By default the flow's, which they see where the disk is shared.
    home: Path | None = None


class Cluster(Definition):
    """Where stages run."""

    engine: Literal["threads", "dask", "slurm"] = "threads"
    #: Of a Dask scheduler, ``tcp://host:8786``; for the engine ``dask``.
    address: str | None = None
    #: What those who work on a study have in common: the flow's checkout under one path, or DVC's remote. With threads, the
    #: remote is where this checkout finds what others made, and leaves what it makes.
    share: Literal["disk", "remote"] = "disk"
    slurm: Slurm = Slurm.model_validate({})


def read_cluster(checkout: Path) -> Cluster:
    """The cluster file that ``MIMCORE_CLUSTER`` names, or ``cluster.yaml`` of the checkout, or threads if there is none.

    Raises:
        UserError: the named file is missing, or an option is wrong.
    """
    named = os.environ.get(VARIABLE)
    file = Path(named) if named else checkout / FILE
    if not file.is_file():
        if named:
            raise UserError(f"{VARIABLE}: there is no file {file}; correct the variable, or unset it.")
        return Cluster()
    try:
        options = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(options, Mapping):
        raise UserError(f"{file} must hold options such as 'engine: slurm'.")
    cluster = definition.resolve(Cluster, options, str(file))
    if (cluster.engine == "dask") != (cluster.address is not None):
        raise UserError(
            f"{file}: 'address' (of a Dask scheduler) and 'engine: dask' belong together; give both or none."
        )
    return cluster


@contextmanager
def stages_elsewhere(workspace: Workspace) -> Iterator[None]:
    """Let the tasks that the running flow submits within the block go where the cluster file says.

    Args:
        workspace: what is to be brought up to date. The cluster file is that of its main checkout, where jobs start.

    Raises:
        UserError: the cluster file is wrong, a stage needs more than a job has, or there is no Slurm here.
    """
    cluster, flow_run = read_cluster(workspace.main), FlowRunContext.get()
    plain = cluster.engine == "threads" and cluster.share == "disk"
    if (
        plain or flow_run is None or type(flow_run.task_runner) is not ThreadPoolTaskRunner
    ):  # within such a block already
        yield
        return
    runner = _runner(cluster, workspace)
    with runner, flow_run.model_copy(update={"task_runner": runner}):
        yield


def _runner(cluster: Cluster, workspace: Workspace) -> TaskRunner[Any]:
    if cluster.engine == "threads":
        from flows.elsewhere import SharingRunner

        return SharingRunner()
    try:
        from flows.workers import StageRunner
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, which the cluster file needs; run 'pip install \"mimcore[cluster]\"'."
        ) from error
    job = None
    if cluster.engine == "slurm":
        if shutil.which("sbatch") is None:
            raise UserError(
                "the cluster file asks for Slurm, but there is no 'sbatch' here; run flows on a login node."
            )
        stages = Graph(workspace.root).stages.items()
        job = size_of_job(cluster.slurm, {name: needs_of(name, stage.meta) for name, stage in stages})
    return StageRunner(cluster, workspace.main, job)


def amounts(needs: Needs, offer: Iterable[Mapping[str, float]] = ()) -> dict[str, float]:
    """What a stage needs of the ``RESOURCES``, those of which it needs nothing left out.

    Args:
        needs: as declared.
        offer: what each worker has; ``gpus: auto`` is one GPU where any has one.
    """
    gpus = int(any(one.get("gpus", 0) for one in offer)) if needs.gpus == "auto" else needs.gpus
    found = {"cores": needs.cores, "gpus": gpus, "memory_gib": needs.memory_gib}
    return {name: float(amount) for name, amount in found.items() if amount}


def size_of_job(slurm: Slurm, needs: Mapping[str, Needs]) -> dict[str, float]:
    """What one job has of the ``RESOURCES``: as the file says, or as the most demanding stage needs.

    Raises:
        UserError: a stage needs more than the file gives a job.
    """
    job = {}
    for name, least in zip(RESOURCES, (1, 0, 1), strict=True):
        each = {stage: amounts(need).get(name, 0) for stage, need in needs.items()}
        stage = max(each, key=lambda stage: each[stage])
        given = getattr(slurm, name)
        job[name] = float(max(each[stage], least) if given is None else given)
        if each[stage] > job[name]:
            raise UserError(
                f"{stage} needs {each[stage]:g} {name} (its 'meta' in dvc.yaml), but a Slurm job has {job[name]:g}; "
                f"raise slurm.{name} in the cluster file."
            )
    return job
