"""The true ``dvc.yaml`` over work that takes no time: each stage writes a digest of what it declares to read."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from mimcore.imports import ROOT

KINDS = ("pools", "subsets", "models", "objectives", "schedules", "features", "tasks")
PARAMS: dict[str, Any] = {
    "pools": {"digits": {"format": "digits", "images": 100, "val_images": 10}},
    "subsets": {"n16": {"pool": "digits", "images": 16}, "n64": {"pool": "digits", "images": 64}},
    "models": {
        "tiny": {"image_size": 32, "patch_size": 4, "embed_dim": 64},
        "small": {"image_size": 32, "patch_size": 4, "embed_dim": 128},
    },
    "objectives": {"mae": {"mask_ratio": 0.75, "norm_pix_loss": True}},
    "schedules": {"short": {"images_seen": 512, "batch_size": 64, "crop_scale": [0.2, 1.0]}},
    "features": {"all": {"pool": "digits", "train_images": 50}},
    "tasks": {
        "linear": {"features": "all", "l2": [0.1]},
        "detection": {"pool": "digits", "scales": ["1", "1/2"]},
    },
    "study": {
        "title": "Small",
        "pools": ["digits"],
        "subsets": ["n16", "n64"],
        "models": ["tiny", "small"],
        "objectives": ["mae"],
        "schedules": ["short"],
        "seeds": ["s0"],
        "features": ["all"],
        "probes": ["linear"],
        "tasks": ["detection"],
        "extra": {},
        "phases": {},
    },
    "fit": {"bootstrap": 200},
    "execution": {"device": "cpu", "threads": 1, "workers": 0},
}

#: Stands for ``mimcore/__main__.py``: ``modules`` does its work, every other verb none.
STUB = """
import hashlib, json, os, sys
from pathlib import Path
import mimcore

arguments = " ".join(sys.argv[1:])
stage = json.loads(Path(os.environ["STUB_STAGES"]).read_text())[arguments]
found = hashlib.sha256(arguments.encode())
params = json.loads(Path("params.yaml").read_text())
for name in stage["params"]:
    value = params
    for part in name.split("."):
        value = value.get(part, {})
    found.update(json.dumps([name, value], sort_keys=True).encode())
for dep in stage["deps"]:
    files = sorted(Path(dep).rglob("*")) if Path(dep).is_dir() else [Path(dep)]
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts and file.name != ".gitignore":
            found.update(str(file).encode() + file.read_bytes())
for out in map(Path, stage["outs"]):
    if arguments.startswith("check"):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text('{"valid": true}')
        continue
    if arguments == "modules":
        from mimcore.modules import read_code, write_modules  # the true work: it is what this is about

        named = {kind: {n: o.get("module", n) for n, o in params[kind].items()} for kind in ("objectives", "tasks")}
        write_modules(read_code(**named), out)
        continue
    names = stage["inside"].get(str(out), ["data.json"])
    for file in [out] if out.suffix else [out / name for name in names]:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"made_by": arguments, "digest": found.hexdigest()})
        file.write_text("x,y\\n1,2\\n" if file.suffix == ".csv" else text)
with Path(os.environ["STUB_LOG"]).open("a") as log:
    log.write(stage["name"] + "\\n")
"""
INSIDE_RUN = ["encoder.safetensors", "model.json", "metrics.json", "curve.parquet"]


@dataclass(frozen=True)
class Pipeline:
    """A checkout whose stages do fake work; ``log`` names the stages that were run."""

    root: Path

    @property
    def log(self) -> Path:
        """Lines of stages that ran, outside the checkout."""
        return self.root.with_name(f"{self.root.name}.log")

    @property
    def stages(self) -> Path:
        """What the stub knows of each command, outside the checkout."""
        return self.root.with_name(f"{self.root.name}.stages.json")

    @contextmanager
    def repo(self) -> Iterator[Repo]:
        """DVC in this process; it takes paths from the working directory."""
        with chdir(self.root), Repo() as repo:
            yield repo

    def repro(self, *targets: str, force: bool = False) -> list[str]:
        """Bring the study up to date; returns the stages that ran, in order."""
        known = {}
        with self.repo() as repo:
            for stage in repo.index.stages:
                known[stage.cmd.removeprefix("python -m mimcore ")] = {
                    "name": stage.addressing,
                    "outs": [out.def_path for out in stage.outs],
                    "deps": [d.def_path for d in stage.deps if d.def_path != "params.yaml"],
                    "params": [p for d in stage.deps if d.def_path == "params.yaml" for p in d.params],
                    "inside": {o.def_path: INSIDE_RUN for o in stage.outs if "artifacts/runs/" in o.def_path},
                }
        self.stages.write_text(json.dumps(known))
        self.log.write_text("")
        os.environ.update(STUB_STAGES=str(self.stages), STUB_LOG=str(self.log))
        with self.repo() as repo:
            repo.reproduce(list(targets) or None, single_item=bool(targets), force=force)
        return self.log.read_text().split()

    def status(self) -> dict[str, Any]:
        """What DVC holds to be stale, by its own inputs and outputs."""
        with self.repo() as repo:
            found: dict[str, Any] = repo.status()
        return found

    def stale(self) -> set[str]:
        """Names of the stages that DVC holds to be stale."""
        return set(self.status())

    def names(self) -> set[str]:
        """Every stage."""
        with self.repo() as repo:
            return {stage.addressing for stage in repo.index.stages}

    def params(self) -> dict[str, Any]:
        """The study file."""
        content: dict[str, Any] = json.loads((self.root / "params.yaml").read_text())
        return content

    def set(self, path: str, value: Any) -> None:
        """Change one dotted path of the study file."""
        params = self.params()
        *parents, last = path.split(".")
        block = params
        for part in parents:
            block = block.setdefault(part, {})
        block[last] = value
        (self.root / "params.yaml").write_text(json.dumps(params, indent=1))

    @contextmanager
    def edited(self, file: str, text: str = "\n# An edit.\n") -> Iterator[None]:
        """Append ``text`` to a file of the checkout for the length of the block."""
        path = self.root / file
        before = path.read_text() if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((before or "") + text)
        try:
            yield
        finally:
            if before is None:
                path.unlink()
            else:
                path.write_text(before)

    def sources(self) -> dict[str, bytes]:
        """Everything that a user edits, and the lock."""
        files = [self.root / name for name in ("params.yaml", "dvc.yaml", "dvc.lock", ".dvcignore")]
        files += sorted((self.root / "mimcore").rglob("*.py")) + sorted((self.root / "mimcore").rglob("*.j2"))
        return {str(file.relative_to(self.root)): file.read_bytes() for file in files if file.exists()}

    def put_back(self, sources: dict[str, bytes]) -> None:
        """Bring back what ``sources`` returned, and the artifacts that belong to it."""
        for name in set(self.sources()) - set(sources):
            (self.root / name).unlink()
        for name, content in sources.items():
            (self.root / name).write_bytes(content)
        with self.repo() as repo:
            repo.checkout(force=True)
        assert self.repro() == [], "what a test left behind made stages stale"


def build(root: Path) -> Pipeline:
    """Copy the pipeline and the package to ``root``, with the stub in place of the work, and make it a repository."""
    root.mkdir(parents=True)
    for name in (
        "dvc.yaml",
        "forecasts.json",
        "imported.json",
        ".dvcignore",
        ".gitignore",
        ".dvc/config",
        ".dvc/.gitignore",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "mimcore", root / "mimcore", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "mimcore/__main__.py").write_text(STUB)
    (root / "params.yaml").write_text(json.dumps(PARAMS, indent=1))
    (root / "listings").mkdir()
    (root / "listings/digits.json").write_text('{"shards": []}')
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run(["git", "add", "--all"], cwd=root, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "A checkout"], cwd=root, check=True)
    return Pipeline(root)
