"""Runs on crops of whole images, on images that are no squares, and on grey ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_run
import torch
from small_run import MODEL, STEPS, Trained

from mimcore.data.loader import Images
from mimcore.evaluation import run as evaluation
from mimcore.evaluation.extract import extract_floor, extract_run
from mimcore.evaluation.job import Job
from mimcore.evaluation.probing import probe_floor, probe_run
from mimcore.models import encoder as encoders
from mimcore.training import loop
from mimcore.training import pretrain as stage

VIEWS = {"crop_from": "image", "repeated_augmentation": 2}
WIDE = MODEL | {"image_size": [16, 32], "channels": 1}


def declared(model: dict[str, Any] = MODEL, **schedule: Any) -> dict[str, Any]:
    return small_run.definition(**VIEWS | schedule) | {"model": model}


@pytest.fixture(scope="module")
def wide(root: Path) -> Trained:
    """Grey images, twice as wide as high."""
    return small_run.train(root, "wide", declared(WIDE))


def test_crops_of_images_make_another_run_that_learns(root: Path, undisturbed: Trained, wide: Trained) -> None:
    plain = small_run.train(root, "views", declared())
    assert plain.bytes()["encoder.safetensors"] != undisturbed.bytes()["encoder.safetensors"]
    for trained in (plain, wide):
        curve = pq.read_table(trained.folder / "curve.parquet").to_pylist()
        losses = [point["loss"] for point in curve if point["split"] == "val"]
        assert losses[-1] < losses[0]
        assert trained.metrics()["facts"]["images_seen"] == 480  # crops


@pytest.mark.parametrize("how", [{"workers": 3}, {"workers": 2, "worker_kind": "process"}])
def test_the_workers_change_nothing(root: Path, wide: Trained, how: dict[str, Any]) -> None:
    again = small_run.train(root, f"wide-{len(how)}", declared(WIDE), **how)
    assert again.bytes() == wide.bytes()


def test_a_step_is_given_the_batch_of_its_number(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor] = []
    step = loop.train_step

    def watched(run: stage.Run, images: torch.Tensor, read: None) -> None:
        assert run.step == len(given)
        given.append(images.clone())
        step(run, images, read)

    monkeypatch.setattr(loop, "train_step", watched)
    small_run.train(root, "watched-views", declared())
    assert len(given) == STEPS
    run = stage.start_run(declared(), torch.device("cpu"))
    rows = pq.read_table(root / "artifacts/subsets/n150-s0/manifest.parquet")
    batches = loop.training_batches(run, Images(small_run.POOL, rows, 32, root), small_run.execution())
    for number in (0, STEPS - 1):
        assert np.array_equal(given[number].numpy(), batches.batch(number))
    crops = {image.numpy().tobytes() for batch in given for image in batch}
    assert len(crops) > 0.99 * STEPS * 16


def test_the_artifact_says_what_the_model_takes(wide: Trained) -> None:
    model = json.loads((wide.folder / "model.json").read_text())
    assert model["image_size"] == [16, 32]
    assert model["timm"]["kwargs"]["in_chans"] == 1
    assert (len(model["mean"]), len(model["std"])) == (1, 1)
    encoder = encoders.load(wide.folder)
    assert encoder.module.patch_embed.grid_size == (2, 4)
    assert (encoder.image_size, encoder.channels) == ((16, 32), 1)


@pytest.fixture
def examples(root: Path, tmp_path: Path) -> Path:
    manifest = pq.read_table(root / "artifacts/subsets/n150-s0/manifest.parquet")
    (tmp_path / "examples").mkdir()
    for part, rows in (("train", manifest.slice(0, 100)), ("test", manifest.slice(100))):
        pq.write_table(rows, tmp_path / f"examples/{part}.parquet")
    card = {"classes": [str(i) for i in range(10)], "box_classes": None}
    (tmp_path / "examples/card.json").write_text(json.dumps(card))
    return tmp_path / "examples"


def job(root: Path, inputs: Path, output: str, **definition: Any) -> Job:
    folder = inputs.parent
    return Job(
        "t",
        definition | {"run": {"seed": "s0"}, "model": WIDE},
        inputs,
        folder / output,
        folder / f"{output}.json",
        small_run.execution(),
        torch.device("cpu"),
        lambda *told: None,
        small_run.POOL,
        root,
    )


def test_a_task_takes_what_the_model_takes(root: Path, wide: Trained, examples: Path) -> None:
    options = {"crop_from": "image", "augmentation": "random_resized_crop", "images_seen": 64, "batch_size": 16}
    task = {"module": "finetune", "pool": "digits"} | options
    found = evaluation.evaluate_run("wide", wide.folder, job(root, examples, "out", task=task))
    assert 0 <= found["subjects"]["run"]["top1"]["value"] <= 1


@pytest.mark.parametrize(("probe", "options"), [("linear", {}), ("knn", {"neighbors": 5})])
def test_a_probe_takes_what_the_model_takes(
    root: Path, wide: Trained, examples: Path, probe: str, options: dict[str, Any]
) -> None:
    features, folder = {"pool": "digits"}, examples.parent
    extract_run("wide", wide.folder, job(root, examples, "features", features=features))
    extract_floor("wide", job(root, examples, "floor", features=features))
    task = {"module": probe, "features": "t"} | options
    found = probe_run("wide", wide.folder, job(root, folder / "features", "out", task=task))
    assert 0 <= found["subjects"]["run"]["top1"]["value"] <= 1
    floor = probe_floor("wide", job(root, folder / "floor", "under", task=task))["subjects"]
    assert set(floor) == {"untrained", "pixels"}
