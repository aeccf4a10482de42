"""Whole runs of the objectives that read captions, tags and labels: resumed bit for bit, validated alike, plain encoders."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small_run
import timm
import torch
from safetensors.torch import load_file
from small_run import FILES, Trained

from mimcore import registry
from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.loader import Images
from mimcore.data.pool import load_pool
from mimcore.definition import resolve
from mimcore.evaluation import linear
from mimcore.evaluation.features import FeaturesConfig, extract
from mimcore.evaluation.frozen import Frozen, Split
from mimcore.evaluation.task import Context
from mimcore.models import encoder as encoders
from mimcore.models.text import load_projection, load_text
from mimcore.models.tokenizer import BytePairs
from mimcore.sampling.draw import sample
from mimcore.training import loop
from mimcore.training.state import Run

TEXT: dict[str, Any] = {"vocab_size": 540, "context_length": 24}
TOWER: dict[str, Any] = {"text_width": 16, "text_depth": 1, "text_num_heads": 2, "projection_dim": 16}
DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "clip": {**TEXT, **TOWER},
    "wsp": {"tags_from": "caption"},
    "m3ae": {**TEXT, **DECODER},
    "mae_clip": {**TEXT, **TOWER, **DECODER},
}
MORE = {
    "clip": {"text.json", "text.safetensors", "projection.safetensors"},
    "wsp": {"vocabulary.json", "head.safetensors"},
    "m3ae": set(),
    "mae_clip": {"text.json", "text.safetensors", "projection.safetensors"},
}


def prepared(root: Path, name: str) -> Path:
    """What the objective learns of the subset."""
    folder = root / f"artifacts/prepared/{name}"
    folder.mkdir(parents=True, exist_ok=True)
    module = registry.load("objective", name)
    rows = pq.read_table(root / "artifacts/subsets/n150-s0/manifest.parquet")
    module.prepare(resolve(module.Config, OBJECTIVES[name], "objectives"), rows, folder)
    return folder


def train(root: Path, name: str, run: str, **execution: Any) -> Trained:
    """Pretrain with an objective."""
    declared = small_run.definition() | {"objective": {"module": name, **OBJECTIVES[name]}}
    return small_run.train(root, run, declared, prepared=prepared(root, name), **execution)


def train_until(root: Path, name: str, run: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrain with a checkpoint after each step, and let an error end it before one."""
    take = loop.train_step

    def may_be_cut(state: Run, *batch: Any) -> None:
        if state.step == step:
            raise RuntimeError("cut")
        take(state, *batch)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="cut"):
        patch.setattr(loop, "train_step", may_be_cut)
        train(root, name, run, checkpoint_seconds=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_that_was_cut_ends_as_if_it_had_not(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = train(root, name, f"{name}-whole")
    train_until(root, name, f"{name}-cut", 12, monkeypatch)
    resumed = train(root, name, f"{name}-cut")
    assert resumed.told[0] == 12 * 16
    assert resumed.bytes() == undisturbed.bytes()
    pictures = {"reconstructions.png"} if name in {"m3ae", "mae_clip"} else set()
    assert set(resumed.bytes()) == (FILES - {"reconstructions.png"}) | MORE[name] | pictures

    curve = pq.read_table(undisturbed.folder / "curve.parquet").to_pylist()
    losses = [point["loss"] for point in curve if point["split"] == "val"]
    assert losses[-1] < losses[0]

    told = json.loads((undisturbed.folder / "model.json").read_text())["timm"]
    plain = timm.create_model(told["model_name"], **told["kwargs"])
    plain.load_state_dict(load_file(undisturbed.folder / "encoder.safetensors"), strict=True)

    found = probe(root, undisturbed.folder)
    assert 0 <= found["top1"].value <= 1
    assert math.isfinite(found["cross_entropy"].value)
    if name in {"clip", "mae_clip"}:
        vectors = load_text(undisturbed.folder).encode(["a small red three", "a large blue seven"])
        encoder = encoders.load(undisturbed.folder)
        image = load_projection(undisturbed.folder)(encoder, torch.zeros(3, 3, 32, 32))
        assert (vectors.shape, image.shape) == ((2, 16), (3, 16))
    if name == "wsp":
        names = json.loads((undisturbed.folder / "vocabulary.json").read_text())["names"]
        assert {"large", "small", "three", "seven"} <= set(names)


def probe(root: Path, run: Path) -> dict[str, Any]:
    """The probe ``linear``, on the validation split."""
    encoder = encoders.load(run)
    rows = pq.read_table(root / "artifacts/subsets/n150-s0/validation.parquet")
    context = Context(torch.device("cpu"), 0, root / "work", workers=0)
    parts = []
    for half in (rows.slice(0, 20), rows.slice(20)):
        images = Images(small_run.POOL, half, 32, root)
        batches = list(extract(encoder, images, FeaturesConfig(pool="digits"), context))
        parts.append(Split(half, {name: torch.cat([b[name] for b in batches]).numpy() for name in batches[0]}))
    frozen = Frozen(parts[0], parts[1], [str(n) for n in range(10)])
    return dict(linear.probe(frozen, linear.Config(features="frozen"), context))


def test_the_loss_of_tags_starts_at_the_logarithm_of_their_number(root: Path) -> None:
    trained = train(root, "wsp", "wsp-once")
    names = json.loads((trained.folder / "vocabulary.json").read_text())["names"]
    first = pq.read_table(trained.folder / "curve.parquet").to_pylist()[:2]
    assert [point["loss"] for point in first] == pytest.approx([math.log(len(names))] * 2, rel=1e-6)


def test_a_second_phase_with_a_locked_image_tower_leaves_the_encoder_as_it_was(
    root: Path, undisturbed: Trained
) -> None:
    objective = {"module": "clip", **OBJECTIVES["clip"], "freeze_image": True}
    phase = {"objective": objective, "use": "weights", "after": small_run.definition()}
    declared = small_run.definition() | phase
    tuned = small_run.train(root, "locked", declared, after=undisturbed.folder, prepared=prepared(root, "clip"))
    assert tuned.bytes()["encoder.safetensors"] == undisturbed.bytes()["encoder.safetensors"]
    assert tuned.metrics()["encoder_of"] == undisturbed.folder.name
    losses = [
        point["loss"] for point in pq.read_table(tuned.folder / "curve.parquet").to_pylist() if point["split"] == "seen"
    ]
    assert losses[-1] < losses[0]


def learned(root: Path, objective: str, pool: dict[str, Any], images: int, **options: Any) -> Path:
    """Index a pool of the world, draw a subset and prepare an objective for it."""
    listing, index, subset = root / "listing.json", root / "index", root / "subset"
    scan(load_pool("pool", pool, root), listing)
    build_index("pool", pool, listing, index, root, root / ".mimcore")
    sample("n", {"pool": "pool", "images": images}, "s0", pool, index, subset, root)
    rows = pq.read_table(subset / "manifest.parquet")
    assert len(rows) == images
    module = registry.load("objective", objective)
    folder = root / "prepared"
    folder.mkdir()
    module.prepare(resolve(module.Config, options, "objectives"), rows, folder)
    return folder


@pytest.mark.parametrize("objective", ["clip", "wsp"])
def test_captions_of_photographs_are_learned_from(objective: str, shared: Path, tmp_path: Path) -> None:
    pool = {"format": "tar", "path": str(shared / "data/websample"), "val_images": 100, "perceptual_hash": False}
    options = TEXT | {"vocab_size": 4000} if objective == "clip" else {"tags_from": "caption"}
    folder = learned(tmp_path, objective, pool, 800, **options)
    if objective == "clip":
        tokens = BytePairs(json.loads((folder / "tokenizer.json").read_text())["merges"])
        assert len(tokens.encode("a photo of a")) == 4  # each word is a token
        assert tokens.decode(tokens.encode("a photo of a megalith")) == "a photo of a megalith"
    else:
        told = json.loads((folder / "vocabulary.json").read_text())
        assert len(told["names"]) > 500
        assert "photo" not in told["names"]
        assert told["images"] == sorted(told["images"], reverse=True)
