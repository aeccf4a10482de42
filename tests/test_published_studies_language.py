"""The studies of Singh et al. 2023 and Weers et al. 2023: both files of each check, agree, and hold the papers' figures."""

from pathlib import Path

import pytest
import torch

from mimcore.models.encoder import Config, build
from mimcore.runs import Phase
from mimcore.study import Study

STUDIES = Path(__file__).parent.parent / "studies"
PAPERS = ("singh2023", "weers2023")


@pytest.fixture(autouse=True)
def pools(monkeypatch):
    for name in ("WEB", "ILSVRC", "COCO", "KINETICS"):
        monkeypatch.setenv(name, f"/somewhere/{name.lower()}")


def read(paper, which):
    return Study.read(STUDIES / paper / f"{which}.yaml")


def chain(study, run):
    """Modules of a run and of all before it, with what each takes of the one before."""
    at = study.runs[run]
    own = (study.module("objectives", at.objective),)
    return (*chain(study, at.after), at.use, *own) if isinstance(at, Phase) else own


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("which", ["full", "mini"])
def test_the_file_checks(paper, which):
    read(paper, which).check()


@pytest.mark.parametrize("paper", PAPERS)
def test_mini_is_full_in_small(paper):
    full, mini = read(paper, "full"), read(paper, "mini")
    for kind in ("objectives", "tasks"):
        assert {n: full.module(kind, n) for n in full.definitions[kind]} == {
            n: mini.module(kind, n) for n in mini.definitions[kind]
        }
    assert (full.grid.probes, full.grid.tasks) == (mini.grid.probes, mini.grid.tasks)
    assert {chain(full, run) for run in full.runs} == {chain(mini, run) for run in mini.runs}
    # How much is too much, and what the sample is, depends on the images and the seeds at hand.
    asked, claimed = (
        {
            name: {k: v for k, v in claim.items() if k not in ("margin", "over")}
            for name, claim in study.fit["claims"].items()
        }
        for study in (full, mini)
    )
    assert asked == claimed


def test_singhs_models():
    models = read("singh2023", "full").definitions["models"]
    shapes = [(m["embed_dim"], m["depth"], m["num_heads"], m.get("patch_size", 16)) for m in models.values()]
    assert shapes == [(768, 12, 12, 16), (1024, 24, 16, 16), (1280, 32, 16, 14), (2560, 24, 32, 14), (4096, 32, 32, 14)]


@pytest.mark.parametrize(("name", "billions"), [("base", 0.086), ("two_b", 1.9), ("six_b", 6.5)])
def test_singhs_models_have_the_papers_parameters(name, billions):
    options = read("singh2023", "full").options("models", name)
    with torch.device("meta"):
        encoder = build(Config.model_validate(options))
    parameters = sum(p.numel() for p in encoder.module.parameters())
    assert parameters / 1e9 == pytest.approx(billions, rel=0.02)


def test_singhs_recipe():
    study = read("singh2023", "full")
    mae, wsp = study.options("objectives", "mae"), study.options("objectives", "wsp")
    assert (mae["mask_ratio"], mae["norm_pix_loss"], wsp["max_tags"]) == (0.75, True, 28_000)
    fewshot = study.options("tasks", "fewshot")
    assert (fewshot["shots"], fewshot["draws"]) == ([1, 5, 10], 5)
    adapter = study.options("tasks", "fewshot_adapter")
    assert {name: adapter[name] for name in ("shots", "draws", "pooling")} == {
        name: fewshot[name] for name in ("shots", "draws", "pooling")
    }
    # Both choose among the same images, or they would not draw the same.
    assert adapter["train_images"] == study.options("features", "ilsvrc")["train_images"]
    assert adapter["images_seen"] / 1000 == pytest.approx(100, rel=1e-3)  # VPT's epochs of one image of each class
    lengths = {name: options["images_seen"] / 5e9 for name, options in study.definitions["schedules"].items()}
    assert lengths["mae"] == lengths["wsp"] == pytest.approx(1, rel=1e-4)
    assert lengths["wsp_long"] == pytest.approx(4, rel=1e-4)
    assert study.options("subsets", "web")["images"] == 3_000_000_000
    assert study.options("objectives", "lit")["freeze_image"]


def test_weers_corpora_and_poolings():
    study = read("weers2023", "full")
    assert [s["images"] for s in study.definitions["subsets"].values()] == [11_300_000, 1_400_000_000]
    poolings = {
        (study.module("objectives", n), o["pooling"])
        for n, o in study.definitions["objectives"].items()
        if "pooling" in o
    }
    assert poolings == {(module, pooling) for module in ("clip", "mae_clip") for pooling in ("map", "gap", "max")}
