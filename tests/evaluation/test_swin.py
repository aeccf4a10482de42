"""Every kind of task on a hierarchical encoder: no class token, last tokens of 32 pixels."""

from pathlib import Path

import pytest
from fakes import context, digit_data, frozen, scenes

from mimcore.errors import UserError
from mimcore.evaluation import detection, finetune, knn, linear
from mimcore.evaluation.task import Data
from mimcore.models.encoder import Config, Encoder, build

SIDE = 64
DETECTION = {
    "pool": "x", "head": "fcos", "image_size": 96, "width": 32, "scales": ("4", "2"), "convolutions": 1, "images_seen": 16,
    "batch_size": 8, "learning_rate": 1e-3, "jitter": (0.8, 1.25), "layer_decay": 0.8,
}  # fmt: skip


@pytest.fixture
def swin() -> Encoder:
    options = {
        "embed_dim": 16,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 2, 2, 4),
        "window_size": 4,
        "drop_path_rate": 0.1,
    }
    return build(Config(architecture="swinv2_base_window12_192", image_size=SIDE, **options))


@pytest.mark.parametrize("task", [knn, linear])
def test_probes(swin: Encoder, task: object, tmp_path: Path) -> None:
    features = frozen(swin, digit_data(100, 50, SIDE), tmp_path)
    found = task.probe(features, task.Config(features="x"), context(tmp_path))
    assert float(found[next(iter(task.METRICS))].value) > 0.3  # untrained features of digits are better than chance
    with pytest.raises(UserError, match="no class token"):
        task.probe(features, task.Config(features="x", pooling="cls"), context(tmp_path))


def test_finetune_decays_learning_rates_by_layer(swin: Encoder, tmp_path: Path) -> None:
    options = {
        "images_seen": 32,
        "batch_size": 16,
        "layer_decay": 0.8,
        "base_learning_rate": 1e-3,
        "augmentation": "none",
    }
    found = finetune.evaluate(swin, finetune.Config(pool="x", **options), digit_data(32, 20, SIDE), context(tmp_path))
    assert 0 <= float(found["top1"].value) <= 1


def test_detection_at_another_size(swin: Encoder, tmp_path: Path) -> None:
    data = Data(scenes(8, 0), scenes(4, 1))
    found = detection.evaluate(swin, detection.Config(**DETECTION), data, context(tmp_path))
    assert 0 <= float(found["ap"].value) <= 1
    with pytest.raises(UserError, match="80 is not a multiple of the encoder's stride of 32"):
        detection.evaluate(swin, detection.Config(**DETECTION | {"image_size": 80}), data, context(tmp_path))
