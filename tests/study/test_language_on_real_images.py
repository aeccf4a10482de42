"""CLIP on real images, by the functions of the stages: what it makes of names, few images, corruptions and captions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.loader import Images
from mimcore.data.pool import load_pool
from mimcore.evaluation.extract import extract_run
from mimcore.evaluation.job import Job
from mimcore.evaluation.probing import probe_run
from mimcore.evaluation.run import evaluate_run
from mimcore.execution import Execution
from mimcore.models import encoder as encoders
from mimcore.models.text import load_projection, load_text
from mimcore.sampling.draw import sample
from mimcore.sampling.examples import choose
from mimcore.sampling.prepare import prepare
from mimcore.training import pretrain as stage

CPU, EXECUTION = torch.device("cpu"), Execution(device="cpu", threads=1, workers=0)
TEXT = {"pooling": "gap", "text_width": 32, "text_depth": 1, "text_num_heads": 2, "projection_dim": 32}
DECLARED = {
    "objective": {"module": "clip", **TEXT, "context_length": 24, "vocab_size": 1200},
    "model": {
        "architecture": "vit_tiny_patch16_224",
        "image_size": 32,
        "patch_size": 8,
        "embed_dim": 96,
        "depth": 3,
        "num_heads": 3,
    },
    "schedule": {
        "images_seen": 16384,
        "batch_size": 64,
        "base_learning_rate": 4e-3,
        "warmup_images": 2048,
        "precision": "float32",
        "crop_scale": [0.4, 1.0],
        "validations": 2,
        "validation_images": 64,
    },
    "seed": "s0",
}


@dataclass(frozen=True)
class Made:
    """A pool with a run on it."""

    root: Path
    pool: dict[str, Any]

    def definition(self, **more: Any) -> dict[str, Any]:
        return {"run": DECLARED, **more}

    def job(self, name: str, definition: dict[str, Any], inputs: str, output: str) -> Job:
        where = self.root / "provenance" / f"{name}.json"
        told = lambda *words: None  # noqa: E731
        return Job(
            name, definition, self.root / inputs, self.root / output, where, EXECUTION, CPU, told, self.pool, self.root
        )


def make(root: Path, pool: dict[str, Any], images: int) -> Made:
    listing, index, subset = root / "pool.json", root / "index", root / "subset"
    scan(load_pool("pool", pool, root), listing)
    build_index("pool", pool, listing, index, root, root / "scratch")
    sample("some", {"pool": "pool", "images": images}, "s0", pool, index, subset, root)
    prepare("clip", DECLARED["objective"], subset, root / "prepared")  # type: ignore[arg-type]
    stage.pretrain(
        "clip",
        DECLARED,
        pool,
        subset,
        root / "run",
        root / "provenance/run.json",
        root / "scratch",
        root,
        EXECUTION,
        CPU,
        lambda *words: None,
        root / "prepared",
    )
    return Made(root, pool)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cifar10(shared: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Made:
    pool = {"format": "parquet", "path": str(shared / "data/cifar10"), "train": "train-00001-*", "val": "test-*"}
    pool |= {"classes": "classes.json", "caption_template": "a photo of a {label}", "perceptual_hash": False}
    return make(tmp_path_factory.mktemp("cifar10"), pool, 10_000)


def test_names_and_few_images_of_cifar10(cifar10: Made) -> None:
    options = {"pool": "pool", "train_images": 1000, "test_images": 1000}
    index, chosen = cifar10.root / "index", cifar10.root / "examples"
    choose("features.some", options, index, chosen, {"zeroshot": "labels", "fewshot": "labels"})
    definition = cifar10.definition(features=options)
    extract_run("clip", cifar10.root / "run", cifar10.job("some", definition, "examples", "features"))
    found = {}
    for name, more in {"zeroshot": {"templates": ["a photo of a {}"]}, "fewshot": {}}.items():
        task = {"task": {"module": name, "features": "some", **more}}
        job = cifar10.job(name, definition | task, "features", f"evals/{name}")
        found[name] = probe_run("clip", cifar10.root / "run", job)["subjects"]["run"]
    named = found["zeroshot"]["top1"]
    assert named["value"] - 3 * named["standard_error"] > 0.1  # chance; the images are of the test set
    one, five, ten = (found["fewshot"][f"top1_{shots}"] for shots in (1, 5, 10))
    assert 0.1 < one["value"] < five["value"] < ten["value"]
    assert ten["value"] - one["value"] > 3 * (ten["standard_error"] + one["standard_error"])


def test_corruptions_of_cifar10(cifar10: Made) -> None:
    options = {"module": "robustness", "pool": "pool", "train_images": 1000, "test_images": 100, "l2": [1e-2]}
    chosen = cifar10.root / "corrupted"
    choose("tasks.robustness", options, cifar10.root / "index", chosen, {"robustness": "labels"})
    job = cifar10.job("robustness", cifar10.definition(task=options), "corrupted", "evals/robustness")
    found = evaluate_run("clip", cifar10.root / "run", job)["subjects"]["run"]
    errors = [found[f"severity_{severity}"]["value"] for severity in range(1, 6)]
    assert found["clean_error"]["value"] < errors[2] < errors[4] - 0.01
    assert errors[0] < errors[4]


def test_web_photographs_by_the_names_of_cifar10(cifar10: Made, shared: Path, tmp_path: Path) -> None:
    """A CLIP that has read ten names, and has seen none of these photographs, tells them by these names above chance."""
    study = yaml.safe_load((Path(__file__).parents[2] / "studies/web-captions.yaml").read_text())
    pool = {"format": "tar", "path": str(shared / "data/websample"), "train": "*0.tar", "val": "*[1-9].tar"}
    web = Made(tmp_path, {**pool, "perceptual_hash": False})
    scan(load_pool("pool", web.pool, tmp_path), tmp_path / "pool.json")
    build_index("pool", web.pool, tmp_path / "pool.json", tmp_path / "index", tmp_path, tmp_path / "scratch")
    options, task = {"pool": "pool"}, study["tasks"]["ten"]
    choose("features.web", options, tmp_path / "index", tmp_path / "examples", {"ten": "captions"})
    definition = web.definition(features=options)
    extract_run("clip", cifar10.root / "run", web.job("web", definition, "examples", "features"))
    found = probe_run(
        "clip", cifar10.root / "run", web.job("ten", definition | {"task": task}, "features", "evals/ten")
    )
    beyond = found["subjects"]["run"]["beyond_chance"]
    assert beyond["value"] > 3 * beyond["standard_error"]


def ranks(made: Made, rows: Any) -> torch.Tensor:
    """Place of each image's own caption among those of all the images, from 1, float32 ``(N,)``."""
    subject, run = encoders.load(made.root / "run"), made.root / "run"
    images = Images(made.pool, rows, 32, made.root)
    pixels = torch.stack([torch.from_numpy(images.get([n])[0]) for n in range(len(rows))])  # type: ignore[arg-type, call-overload]
    with torch.inference_mode():
        vectors = load_projection(run).eval()(subject.module.eval(), subject.normalize(pixels))
        cosines = vectors @ load_text(run).encode(rows["caption"].to_pylist()).T
    return 1.0 + (cosines > cosines.diag()[:, None]).sum(dim=1)


def test_web_photographs_find_their_captions(shared: Path, tmp_path: Path, one_thread: None) -> None:
    """One image a class: a caption that was held out has a name that was never seen, so that chance is all that one may expect."""
    pool = {"format": "tar", "path": str(shared / "data/websample"), "val_images": 100, "perceptual_hash": False}
    made = make(tmp_path, pool, 200)
    seen = ranks(made, pq.read_table(tmp_path / "subset/manifest.parquet"))
    chance = (len(seen) + 1) / 2
    error = float(((len(seen) ** 2 - 1) / 12 / len(seen)) ** 0.5)
    assert float(seen.mean()) < chance - 3 * error
