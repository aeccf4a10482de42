"""Real images, as people have them: a few steps of pretraining on web photographs in tars and on a COCO folder."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.pool import load_pool
from mimcore.execution import Execution
from mimcore.sampling.draw import sample
from mimcore.training import pretrain as stage

DECLARED = {
    "objective": {"module": "mae", "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2},
    "model": {
        "architecture": "vit_tiny_patch16_224",
        "image_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
    },
    "schedule": {
        "images_seen": 128,
        "batch_size": 16,
        "base_learning_rate": 1e-2,
        "warmup_images": 0,
        "precision": "float32",
        "validations": 2,
        "validation_images": 16,
    },
    "seed": "s0",
}


@pytest.mark.parametrize(
    ("name", "options", "images"),
    [
        ("websample", {"format": "tar", "path": "data/websample", "val_images": 100}, 1000),
        ("bccd", {"format": "coco", "path": "data/bccd"}, 205 + 87),
    ],
)
def test_from_a_pool_to_an_encoder(
    name: str, options: dict[str, Any], images: int, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options = options | {"path": str(shared / options["path"])}
    listing, index, subset = tmp_path / f"{name}.json", tmp_path / "index", tmp_path / "subset"
    scan(load_pool(name, options, tmp_path), listing)
    card = build_index(name, options, listing, index, tmp_path, tmp_path / "scratch")
    assert card["images"] + len(card["skipped"]) == images
    assert card["skipped"] == []
    sample("n48", {"pool": name, "images": 48}, "s0", options, index, subset, tmp_path)
    told: list[int] = []
    found = stage.pretrain(
        "real",
        DECLARED,
        options,
        subset,
        tmp_path / "run",
        tmp_path / "provenance.json",
        tmp_path / "scratch",
        tmp_path,
        Execution(device="cpu", threads=1),
        torch.device("cpu"),
        lambda phase, done, total, words: told.append(done),
    )
    torch.set_num_threads(threads)
    assert told == list(range(0, 129, 16))
    assert found["facts"]["unique_images"] == 48
    curve = pq.read_table(tmp_path / "run/curve.parquet").to_pylist()
    val = [point["loss"] for point in curve if point["split"] == "val"]
    assert val[-1] < val[0]
    # An artifact says nothing of the machine it was made on.
    assert str(tmp_path) not in (tmp_path / "run/metrics.json").read_text() + (tmp_path / "run/model.json").read_text()
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == found
