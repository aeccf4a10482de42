"""The task ``video`` on files, from a folder to its accuracy, by the verbs of the command line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner
from video_files import write_classes

from mimcore import artifacts
from mimcore.cli import app

STUDY: dict[str, Any] = {
    "pools": {
        "clips": {"format": "video_folder", "path": "clips", "train": "train", "val": "val"},
        "digits": {"format": "digits", "images": 300, "image_size": 32, "val_images": 60},
    },
    "subsets": {"n32": {"pool": "digits", "images": 32}},
    "models": {
        "nano": {
            **{"architecture": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8},
            **{"embed_dim": 48, "depth": 2, "num_heads": 2},
        }
    },
    "objectives": {"mae": {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}},
    "schedules": {"brief": {"images_seen": 128, "batch_size": 16, "base_learning_rate": 1e-2, "warmup_images": 0}},
    "tasks": {
        "video": {
            **{"pool": "clips", "frames": 4, "stride": 2, "images_seen": 1440, "batch_size": 16, "layer_decay": 1.0},
            **{"base_learning_rate": 2e-2, "drop_path_rate": 0.0, "mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0},
            **{"rand_augment_policy": None, "random_erasing": 0.0, "crop_scale": [1.0, 1.0], "mirror": False},
            **{"test_clips": 1, "test_crops": 1},
        }
    },
    "study": {
        **{"title": "Left or right", "pools": ["clips", "digits"], "subsets": ["n32"], "models": ["nano"]},
        **{"objectives": ["mae"], "schedules": ["brief"], "seeds": ["s0"], "features": [], "probes": [], "tasks": ["video"]},
        **{"extra": {}, "phases": {}},
    },
    "execution": {"device": "cpu", "workers": 2},
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(STUDY))
    return tmp_path


def mimcore(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_folder_of_videos_is_listed_indexed_and_told_apart(checkout: Path) -> None:
    """The classes differ in where the square goes, which a frame does not tell."""
    write_classes(checkout / "clips", {"train": 32, "val": 16})
    assert "4 shards listed for the first time" in mimcore("scan", "clips")
    said = mimcore("index", "clips")
    assert "64 training and 32 validation images, 0 set aside" in said
    assert "1,152 frames, 0.01 hours." in said
    mimcore("examples", "video")
    mimcore("floor", "nano", "video")
    found = artifacts.read_json(checkout / "artifacts/floors/nano/video/metrics.json")
    assert found["subjects"]["untrained"]["top1"]["value"] > 0.8


def test_videos_are_no_images_to_train_on(checkout: Path) -> None:
    params = yaml.safe_load((checkout / "params.yaml").read_text())
    params["subsets"]["n32"]["pool"] = "clips"
    params["tasks"]["finetune"] = {"pool": "clips", "images_seen": 64, "batch_size": 16}
    params["features"] = {"hundred": {"pool": "clips"}}
    params["study"] |= {"tasks": ["video", "finetune"], "features": ["hundred"]}
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))
    done = CliRunner().invoke(app, ["check"])
    assert done.exit_code
    for place in ("subsets.n32", "tasks.finetune", "features.hundred"):
        assert f"{place}.pool: 'clips' has videos, and images are needed" in str(done.exception or done.output)
    assert "tasks.video.pool" not in str(done.exception)
