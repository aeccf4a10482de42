"""What Prefect's page offers to run, and the process that starts those runs on this machine.

``python -m flows.deployments serve`` is started by ``flows.serve``. ``prefect.yaml`` says the same for work pools; its first
step is ``python -m flows.deployments clear``.
"""

import argparse
import asyncio
import importlib
import importlib.util
import signal
from pathlib import Path
from typing import Any, cast

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from flows.study import study

TAG = "mimcore"
#: Every night at two, by the machine's clock.
NIGHT = "0 2 * * *"


def deployments(nightly: bool) -> list[RunnerDeployment]:
    """The flows that are offered; ``nightly`` switches the schedule of the nightly one on."""
    by_module = EntrypointType.MODULE_PATH  # a run reads the flow anew, from the checkout as it is then
    given: dict[str, Any] = {"parameters": {}}  # so that it runs with nothing filled in
    offered = [study.to_deployment("study", tags=[TAG], parameters=given, entrypoint_type=by_module)]
    if importlib.util.find_spec("flows.nightly"):
        flow = importlib.import_module("flows.nightly").nightly
        night = Cron(NIGHT, timezone=_timezone(), active=nightly)
        offered.append(
            flow.to_deployment("nightly", tags=[TAG], parameters=given, schedule=night, entrypoint_type=by_module)
        )
    return cast("list[RunnerDeployment]", offered)  # outside of a running loop these are no coroutines


def _timezone() -> str:
    """IANA name of this machine's time zone; UTC if it has none."""
    place = Path("/etc/localtime").resolve()
    _, found, name = str(place).partition("/zoneinfo/")
    return name.removeprefix("posix/") if found else "UTC"


async def _earlier(client: PrefectClient, *, in_pools: bool) -> list[DeploymentResponse]:
    """What earlier versions of the code have deployed to this server: to work pools, or served by this process."""
    ours = DeploymentFilter.model_validate({"tags": {"all_": [TAG]}})
    found = await client.read_deployments(deployment_filter=ours)
    return [deployment for deployment in found if bool(deployment.work_pool_name) == in_pools]


async def clear_schedules(client: PrefectClient, *, in_pools: bool) -> None:
    """Take every schedule away: one that was dropped from the code would keep firing."""
    for deployment in await _earlier(client, in_pools=in_pools):
        for schedule in deployment.schedules:
            await client.delete_deployment_schedule(deployment.id, schedule.id)


async def close_dead_runs(client: PrefectClient) -> None:
    """Close the runs that were under way when this checkout's server was last ended: nothing drives them any more."""
    here = {deployment.id for deployment in await _earlier(client, in_pools=False)}
    under_way = {"type": {"any_": [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]}}
    for run in await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"state": under_way})):
        if run.deployment_id in here:
            said = "The server was ended while this ran. Finished stages are kept: run it again to go on."
            await client.set_flow_run_state(run.id, Crashed(message=said), force=True)


async def serve(offered: list[RunnerDeployment], ready: Path) -> None:
    """Offer the deployments, touch ``ready``, and start what is asked for until told to end; then end its runs."""
    async with get_client() as client:
        await clear_schedules(client, in_pools=False)
        await close_dead_runs(client)
    runner = Runner(name=TAG, pause_on_shutdown=False)
    for deployment in offered:
        await runner.aadd_deployment(deployment)
    working = asyncio.create_task(runner.start())
    while not runner.started and not working.done():
        await asyncio.sleep(0.05)
    # After ``start``, which sets a handler of its own that stops from within the signal and leaves tasks behind.
    for end in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(end, lambda: asyncio.ensure_future(runner.astop()))
    ready.touch()
    await working


async def clear() -> None:
    """What ``prefect deploy`` does first: it sets the schedules that it is given, and takes none away."""
    async with get_client() as client:
        await clear_schedules(client, in_pools=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m flows.deployments", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    here = verbs.add_parser("serve", help="Offer the flows and start their runs on this machine.")
    here.add_argument("--nightly", action="store_true", help="Switch the nightly schedule on.")
    here.add_argument("--ready", type=Path, required=True, help="A file that is made once runs can be asked for.")
    verbs.add_parser("clear", help="Take the schedules of work pools' deployments away.")
    options = parser.parse_args()
    asyncio.run(serve(deployments(options.nightly), options.ready) if options.verb == "serve" else clear())
