"""From metadata to a list, from the list to what arrived: the order of the draw is kept, and what was lost is counted."""

import hashlib
import io
import json
import resource
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mimcore import artifacts
from mimcore.data.hashing import hash64
from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.pool import load_pool
from mimcore.errors import UserError
from mimcore.sampling import manifest
from mimcore.sampling.draw import sample
from mimcore.sampling.export import export

POOL = {"format": "metadata", "path": "metadata"}
FILTER = {"strategy": "filter", "options": {"where": [{"column": "clip_similarity_vitl14", "at_least": 0.25}]}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """300 rows in three files, as COYO's: ids in no order, text, a score."""
    ids = 10**12 + np.random.default_rng(0).permutation(1000)[:300]
    (tmp_path / "metadata").mkdir()
    for number in range(3):
        own = ids[100 * number : 100 * number + 100]
        columns = {
            "id": own,
            "url": [f"https://example.org/{one}.jpg" for one in own],
            "text": [f"image {one}" for one in own],
            "clip_similarity_vitl14": (own % 100) / 100,
        }
        pq.write_table(pa.table(columns), tmp_path / f"metadata/part-{number}.parquet", row_group_size=30)
    scan(load_pool("coyo", POOL, tmp_path), tmp_path / "listings/coyo.json")
    return tmp_path


def exported(root: Path, pool: dict[str, Any] = POOL, **options: Any) -> tuple[pa.Table, dict[str, Any]]:
    listing, output = root / "listings/coyo.json", root / "exports/web-s0"
    card = export("web", {"pool": "coyo", **options}, "s0", pool, listing, root / "artifacts/index", output, root)
    assert json.loads((output / "card.json").read_text()) == card
    assert sorted(file.name for file in output.iterdir()) == ["card.json", "urls.parquet"]
    return pq.read_table(output / "urls.parquet"), card


def test_the_list_is_the_draw(root: Path) -> None:
    found, card = exported(root, steps=[FILTER], images=40)
    whole = pa.concat_tables([pq.read_table(file) for file in sorted((root / "metadata").iterdir())])
    ids = [one for one in whole["id"].to_pylist() if one % 100 >= 25]
    hashes = dict(zip(ids, hash64(pa.array(ids), "s0").tolist(), strict=True))
    assert found["id"].to_pylist() == sorted(ids, key=hashes.__getitem__)[:40]
    assert found["key"].to_pylist() == [str(one) for one in found["id"].to_pylist()]
    assert found["rank"].to_pylist() == [*range(40)]
    assert found["text"].to_pylist() == [f"image {one}" for one in found["id"].to_pylist()]
    assert (card["images"], card["pool_images"], card["steps"][0]["rows_out"]) == (40, 300, len(ids))
    assert card["list_sha256"] == hashlib.sha256((root / "exports/web-s0/urls.parquet").read_bytes()).hexdigest()
    assert '--save_additional_columns \'["id", "clip_similarity_vitl14", "rank"]\'' in card["command"]
    fewer, _ = exported(root, steps=[FILTER], images=10)
    assert fewer["id"].to_pylist() == found["id"].to_pylist()[:10]


def test_what_arrived_is_drawn_in_the_order_of_the_list(root: Path) -> None:
    found, card = exported(root, images=50)
    generator = np.random.default_rng(1)
    arrived = sorted(generator.permutation(50)[:42].tolist(), key=lambda place: found["key"][place].as_py())
    (root / "shards").mkdir()
    keys = [f"{number:09d}" for number in range(len(arrived))]
    with tarfile.open(root / "shards/00000.tar", "w") as tar:
        for key in keys:
            data = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(data, "PNG")
            member = tarfile.TarInfo(f"{key}.png")
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    side = {"key": keys, "id": [found["id"][place].as_py() for place in arrived]}
    pq.write_table(pa.table(side), root / "shards/00000.parquet")
    options = {"format": "tar", "path": "shards", "train": "*.tar", "val_images": 2}
    scan(load_pool("web", options, root), root / "listings/web.json")
    index = root / "artifacts/index/web"
    build_index("web", options, root / "listings/web.json", index, root, root / ".mimcore")
    file = {"path": "exports/web-s0/urls.parquet", "sha256": card["list_sha256"][:16]}
    given = {"file": file, "column": "id", "list_column": "id", "max_missing_fraction": 0.3}
    subset = {"pool": "web", "strategy": "given", "options": given}
    told = sample("web", subset, "s0", options, index, root / "subset", root)
    manifest = pq.read_table(root / "subset/manifest.parquet")
    held_out = set(pq.read_table(root / "subset/validation.parquet")["id"].to_pylist())
    here = {found["id"][place].as_py() for place in arrived} - held_out
    assert manifest["id"].to_pylist() == [one for one in found["id"].to_pylist() if one in here]
    assert (told["listed"], told["missing"], told["images"]) == (50, 10, 40)
    few = sample("web", {**subset, "images": 7}, "s0", options, index, root / "subset", root)
    assert pq.read_table(root / "subset/manifest.parquet")["id"].to_pylist() == manifest["id"].to_pylist()[:7]
    assert few["missing"] == 10
    with pytest.raises(
        UserError, match=r"^subsets\.web\.options\.max_missing_fraction: 10 of the 50 images that .*urls"
    ):
        sample(
            "web", {**subset, "options": {**given, "max_missing_fraction": 0.1}}, "s0", options, index, root / "x", root
        )


@pytest.mark.parametrize(("held", "limit"), [(0, 1000), (1 << 30, 1000), (1 << 30, 0)], ids=["parts", "list", "card"])
def test_a_full_disk_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, held: int, limit: int) -> None:
    """The system refuses to write more into any one file, as a full disk does."""
    monkeypatch.setattr(manifest, "_HELD", held)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not limit:
        monkeypatch.setattr(artifacts, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or before[0], before[1]))
        with pytest.raises(UserError, match=r"exports/web-s0"):
            exported(root, images=200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((root / "exports").glob("*"))
    assert not list((root / "exports").glob(".*"))


def test_mistakes(root: Path) -> None:
    for pool, options, message in [
        ({**POOL, "key_column": "idd"}, {}, r"part-0\.parquet: there is no column 'idd' of keys"),
        ({**POOL, "url_column": "urll"}, {}, r"^pools\.coyo: there is no column 'urll'; did you mean 'url'"),
        (
            {"format": "folder", "path": "metadata", "val_images": 1},
            {},
            r"^subsets\.web\.pool: .* 'folder', whose images",
        ),
        (POOL, {"images": 301}, r"^subsets\.web\.images: 301 are asked for but pool 'coyo' has 300"),
        (POOL, {"strategy": "rndom"}, r"^subsets\.web\.strategy: .*did you mean 'random'"),
    ]:
        with pytest.raises(UserError, match=message):
            exported(root, pool, **options)
    with pytest.raises(UserError, match=r"part-0\.parquet holds no images; draw a list from it with 'mimcore export'"):
        build_index("coyo", POOL, root / "listings/coyo.json", root / "index", root, root / ".mimcore")
    (root / "metadata/part-3.parquet").write_bytes((root / "metadata/part-0.parquet").read_bytes())
    with pytest.raises(UserError, match=r"^pool 'coyo': 'part-3\.parquet' is not as it was listed"):
        exported(root)
