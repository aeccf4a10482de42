"""Defaults that are someone's recipe, value by value: copied from released code, the line beside each, or from a paper's table.

``tests/test_recipes.py`` has MAE's and SimMIM's. All on github.com: clip is openai/CLIP at d05afc4, data2vec
facebookresearch/data2vec_vision at af9a363, dino facebookresearch/dino at 7c446df, jepa facebookresearch/jepa at 51c59d5, m3ae
young-geng/m3ae_public at a5eb14f, open_clip mlfoundations/open_clip at 89fb801, robustness hendrycks/robustness at 8190fe3, slowfast
facebookresearch/SlowFast at 287ec00.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from mimcore.definition import resolve
from mimcore.evaluation import attentive, corruptions, fewshot, knn, zeroshot
from mimcore.models import teacher
from mimcore.models.joint import JointOptions
from mimcore.objectives import clip, feature, m3ae, mae_clip
from mimcore.study import Study
from mimcore.training.schedule import Schedule

STUDIES = Path(__file__).parents[1] / "studies"


def assert_has(found: Any, pinned: dict[str, Any]) -> None:
    for name, value in pinned.items():
        assert getattr(found, name) == (pytest.approx(value) if isinstance(value, float) else value), name


def schedule(study: str, name: str) -> Schedule:
    return resolve(Schedule, Study.read(STUDIES / study / "full.yaml").options("schedules", name), "schedules")


def teacher_of(kind: str) -> Any:
    return TypeAdapter(teacher.Options).validate_python({"kind": kind})


def test_clip() -> None:
    pinned = {
        "initial_temperature": 0.07,  # clip clip/model.py:295; section 2.5
        "max_scale": 100.0,  # section 2.5
        "vocab_size": 49_408,  # table 18
        "context_length": 77,  # clip clip/clip.py:205
        "text_width": 512,  # table 20, ViT-B
        "text_depth": 12,
        "text_num_heads": 8,
        "projection_dim": 512,
    }
    assert_has(clip.Config(), pinned)


def test_the_schedule_of_clip() -> None:
    """studies/weers2023/full.yaml, whose batch is half of CLIP's."""
    found = schedule("weers2023", "one_pass")
    pinned = {
        "peak": 5e-4,  # table 20, ViT-B
        "weight_decay": 0.2,  # table 18; open_clip src/open_clip_train/params.py:285
        "betas": (0.9, 0.98),  # table 18, ViT; open_clip src/open_clip_train/params.py:9
        "eps": 1e-6,
        "warmup_images": 2_000 * found.batch_size,  # table 18
        "crop_scale": (0.9, 1.0),  # open_clip src/open_clip/transform.py:64
        "horizontal_flip": False,  # section 2.3: a random square crop is the only augmentation
    }
    assert_has(found, pinned)


def test_the_schedule_of_lit() -> None:
    """Zhai et al. 2022, appendix C; the batch is of section 5.1."""
    pinned = {
        "batch_size": 32 * 1024,
        "peak": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
        "warmup_images": 10_000 * 32 * 1024,
        "decay": "cosine",
        "crop_scale": (1.0, 1.0),
    }
    assert_has(schedule("singh2023", "lit"), pinned)


def test_the_epochs_of_singh() -> None:
    """Singh et al. 2023, section 4.1: 3B images, resampled to 5B an epoch."""
    for name in ("mae", "wsp", "lit"):
        assert schedule("singh2023", name).images_seen == pytest.approx(5e9, rel=1e-5)


def test_m3ae() -> None:
    pinned: dict[str, Any] = {
        "mask_ratio": 0.75,  # README.md:67
        "text_mask_ratio": 0.75,  # README.md:68
        "image_loss_weight": 1.0,  # README.md:78
        "text_loss_weight": 0.5,  # README.md:79; Geng et al. 2022, appendix, table 2
        "norm_pix_loss": False,  # m3ae/model.py:65-78
        "decoder_embed_dim": 512,  # m3ae/model.py:341
        "decoder_depth": 8,  # m3ae/model.py:343
        "decoder_num_heads": 16,  # m3ae/model.py:345
    }
    for config in (JointOptions(), m3ae.Config(), mae_clip.Config()):
        assert_has(config, pinned)
    assert m3ae.Config().context_length == 64  # m3ae/data.py:34


def test_data2vec() -> None:
    average = teacher_of("average")
    pinned = {
        "layers": 6,  # beit/README.md:27; Baevski et al. 2022, section 4.1, K
        "final_norm": False,  # beit/README.md:31, the ends of the blocks
        "layer_normalization": "layer",  # beit/engine_for_cyclical.py:84
        "combine": "average",
    }
    assert_has(average, pinned)
    assert [average.decay(step) for step in (1, 10**6)] == [0.9998, 0.9998]  # beit/README.md:28; section 4.1, tau
    assert feature.Config(teacher=average).beta == 2.0  # beit/README.md:34; section 4.1


def test_maskfeat() -> None:
    hog = teacher_of("hog")
    assert (hog.orientations, hog.cell, hog.colour) == (9, 8, True)  # slowfast slowfast/models/masked.py:50, 51, 64


def test_the_attentive_probe_of_v_jepa() -> None:
    """jepa configs/evals/vitl16_in1k.yaml."""
    pinned = {
        "batch_size": 8 * 8 * 16,  # :1, 2, 14
        "weight_decay": 1e-3,  # :15
        "learning_rate": 1e-3,  # :16
        "min_learning_rate": 0.0,  # :18
        "warmup_fraction": 0.0,  # :19
        "num_heads": 16,  # evals/image_classification_frozen/eval.py:164, those of ViT-L
    }
    assert_has(attentive.Config(pool="x", images_seen=1024), pinned)


def test_probes_of_frozen_features() -> None:
    neighbours = knn.Config(features="x")
    assert (neighbours.neighbors, neighbours.temperature) == (20, 0.07)  # dino eval_knn.py:195, 196
    few = fewshot.Config(features="x")
    assert (few.shots, few.draws) == ((1, 5, 10), 5)  # Singh et al. 2023, section 4.4
    # clip notebooks/Prompt_Engineering_for_ImageNet.ipynb:856-862
    chosen = "itap of a|a bad photo of the|a origami|a photo of the large|a {} in a video game|art of the|a photo of the small"
    found = [template.removesuffix(".").removesuffix(" {}") for template in zeroshot.Config(features="x").templates]
    assert found == chosen.split("|")


def digest(table: dict[str, list[Any]]) -> str:
    plain = {
        name: [[round(float(value), 9) for value in (row if isinstance(row, tuple) else (row,))] for row in rows]
        for name, rows in sorted(table.items())
    }
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (corruptions.LARGE_TABLE, "f61045a65add65d6c4b6ff12fd815ac19f0cc2acdb9cd64d2f4cd8cfdf9b2dd6"),
        (corruptions.SMALL_TABLE, "61498e89f5bdecd28f96410a70436e3e9bcad664d26d20fe5f8880a682b5fb4e"),
    ],
)
def test_severities_are_those_of_imagenet_c_and_cifar_10_c(table: dict[str, list[Any]], expected: str) -> None:
    """Digests of the numbers in robustness ImageNet-C/create_c/make_imagenet_c.py and make_cifar_c.py, read out of the files."""
    assert digest(table) == expected
    assert all(len(rows) == 5 for rows in table.values())
    assert len(table) == 15
