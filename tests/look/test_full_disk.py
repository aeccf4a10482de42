"""A disk that fills up while a subset is drawn, or shown, leaves what was there."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.pool import load_pool
from mimcore.errors import UserError
from mimcore.look.page import look
from mimcore.sampling.draw import sample

POOL = {"format": "digits", "path": "data/digits", "images": 400, "val_images": 20, "image_size": 32}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel limits the length of files on Linux")


@contextmanager
def files_of_at_most(number_of_bytes: int) -> Iterator[None]:
    """The system refuses to write more into any one file, as a full disk does."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number_of_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    scan(load_pool("digits", POOL, folder), folder / "listing.json")
    build_index("digits", POOL, folder / "listing.json", folder / "artifacts/index/digits", folder, folder / "scratch")
    return folder


def test_nothing_half_is_left(root: Path) -> None:
    index, output = root / "artifacts/index/digits", root / "artifacts/subsets/n-s0"

    def draw(seed: str, images: int = 300) -> dict[str, Any]:
        return sample("n", {"pool": "digits", "images": images}, seed, POOL, index, output, root)

    def show() -> None:
        look("n-s0", output, index, POOL, root / "looks/n-s0", root)

    draw("s0")
    show()
    before = contents(root)
    manifest = (output / "manifest.parquet").stat().st_size
    sheet, page = (output / "contact_sheet.png").stat().st_size, (root / "looks/n-s0/index.html").stat().st_size
    largest = max(manifest, sheet)
    for limit, work, where in (
        (manifest // 2, lambda: draw("s1"), output),
        (largest - 100, lambda: draw("s1", images=301), output),
        (page // 2, show, root / "looks/n-s0"),
    ):
        with (
            files_of_at_most(limit),
            pytest.raises(UserError, match=f"cannot write {where}: .*; nothing was left there"),
        ):
            work()
        assert contents(root) == before
        assert not [path for path in root.rglob("*") if ".part-" in path.name]
