"""What the flows cost beside plain ``dvc repro`` on the same graph: fresh stages, stale stages, and stages that wait.

A Prefect server is started for the length of the run, and its start is not counted: it stands in daily use.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)  # in place of this folder, where this file would be taken for the package

import flows  # noqa: E402, F401 - its settings come before Prefect

WORK = """import sys, time
from pathlib import Path
time.sleep(float(sys.argv[2]))
Path("out").mkdir(exist_ok=True)
(Path("out") / sys.argv[1]).write_text(sys.argv[1])
"""
Row = dict[str, Any]


def checkout(root: Path, stages: int, seconds: float) -> Path:
    """A repository of independent stages that wait."""
    shutil.rmtree(root, ignore_errors=True)
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (root / ".gitignore").write_text("/out/\n")
    (root / "work.py").write_text(WORK)
    lines = ["stages:"]
    for i in range(stages):
        lines.append(f"  s{i}: {{cmd: python work.py s{i} {seconds}, deps: [work.py], outs: [out/s{i}]}}")
    (root / "dvc.yaml").write_text("\n".join(lines) + "\n")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return root


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def repro(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], cwd=root, check=True)


def bring(root: Path) -> None:
    from prefect import flow

    from flows.runner import bring_up_to_date
    from flows.study import RUNNER
    from flows.workspace import Workspace

    @flow(name="benchmark", task_runner=RUNNER)
    def walk() -> int:
        found = bring_up_to_date(Workspace(root, root))
        return sum(outcome.state in ("failed", "skipped") for outcome in found)

    assert walk() == 0


def make_stale(root: Path, stages: int) -> None:
    """Change the command of the first stages in a way that changes no result."""
    text = (root / "dvc.yaml").read_text()
    for i in range(stages):
        text = text.replace(f" s{i} ", f"  s{i} ")
    (root / "dvc.yaml").write_text(text)


def overhead(folder: Path, stages: int, stale: int, repeats: int) -> list[Row]:
    """Nothing stale, and a few stale: medians of whole seconds, and by stage. Each way has a repository of its own."""
    ways = {"dvc repro": repro, "flow": bring}
    ready = checkout(folder / "ready", stages, 0)
    repro(ready)
    roots = {name: folder / name.replace(" ", "-") for name in ways}
    for name, work in ways.items():
        shutil.copytree(ready, roots[name])
        work(roots[name])  # both ways warm
    fresh: dict[str, list[float]] = {name: [] for name in ways}
    more: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():  # in turns, so that a slow minute strikes both
            root = roots[name]
            fresh[name].append(timed(lambda: work(root)))  # noqa: B023
            make_stale(root, stale)
            more[name].append(timed(lambda: work(root)) - fresh[name][-1])  # noqa: B023
    return [
        {"benchmark": "flows", "setting": setting, "implementation": name, "value": value, "unit": "s"}
        for name in ways
        for setting, value in (
            (f"{stages} fresh stages, in all", median(fresh[name])),
            ("a fresh stage", median(fresh[name]) / stages),
            ("a stale stage", median(more[name]) / stale),
        )
    ]


def waiting(folder: Path, stages: int, seconds: float) -> list[Row]:
    """Independent stages that wait; the flow may run two at once."""
    rows = []
    setting = f"{stages} stages of {seconds:g} s"
    for name, work in (("dvc repro", repro), ("flow", bring)):
        value = timed(lambda: work(checkout(folder / f"wait-{name[:3]}", stages, seconds)))  # noqa: B023
        rows.append({"benchmark": "flows", "setting": setting, "implementation": name, "value": value, "unit": "s"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--stages", type=int, default=200, help="stages of the graph that is up to date")
    parser.add_argument("--stale", type=int, default=10, help="how many of them are made stale")
    parser.add_argument("--repeats", type=int, default=5, help="how often both are timed")
    parser.add_argument("--waiting", type=int, default=20, help="independent stages that wait; 0 leaves them out")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each of these waits")
    arguments = parser.parse_args()
    # Two at once, whatever the machine has.
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    from prefect.testing.utilities import prefect_test_harness
    from rich.console import Console
    from rich.table import Table

    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=180):
        os.environ["MIMCORE_SLOTS"] = f"{folder}/slots"
        rows = overhead(Path(folder), arguments.stages, arguments.stale, arguments.repeats) if arguments.stages else []
        rows += waiting(Path(folder), arguments.waiting, arguments.seconds) if arguments.waiting else []
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    table = Table("setting", "dvc repro, s", "flow, s", "ratio")
    for setting in dict.fromkeys(row["setting"] for row in rows):
        values = {row["implementation"]: row["value"] for row in rows if row["setting"] == setting}
        ratio = values["flow"] / values["dvc repro"]
        table.add_row(setting, f"{values['dvc repro']:.3f}", f"{values['flow']:.3f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
