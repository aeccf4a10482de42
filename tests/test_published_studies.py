"""The studies of published papers: the papers' figures in the full files, and how the small ones differ from them.

Figures of Xie et al. 2023 are those of github.com/microsoft/Swin-Transformer at f82860b (MODELHUB.md and configs/simmim); the sizes of Lu
et al. 2023 are those of the abstract of arXiv 2305.15248.
"""

from pathlib import Path

import pytest
import torch

from mimcore.definition import resolve
from mimcore.models import encoder as encoders
from mimcore.study import Study
from mimcore.training.schedule import Schedule

STUDIES = Path(__file__).parents[1] / "studies"
PAPERS = ("lu2023", "xie2023")


def read(paper: str, which: str) -> Study:
    return Study.read(STUDIES / paper / f"{which}.yaml")


def modules(study: Study, kind: str) -> set[str]:
    return {study.module(kind, name) for name in study.definitions[kind]}


@pytest.mark.parametrize("which", ["full", "mini"])
@pytest.mark.parametrize("paper", PAPERS)
def test_the_file_has_no_mistake(paper: str, which: str) -> None:
    read(paper, which).check()


@pytest.mark.parametrize("paper", PAPERS)
def test_the_small_study_asks_what_the_full_one_asks(paper: str) -> None:
    full, mini = read(paper, "full"), read(paper, "mini")
    assert modules(mini, "objectives") == modules(full, "objectives")
    assert {mini.module("tasks", name) for name in mini.grid.measures} == {
        full.module("tasks", name) for name in full.grid.measures
    }
    assert mini.fit.keys() == full.fit.keys()
    asked, claimed = mini.fit["claims"], full.fit["claims"]
    assert asked.keys() == claimed.keys()
    for name, claim in claimed.items():
        # A few hundred test images tell less than 50,000: what would matter is more, and the sentence says so.
        loose = {"margin", "words"} if "margin" in claim and claim["kind"] == "equivalent" else set()
        assert {k: v for k, v in asked[name].items() if k not in loose} == {
            k: v for k, v in claim.items() if k not in loose
        }


@pytest.mark.parametrize("paper", PAPERS)
def test_the_small_study_has_names_of_the_full_one(paper: str) -> None:
    full, mini = read(paper, "full"), read(paper, "mini")
    for kind in ("subsets", "models", "schedules", "objectives", "tasks"):
        assert mini.definitions[kind].keys() <= full.definitions[kind].keys(), kind


def test_xie_has_the_63_released_cells() -> None:
    cells = {(at.model, at.subset, at.schedule) for at in read("xie2023", "full").runs.values()}
    subsets = {
        "small": ["f10", "f20", "f50", "f100"],
        "base": ["f10", "f20", "f50", "f100", "in22k"],
        "large": ["f10", "f20", "f50", "f100", "in22k"],
        "huge": ["f20", "f50", "f100", "in22k"],
        "giant": ["f50", "f100", "in22k"],
    }
    lengths = ("it125k", "it250k", "it500k")
    assert cells == {(model, subset, at) for model, names in subsets.items() for subset in names for at in lengths}
    assert len(cells) == 63


@pytest.mark.parametrize(("name", "iterations"), [("it125k", 125_000), ("it250k", 250_000), ("it500k", 500_000)])
def test_each_length_of_xie_has_its_own_schedule(name: str, iterations: int) -> None:
    schedule = resolve(Schedule, read("xie2023", "full").options("schedules", name), name)
    assert schedule.batch_size == 2048
    assert schedule.images_seen == iterations * 2048
    assert schedule.milestones == (iterations * 2048 * 7 // 8,)
    assert (schedule.base_learning_rate, schedule.learning_rate_batch) == (1e-4, 512)
    assert schedule.base_learning_rate * schedule.batch_size / schedule.learning_rate_batch == pytest.approx(4e-4)
    assert (schedule.weight_decay, schedule.betas, schedule.clip_grad) == (0.05, (0.9, 0.999), 5.0)
    assert schedule.crop_scale == (0.67, 1.0)


def test_xie_predicts_pixels_standardised_by_their_window() -> None:
    options = read("xie2023", "full").options("objectives", "simmim")
    assert options == {"mask_ratio": 0.6, "mask_unit": 32, "loss": "l1", "target_window": 47}


def test_fractions_of_xie_are_of_imagenet() -> None:
    study = read("xie2023", "full")
    images = [study.options("subsets", name).get("images") for name in ("f10", "f20", "f50", "f100", "in22k")]
    assert images == [*(round(1_281_167 * part) for part in (0.1, 0.2, 0.5, 1)), 14_197_122]


@pytest.mark.parametrize(
    ("name", "millions"), [("small", 49), ("base", 87), ("large", 195), ("huge", 655), ("giant", 1060)]
)
def test_models_of_xie_have_the_published_sizes(name: str, millions: int) -> None:
    with torch.device("meta"):
        encoder = encoders.build(resolve(encoders.Config, read("xie2023", "full").options("models", name), name))
    assert sum(p.numel() for p in encoder.module.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_lu_has_the_five_sizes_and_draws_ten_million_in_four_ways() -> None:
    study = read("lu2023", "full")
    drawn = {name: study.options("subsets", name) for name in study.grid.subsets}
    assert [drawn[name]["images"] for name in ("m05", "m1", "m5", "m10", "m100")] == [
        500_000,
        1_000_000,
        5_000_000,
        10_000_000,
        100_000_000,
    ]
    ways = {(o.get("strategy", "random"), bool(o.get("steps"))) for o in drawn.values() if o["images"] == 10_000_000}
    assert ways == {("random", False), ("top", False), ("stratified", False), ("random", True)}


def test_lu_has_pixels_and_every_kind_of_teacher() -> None:
    study = read("lu2023", "full")
    kinds = {
        study.options("objectives", name).get("teacher", {}).get("kind") for name in study.definitions["objectives"]
    }
    assert kinds == {None, "timm", "hog", "average", "run"}
    in_small = read("lu2023", "mini")
    small = {at.objective for at in in_small.runs.values()}
    assert {in_small.options("objectives", name).get("teacher", {}).get("kind") for name in small} == kinds - {"timm"}
