"""Features in a file: timm's own forward says the same, and a draw by them works."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch

from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.loader import Images
from mimcore.data.pool import load_pool
from mimcore.data.splits import read_split
from mimcore.errors import UserError
from mimcore.evaluation import vectors
from mimcore.evaluation.vectors import of_run, of_timm, write_vectors
from mimcore.models.encoder import Config, build, save
from mimcore.sampling.draw import sample

POOL = {"format": "digits", "images": 60, "val_images": 10, "image_size": 32}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("features")
    scan(load_pool("digits", POOL, root), root / "listings/digits.json")
    build_index("digits", POOL, root / "listings/digits.json", root / "artifacts/index/digits", root, root / ".mimcore")
    return root


def images(root: Path, size: Any) -> Images:
    return Images(POOL, read_split(root / "artifacts/index/digits", "train"), size, root)


def test_a_timm_model_is_asked_as_timm_asks_it(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_GROUP", 16)
    model = timm.create_model("test_vit", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    extract, size, channels = of_timm("test_vit", tmp_path / "weights.pt", CPU)
    pictures, told = images(root, size), []
    digest = write_vectors(tmp_path / "vectors.parquet", extract, pictures, CPU, 7, 1, told.append)
    assert (channels, told[-1]) == (3, 50)
    found = pq.read_table(tmp_path / "vectors.parquet")
    assert found["key"].to_pylist() == pictures.rows["key"].to_pylist()
    data = timm.data.resolve_model_data_config(model)
    pixels = torch.from_numpy(pictures.get(np.arange(50))).float() / 255
    mean, std = (torch.tensor(data[what]).view(1, 3, 1, 1) for what in ("mean", "std"))
    with torch.inference_mode():
        expected = model.eval()((pixels - mean) / std).numpy()
    np.testing.assert_allclose(np.stack(found["feature"].to_pylist()), expected, rtol=1e-4, atol=1e-5)
    options = {
        "features": {"path": str(tmp_path / "vectors.parquet"), "sha256": digest[:16]},
        "clusters": [4],
    }
    subset = {"pool": "digits", "images": 8, "strategy": "cluster", "options": options}
    card = sample("few", subset, "s0", POOL, root / "artifacts/index/digits", tmp_path / "subset", root)
    assert card["images"] == 8


def test_a_run_gives_its_pooled_tokens(root: Path, tmp_path: Path) -> None:
    encoder = build(
        Config(architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    )
    save(encoder, tmp_path, {})
    extract, size, _ = of_run(tmp_path, "cls", CPU)
    pictures = images(root, size)
    write_vectors(tmp_path / "vectors.parquet", extract, pictures, CPU)
    first = torch.from_numpy(pictures.get(np.arange(3)))
    with torch.inference_mode():
        expected = encoder.module.eval().forward_features(encoder.normalize(first))[:, 0].numpy()
    found = np.stack(pq.read_table(tmp_path / "vectors.parquet")["feature"].slice(0, 3).to_pylist())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"timm's 'vit_nonesuch' cannot be made \(.*correct the name"):
        of_timm("vit_nonesuch", None, CPU)
    with pytest.raises(UserError, match=r"model\.json"):
        of_run(tmp_path, "mean", CPU)
