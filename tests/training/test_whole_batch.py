"""A loss that compares the images of a batch, over several processes: the curve of one, from whole parts and from micro-batches."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from small_run import FILES, Trained

from mimcore.launch import launch

SCRIPT = Path(__file__).with_name("ranked_run.py")
CLIP = {
    "module": "clip",
    "tokenizer": "bytes",
    "context_length": 40,
    "text_width": 32,
    "text_depth": 1,
    "text_num_heads": 2,
    "projection_dim": 16,
}


def train(root: Path, name: str, ranks: int, **execution: Any) -> Trained:
    command = [sys.executable, str(SCRIPT), str(root), name, json.dumps({"objective": CLIP, "execution": execution})]
    status = launch(command, ranks, 0) if ranks > 1 else subprocess.run(command, check=False).returncode
    assert status == 0
    return Trained(root / "artifacts/runs" / name)


@pytest.fixture(scope="module")
def alone(root: Path) -> Trained:
    return train(root, "clip-alone", 1)


@pytest.mark.parametrize(
    ("ranks", "execution"),
    [
        (2, {"micro_batch": 3}),
        pytest.param(2, {}, marks=pytest.mark.slow),
        pytest.param(1, {"micro_batch": 5}, marks=pytest.mark.slow),
        pytest.param(2, {"parallel": "fsdp", "micro_batch": 3}, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_ranks_and_parts_gives_the_same_curve(
    root: Path, alone: Trained, ranks: int, execution: dict[str, Any]
) -> None:
    trained = train(root, f"clip-{ranks}-{len(execution)}", ranks, **execution)
    towers = {"text.safetensors", "projection.safetensors", "text.json"}
    assert set(trained.bytes()) == set(alone.bytes()) == (FILES | towers) - {"reconstructions.png"}
    curves = [pq.read_table(run.folder / "curve.parquet").to_pylist() for run in (trained, alone)]
    for a, b in zip(*curves, strict=True):
        assert (a["images_seen"], a["split"]) == (b["images_seen"], b["split"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    for file in ("encoder.safetensors", "text.safetensors", "projection.safetensors"):
        weights = [load_file(run.folder / file) for run in (trained, alone)]
        for name, weight in weights[0].items():
            if not name.endswith("qkv.bias"):  # a key's bias has no gradient but rounding, which Adam makes steps of
                torch.testing.assert_close(weight, weights[1][name], rtol=2e-2, atol=2e-3)
    assert trained.metrics()["facts"] == alone.metrics()["facts"]
    losses = [point["loss"] for point in curves[0] if point["split"] == "train"]
    assert losses[-1] < losses[0]
