"""Small pipelines for tests of flows elsewhere, and a flow run in a process of its own."""

import json
import os
import subprocess
import sys
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo

ROOT = Path(__file__).resolve().parents[2]

#: Run in a process of its own, as a person would; the last line tells what became of each stage.
FLOW = """
import json, sys
from pathlib import Path
from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from flows.cluster import stages_elsewhere
from flows.runner import bring_up_to_date
from flows.workspace import Workspace

@flow(name="bring", task_runner=ThreadPoolTaskRunner())
def bring(root):
    workspace = Workspace(Path(root), Path(root))
    with stages_elsewhere(workspace):
        return [(o.stage, o.state, o.reason) for o in bring_up_to_date(workspace)]

if __name__ == "__main__":
    print(json.dumps(bring(sys.argv[1])))
"""


@dataclass
class Run:
    """A flow run that has ended."""

    states: dict[str, str]
    reasons: dict[str, str]
    output: str


def environment(folder: Path) -> dict[str, str]:
    """Of a flow run: a Prefect of its own, no network."""
    return {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(ROOT),
        "MIMCORE_SLOTS": str(folder / "slots"),
    }


def start_flow(root: Path, server: str, **variables: str) -> "subprocess.Popen[str]":
    """Bring a checkout up to date by a flow, in the background."""
    command = [sys.executable, "-c", FLOW, str(root)]
    env = {**environment(root.parent), "PREFECT_API_URL": server, **variables}
    return subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_flow(process: "subprocess.Popen[str]") -> Run:
    """Wait for a flow run's end."""
    output, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, output + errors
    found = json.loads(output.splitlines()[-1])
    return Run({n: s for n, s, _ in found}, {n: r for n, _, r in found if r}, output + errors)


def checkout(root: Path, pipeline: str, config: str = "[core]\n    analytics = false\n") -> Path:
    """A git and DVC repository with a pipeline, committed."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text(config)
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / "dvc.yaml").write_text(pipeline)
    (root / "seed.txt").write_text("one\n")
    (root / ".gitignore").write_text("/.mimcore\n")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "A checkout"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def repro(root: Path, *stages: str) -> None:
    """``dvc repro``, in this process; DVC takes paths from the working directory."""
    with chdir(root), Repo() as repo:
        repo.reproduce(list(stages) or None, single_item=bool(stages))
