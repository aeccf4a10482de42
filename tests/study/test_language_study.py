"""The study ``cifar10-language`` for real, by the commands that its first lines name."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_small_study import copy_tracked


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_names_few_shots_and_corruptions_on_cifar10(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    copy_tracked(root)
    checkout = Path(__file__).resolve().parents[2]
    (root / "params.yaml").write_text((checkout / "params.yaml").read_text())
    study = checkout / "studies/cifar10-language.yaml"
    places = {f"DVC_{name}_DIR": str(tmp_path / name) for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")}
    environment = {**os.environ, **places, "CIFAR10": str(shared / "data/cifar10"), "PYTHONPATH": ""}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in (
        ["git", "init", "--quiet"],
        [sys.executable, "-m", "mimcore", "use", "--force", str(study)],
        [sys.executable, "-m", "mimcore", "scan"],
        [sys.executable, "-m", "dvc", "repro", "--quiet"],
    ):
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(root / "artifacts/results/results.parquet").to_pylist()
    found = {(row["kind"], row["objective"], row["task"], row["metric"]): row for row in rows}

    named = found["run", "clip", "zeroshot", "top1"]
    assert named["value"] - 3 * named["standard_error"] > 0.1
    assert ("run", "mae", "zeroshot", "top1") not in found
    for objective in ("clip", "mae"):
        shots = [found["run", objective, "fewshot", f"top1_{shots}"]["value"] for shots in (1, 5, 10)]
        assert shots == sorted(shots)
        errors = [found["run", objective, "robustness", f"severity_{severity}"]["value"] for severity in range(1, 6)]
        assert errors == sorted(errors)
        assert errors[0] > found["run", objective, "robustness", "clean_error"]["value"]
