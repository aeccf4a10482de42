"""Small images and pools made on the spot, and the real ones where they are there."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.pool import load_pool


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real images are not there")
    return folder


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Encodes a smooth random picture: picture(number, width, height, format, mode)."""

    def encode(
        number: int = 0, width: int = 24, height: int = 16, kind: str = "PNG", mode: str = "RGB", **how: Any
    ) -> bytes:
        grid = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
        file = io.BytesIO()
        image.save(file, kind, **how)
        return file.getvalue()

    return encode


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, Mapping[str, bytes]], None]:
    def write(path: Path, members: Mapping[str, bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    return write


@pytest.fixture(scope="session")
def indexed() -> Callable[..., dict[str, Any]]:
    """Scans and indexes a pool under root: listings, index and scratch lie there as in a study."""

    def index(root: Path, name: str, options: Mapping[str, Any], adopt: bool = False) -> dict[str, Any]:
        listing = root / "listings" / f"{name}.json"
        scan(load_pool(name, options, root), listing, adopt)
        return build_index(name, options, listing, root / "artifacts/index" / name, root, root / ".mimcore")

    return index


@pytest.fixture
def tar_pool(tmp_path: Path, picture: Any, write_tar: Any) -> dict[str, Any]:
    """Twelve pictures in two tars under tmp_path/pool, with captions, labels and fields."""
    for shard in range(2):
        members = {}
        for number in range(6 * shard, 6 * shard + 6):
            members[f"{number:09d}.png"] = picture(number)
            members[f"{number:09d}.txt"] = f"picture {number}".encode()
            members[f"{number:09d}.cls"] = str(number % 3).encode()
            members[f"{number:09d}.json"] = json.dumps({"score": number / 4, "tags": ["a"], "width": 1}).encode()
        write_tar(tmp_path / "pool" / f"{shard:05d}.tar", members)
    (tmp_path / "pool/classes.json").write_text('["a", "b", "c"]')
    return {"format": "tar", "path": "pool", "val_images": 3, "classes": "classes.json"}
