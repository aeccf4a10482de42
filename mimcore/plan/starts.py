"""What a stage costs before and after its work: the start of a process, and DVC's own part."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

#: What each verb's process loads before it works.
LOADS = {
    "check": "mimcore.models.encoder, mimcore.scaling.fit, mimcore.training.schedule",
    "modules": "mimcore.modules",
    "index": "mimcore.data.index",
    "sample": "mimcore.sampling.draw",
    "examples": "mimcore.sampling.examples",
    "prepare": "mimcore.sampling.prepare",
    "pretrain": "mimcore.training.pretrain, torch._dynamo",  # which torch's optimisers load
    "features": "mimcore.evaluation.extract",
    "features-floor": "mimcore.evaluation.extract",
    "probe": "mimcore.evaluation.probing, torch._dynamo",
    "probe-floor": "mimcore.evaluation.probing, torch._dynamo",
    "evaluate": "mimcore.evaluation.run, torch._dynamo",
    "floor": "mimcore.evaluation.run, torch._dynamo",
    "collect": "mimcore.scaling.collect",
    "fit": "mimcore.scaling.fit",
    "report": "mimcore.scaling.report",
}
#: Stages of a scratch pipeline that DVC is timed on, and stages in its lock that it leaves alone, with so many dependencies each.
MANY, FILLER, FILLER_DEPS = 6, 100, 9
#: Of its repository: no process may outlive a command, to tell DVC's makers of it.
CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
#: Lines of such a stage in the lock.
FILLER_LINES = 3 + 4 * FILLER_DEPS


def start_seconds(loads: str) -> float:
    """How long a process takes until it can work, where it ``loads`` these modules: median of three after a first."""
    code = f"import mimcore.cli; from mimcore.startup import prepare; prepare(); import {loads}"
    command = [sys.executable, "-c", code]
    found = []
    for _ in range(4):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


def dvc_seconds() -> dict[str, float]:
    """What DVC itself takes for a stage, and more for each line of ``dvc.lock``, which it reads and writes anew for every stage.

    Timed on scratch pipelines, many stages less one, without and with other stages in the lock.
    """
    alone, beside = (_a_stage(filler) for filler in (0, FILLER))
    return {"stage": alone, "line": max(0.0, beside - alone) / (FILLER * FILLER_LINES)}


def _a_stage(filler: int) -> float:
    """Seconds of a stage beside so many others in the lock."""
    found = []
    for count in (1, MANY):
        with tempfile.TemporaryDirectory() as folder:
            each = {"cmd": "echo ${item} > made-${item}", "outs": ["made-${item}"]}
            pipeline = {"stages": {"probe": {"foreach": list(range(count)), "do": each}}}
            Path(folder, ".dvc").mkdir()
            Path(folder, ".dvc", "config").write_text(CONFIG, encoding="utf-8")
            Path(folder, "dvc.yaml").write_text(json.dumps(pipeline), encoding="utf-8")
            if filler:
                Path(folder, "dvc.lock").write_text(_lock(filler), encoding="utf-8")
            command = [sys.executable, "-m", "dvc", "repro", "--quiet"]
            begun = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            found.append(time.perf_counter() - begun)
    return max(0.0, found[1] - found[0]) / (MANY - 1)


def _lock(stages: int) -> str:
    """A lock with stages that its pipeline does not have."""
    found: dict[str, Any] = {"schema": "2.0", "stages": {}}
    for stage in range(stages):
        deps = [{"path": f"{stage}-{n}", "hash": "md5", "md5": "d" * 32, "size": 1000} for n in range(FILLER_DEPS)]
        found["stages"][f"before-{stage}"] = {"cmd": "true", "deps": deps}
    return yaml.safe_dump(found, sort_keys=False)


def lock_lines(stages: Collection[str], lock: Path) -> float:
    """Lines that ``dvc.lock`` has while ``stages`` run, on the average: those of now, and half of those that they will add.

    A stage that is not in it is taken to add as many as the others have, and to a new lock ``FILLER_LINES``.
    """
    text = lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else []
    there = {line.strip().rstrip(":").strip("'") for line in text if line.startswith("  ") and line[2] != " "}
    each = len(text) / len(there) if there else FILLER_LINES
    return len(text) + each * len(set(stages) - there) / 2
