"""A whole study for real: ``dvc repro`` in a repository of its own, from rendered digits to the report."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]

BRIEF = {
    "images_seen": 128,
    "batch_size": 16,
    "base_learning_rate": 1e-2,
    "warmup_images": 0,
    "precision": "float32",
    "validations": 2,
    "validation_images": 16,
}
EXTRA = {"objective": "mae", "model": "nano", "subset": "n64", "schedule": "longer", "seed": "s0"}
#: The encoder of a run goes on under another objective.
PHASE = "simmim-nano-n64-brief-s0-after-mae-n64-brief"
SECOND = EXTRA | {"objective": "simmim", "schedule": "brief"}
SECOND |= {"after": "mae-nano-n64-brief-s0", "use": "weights"}

#: One seed: each more run is three more processes, and most of a process here is the import of torch.
STUDY: dict[str, Any] = {
    "pools": {"digits": {"format": "digits", "images": 300, "image_size": 32, "val_images": 60}},
    "subsets": {f"n{n}": {"pool": "digits", "images": n} for n in (32, 64, 128)},
    "models": {
        "nano": {
            "architecture": "vit_tiny_patch16_224",
            "image_size": 32,
            "patch_size": 8,
            "embed_dim": 32,
            "depth": 1,
            "num_heads": 2,
        }
    },
    "objectives": {
        "mae": {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2},
        "simmim": {"mask_unit": 8},
    },
    "schedules": {"brief": BRIEF, "longer": BRIEF | {"images_seen": 192}},
    "features": {"hundred": {"pool": "digits", "train_images": 100}},
    "tasks": {
        "knn": {"features": "hundred", "neighbors": 5},
        "linear": {"features": "hundred", "l2": [0.1, 0.01], "max_iterations": 10},
    },
    "study": {
        "title": "A small study",
        "pools": ["digits"],
        "subsets": ["n32", "n64", "n128"],
        "models": ["nano"],
        "objectives": ["mae"],
        "schedules": ["brief"],
        "seeds": ["s0"],
        "features": ["hundred"],
        "probes": ["knn", "linear"],
        "tasks": [],
        "extra": {"mae-nano-n64-longer-s0": EXTRA},
        "phases": {PHASE: SECOND},
    },
    "fit": {"bootstrap": 100},
    "execution": {"device": "cpu", "threads": 1, "workers": 0},
}
RUNS = {f"mae-nano-{subset}-brief-s0" for subset in ("n32", "n64", "n128")} | {"mae-nano-n64-longer-s0", PHASE}

#: Runs in every Python process of the study: says at its end which files of the package it had loaded.
SPY = """
import atexit, json, os, sys, uuid

def say():
    loaded = {m.__file__ for n, m in list(sys.modules.items()) if n.split(".")[0] == "mimcore" and getattr(m, "__file__", None)}
    if loaded:
        with open(os.path.join(os.environ["SPY_FOLDER"], uuid.uuid4().hex + ".json"), "w") as file:
            json.dump({"command": sys.argv[1:], "loaded": sorted(loaded)}, file)

atexit.register(say)
"""

#: Prints the command of each stage with what it depends on.
DECLARED = """
import json
from dvc.repo import Repo
print(json.dumps({stage.cmd: [dep.def_path for dep in stage.deps] for stage in Repo().index.stages}))
"""

#: They translate or only show; what they hand over is a parameter.
TRANSLATORS = {
    f"mimcore/{name}.py"
    for name in (
        "study",
        "runs",
        "layout",
        "explain",
        "progress",
        "execution",
        "lifetime",
        "launch",
        "startup",
        "__main__",
    )
}
#: Loaded by ``study.py`` in every stage, whether its own work uses them or not: what the code imports tells that.
TRANSLATORS |= {"mimcore/definition.py", "mimcore/registry.py"}


@dataclass(frozen=True)
class Place:
    """A repository with a study, and the folder where its processes say what they loaded."""

    root: Path
    spied: Path

    def run(self, *command: str) -> str:
        # With bytecode on: what Python writes beside the code must make nothing stale.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.spied.parent),
            "SPY_FOLDER": str(self.spied),
            "DVC_SITE_CACHE_DIR": str(self.root.parent / "dvc-site"),
            "DVC_GLOBAL_CONFIG_DIR": str(self.root.parent / "dvc-global"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.root.parent / "dvc-system"),
            "DVC_NO_ANALYTICS": "1",
        }
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def processes(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted(self.spied.glob("*.json"))]


def copy_tracked(root: Path) -> None:
    """Copy what a study needs of the tracked tree, as it is on disk."""
    wanted = ("mimcore", "dvc.yaml", "forecasts.json", "imported.json", ".dvc", ".dvcignore", ".gitignore")
    listed = subprocess.run(
        ["git", "ls-files", "-z", *wanted], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("needs a git checkout")
    for name in listed.stdout.rstrip("\0").split("\0"):
        if (CHECKOUT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / name, root / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The study, brought up to date once."""
    base = tmp_path_factory.mktemp("small")
    place = Place(base / "study", base / "spy" / "said")
    place.root.mkdir()
    place.spied.mkdir(parents=True)
    (place.spied.parent / "sitecustomize.py").write_text(SPY)
    copy_tracked(place.root)
    (place.root / "params.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    place.run("git", "init", "--quiet")
    place.run("git", "add", "--all")
    place.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "study")
    place.run(sys.executable, "-m", "mimcore", "scan")
    place.run(sys.executable, "-m", "dvc", "repro", "--quiet")
    yield place
    shutil.rmtree(base, ignore_errors=True)


def test_it_ends_with_results_and_a_report(place: Place) -> None:
    artifacts = place.root / "artifacts"
    rows = pq.read_table(artifacts / "results/results.parquet").to_pylist()
    assert {row["run"] for row in rows if row["kind"] == "run"} == RUNS
    assert {row["task"] for row in rows} == {"pretrain", "knn", "linear"}
    assert {row["kind"] for row in rows} == {"run", "untrained", "pixels"}
    assert {row["unique_images"] for row in rows if row["kind"] == "run"} == {32, 64, 128}
    fitted = json.loads((artifacts / "fit/fit.json").read_text())["fits"]
    assert {fit["objective"] for fit in fitted} == {"mae", "simmim after mae brief"}
    (phase,) = (row for row in rows if row["run"] == PHASE and row["metric"] == "val_loss")
    assert (phase["after"], phase["images_seen"], phase["total_images_seen"]) == ("mae-nano-n64-brief-s0", 128, 256)
    assert phase["total_flops"] > phase["flops"]
    assert json.loads((artifacts / f"prepared/{PHASE}/prepared.json").read_text()) == {}
    assert (artifacts / "report/report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert "artifacts/report/report.html" in place.run(sys.executable, "-m", "mimcore", "results")
    assert not list((place.root / ".mimcore").rglob("checkpoint*"))


def test_each_stage_ran_once_and_loaded_what_it_declares(place: Place) -> None:
    declared = json.loads(place.run(sys.executable, "-c", DECLARED))
    ran: list[str] = []
    undeclared: dict[str, list[str]] = {}
    for process in place.processes():
        command = " ".join(["python -m mimcore", *process["command"]])
        loaded = {Path(file).relative_to(place.root).as_posix() for file in process["loaded"]}  # of no other checkout
        if command not in declared:
            continue
        ran.append(command)
        code = {file for file in loaded if Path(file).name != "__init__.py"} - TRANSLATORS
        code = {file for file in code if not file.startswith("mimcore/cli/")}
        told = [json.loads((place.root / dep).read_text()) for dep in declared[command] if "artifacts/modules/" in dep]
        extra = set() if "mimcore" in declared[command] else code.difference(*told)
        if extra:
            undeclared[command] = sorted(extra)
    assert undeclared == {}
    assert sorted(ran) == sorted(declared)


def test_a_second_time_nothing_runs(place: Place) -> None:
    before = len(place.processes())
    artifacts = {f: f.stat().st_mtime_ns for f in (place.root / "artifacts").rglob("*") if f.is_file()}
    said = place.run(sys.executable, "-m", "dvc", "repro")
    assert "Data and pipelines are up to date." in said
    assert len(place.processes()) == before
    assert {f: f.stat().st_mtime_ns for f in (place.root / "artifacts").rglob("*") if f.is_file()} == artifacts
