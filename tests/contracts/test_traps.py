"""Traps of DVC that gave a wrong or stale result, each with its cure."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import scaling_study
import scratch_pipeline
from dvc.repo import Repo

from mimcore import layout
from mimcore.cli import scaling
from mimcore.errors import UserError
from mimcore.imports import ROOT
from mimcore.setaside import set_aside
from mimcore.study import Study

pytestmark = pytest.mark.filterwarnings("ignore")  # of DVC's own libraries


@pytest.mark.parametrize(("field", "sound"), [("size", False), ("nfiles", False), ("images", True)])
def test_the_run_cache_does_not_see_some_names(
    tmp_path: Path, quiet_tools: pytest.MonkeyPatch, field: str, sound: bool
) -> None:
    """A bug of DVC: should this fail one day, ``Study.read`` need not refuse the names any more."""
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  draw:\n    cmd: cp params.yaml out.yaml\n    params: [subsets.n]\n    outs: [out.yaml]\n"
    )
    with chdir(tmp_path):
        subprocess.run(["git", "init", "--quiet"], check=True)
        Repo.init().close()
        for value in (1, 2):
            Path("params.yaml").write_text(f"subsets: {{n: {{{field}: {value}}}}}\n")
            with Repo() as repo:
                repo.reproduce()
        assert Path("out.yaml").read_text() == f"subsets: {{n: {{{field}: {2 if sound else 1}}}}}\n"


@pytest.mark.parametrize("field", ["size", "nfiles"])
def test_such_a_name_is_refused_at_any_depth(tmp_path: Path, field: str) -> None:
    for block in ({field: 3}, {"inner": {field: 3}}):
        params = scratch_pipeline.PARAMS | {"subsets": {"n16": {"pool": "digits"} | block, "n64": {"pool": "digits"}}}
        (tmp_path / "params.yaml").write_text(json.dumps(params))
        with pytest.raises(UserError, match=f"subsets.n16: an option may not be called '{field}'"):
            Study.read(tmp_path / "params.yaml")


def fields_of_definitions() -> Iterator[tuple[str, str]]:
    """Every option of every definition in the package."""
    from mimcore import registry
    from mimcore.models.encoder import Config as ModelConfig
    from mimcore.sampling.draw import Subset
    from mimcore.scaling.fit_options import Config as FitConfig
    from mimcore.training.schedule import Schedule

    kinds: tuple[registry.Kind, ...] = ("format", "strategy", "objective", "task", "probe")
    modules = [registry.load(kind, name) for kind in kinds for name in registry.names(kind)]
    for config in [ModelConfig, Subset, FitConfig, Schedule, *(module.Config for module in modules)]:
        yield from ((f"{config.__module__}.{config.__name__}", field) for field in config.model_fields)


def test_no_definition_has_such_an_option() -> None:
    found = list(fields_of_definitions())
    assert len(found) > 50
    assert [(where, field) for where, field in found if field in {"size", "nfiles"}] == []


class TestOldArtifacts:
    """Artifacts that the study does not name, with the true code of ``collect``."""

    def checkout(self, root: Path) -> Path:
        scratch_pipeline.build(root)
        (root / "mimcore/__main__.py").write_text((ROOT / "mimcore/__main__.py").read_text())
        plan = scaling_study.Plan(
            sizes=(16, 64), schedules={"short": 512}, seeds=("s0",), tasks=("linear", "detection")
        )
        artifacts = root / layout.ARTIFACTS
        scaling_study.build(artifacts, plan)
        study: Any = scaling._grid(Study.read(root / "params.yaml"))
        self.declare(artifacts / "runs", {name: run["definition"] for name, run in study["runs"].items()})
        for kind in ("evals", "floors"):
            for of, tasks in study[kind].items():
                self.declare(artifacts / kind / of, tasks)
        subprocess.run([sys.executable, "-m", "mimcore", "modules"], cwd=root, check=True)
        return root

    def declare(self, folder: Path, definitions: dict[str, Any]) -> None:
        for name, definition in definitions.items():
            file = folder / name / "metrics.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"definition": definition}))

    def collect(self, root: Path) -> str:
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", "collect"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self, root: Path) -> dict[str, Any]:
        with chdir(root), Repo() as repo:
            found: dict[str, Any] = repo.status(targets=["collect"])
        return found

    def test_they_are_set_aside(self, tmp_path: Path, quiet_tools: pytest.MonkeyPatch) -> None:
        root = self.checkout(tmp_path / "checkout")
        artifacts = root / "artifacts"
        self.collect(root)
        assert self.status(root) == {}
        first = {file.name: file.read_bytes() for file in (artifacts / "results").iterdir()}
        lock = (root / "dvc.lock").read_text()
        old = ["runs/mae-huge-n16-short-s0", "evals/mae-huge-n16-short-s0/linear", "floors/tiny/knn", "runs/.x.part-12"]
        for folder in old:
            (artifacts / folder).mkdir(parents=True)
            (artifacts / folder / "metrics.json").write_text("{}")
        (root / ".mimcore/set-aside/floors/tiny/knn/older").mkdir(parents=True)
        assert set(self.status(root)) == {"collect"}, "the trap is there"
        said = self.collect(root)
        assert (
            "artifacts/evals/mae-huge-n16-short-s0 and 3 more: not of this study, moved to .mimcore/set-aside." in said
        )
        assert self.status(root) == {}
        assert (root / "dvc.lock").read_text() == lock
        assert {file.name: file.read_bytes() for file in (artifacts / "results").iterdir()} == first
        for folder in old:
            assert not (artifacts / folder).exists()
            assert (root / ".mimcore/set-aside" / folder / "metrics.json").read_text() == "{}"
        assert not (root / ".mimcore/set-aside/floors/tiny/knn/older").exists()

    def test_a_study_that_lacks_artifacts_moves_nothing(self, tmp_path: Path, quiet_tools: pytest.MonkeyPatch) -> None:
        root = self.checkout(tmp_path / "checkout")
        (root / "artifacts/runs/mae-tiny-n16-short-s0").rename(root / "artifacts/runs/another")
        command = [sys.executable, "-m", "mimcore", "collect"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "mae-tiny-n16-short-s0" in done.stderr
        assert (root / "artifacts/runs/another").is_dir()


def test_what_is_named_stays(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    for name in ("runs/a/x", "runs/b/x", "evals/a/linear/x", "evals/a/knn/x", "index/digits/x", "runs/.gitignore"):
        (artifacts / name).parent.mkdir(parents=True, exist_ok=True)
        (artifacts / name).write_text("x")
    named = [artifacts / "runs/a", artifacts / "evals/a/linear", artifacts / "floors/m/linear"]
    moved = set_aside(artifacts, named, tmp_path / "aside")
    assert moved == [artifacts / "evals/a/knn", artifacts / "runs/b"]
    assert sorted(str(f.relative_to(artifacts)) for f in artifacts.rglob("*") if f.is_file()) == sorted(
        ["runs/a/x", "evals/a/linear/x", "index/digits/x", "runs/.gitignore"]
    )
    assert set_aside(artifacts, named, tmp_path / "aside") == []
