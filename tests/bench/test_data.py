"""The command on a small pool: every stage has a figure, and the figures are of this pool."""

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from mimcore.bench import data as bench
from mimcore.cli import app
from mimcore.data.loader import Images
from mimcore.errors import UserError
from mimcore.execution import Execution

STUDY: dict[str, Any] = {
    "pools": {"photos": {"format": "tar", "path": "pool", "val_images": 8, "perceptual_hash": False}},
    "subsets": {"n16": {"pool": "photos", "images": 16}},
    "models": {"tiny": {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}},
    "objectives": {"mae": {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}},
    "schedules": {
        "short": {
            "images_seen": 320,
            "batch_size": 32,
            "warmup_images": 32,
            "precision": "float32",
            "crop_from": "image",
        }
    },
    "features": {"all": {"pool": "photos"}},
    "tasks": {"knn": {"features": "all"}},
    "study": {
        "pools": ["photos"],
        "subsets": ["n16"],
        "models": ["tiny"],
        "objectives": ["mae"],
        "schedules": ["short"],
        "seeds": ["s0"],
        "features": ["all"],
        "probes": ["knn"],
        "tasks": [],
        "phases": {},
    },
    "execution": {"device": "cpu", "threads": 1, "workers": 1},
}
RUN = "mae-tiny-n16-short-s0"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "pool").mkdir()
    with tarfile.open(folder / "pool/0.tar", "w") as tar:
        for number in range(48):
            pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).save(file, "JPEG")
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(file.getvalue())
            tar.addfile(info, io.BytesIO(file.getvalue()))
    (folder / "params.yaml").write_text(yaml.safe_dump(STUDY))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (["scan"], ["index", "photos"], ["sample", "n16", "s0"]):
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, done.output
    return folder


def figures(root: Path, **execution: Any) -> Any:
    sample = bench.read_sample(root / "artifacts/index/photos/index.parquet")
    definition = {
        "objective": {"module": "mae", **STUDY["objectives"]["mae"]},
        "model": STUDY["models"]["tiny"],
        "schedule": STUDY["schedules"]["short"],
        "seed": "s0",
    }
    told = Execution(device="cpu", threads=1, **execution)
    return bench.measure(STUDY["pools"]["photos"], sample, definition, told, torch.device("cpu"), root, 0.6)


def test_rows_are_those_that_are_trained_on(root: Path) -> None:
    sample = bench.read_sample(root / "artifacts/index/photos/index.parquet")
    index = pq.read_table(root / "artifacts/index/photos/index.parquet").to_pylist()
    assert sample.total == 40
    assert sorted(sample.rows["key"].to_pylist()) == sorted(row["key"] for row in index if row["split"] == "train")
    with pytest.raises(UserError, match=r"none\.parquet is missing"):
        bench.read_sample(root / "none.parquet")


@pytest.mark.parametrize("what", [None, "photos", "n16", "n16-s0"])
def test_the_command(root: Path, what: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["bench-data", *([what] if what else []), "--seconds", "0.6", "--json", "rows.json"])
    assert done.exit_code == 0, done.output
    rows = json.loads((root / "rows.json").read_text())
    assert {row["setting"] for row in rows} == {f"{what or 'n16-s0'}, {RUN}"}
    found = {row["implementation"]: row["value"] for row in rows}
    assert set(found) == {"read", "decode", "crop", "collate", "step", "read to collate", "training", "waiting"}
    assert 0 <= found["waiting"] <= 1
    alone = 1 / sum(1 / found[stage] for stage in ("read", "decode", "crop", "collate"))
    assert found["read to collate"] == pytest.approx(alone)
    said = done.stdout.strip().splitlines()
    assert said[-1].endswith(".")
    assert said[-1].split()[0] in {"Nothing:", "Nothing", "Set", "Pack", "Put"}
    assert "at least 120 pixels on their short side" in done.stdout


def test_slow_storage_is_seen_where_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading that is made to take 4 ms an image is measured as such, and makes steps wait."""
    before = figures(root, workers=0)
    read = Images.encoded

    def slowly(self: Images, positions: Any) -> Any:
        for one in read(self, positions):
            time.sleep(0.004)
            yield one

    monkeypatch.setattr(Images, "encoded", slowly)
    after = figures(root, workers=0)
    assert after.read >= 0.004 > before.read
    assert after.waiting > before.waiting
    assert after.waiting == pytest.approx(after.data / (after.data + after.step), abs=0.25)
    assert (after.short_side, after.image_side, after.format, after.remote) == (120, 32, "tar", False)


def test_a_name_that_is_neither_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for what, sentence in (("photo", "did you mean 'photos'"), ("n17-s0", "subsets has no 'n17'")):
        done = CliRunner().invoke(app, ["bench-data", what])
        assert isinstance(done.exception, UserError)
        assert sentence in str(done.exception)
