"""A pool made smaller: its pixels against a reference, all else against the pool that it is made from."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image, ImageOps

from mimcore.data import parts
from mimcore.data.formats._packing import shrink, stem
from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.loader import Images
from mimcore.data.pool import load_pool
from mimcore.data.rows import REQUIRED
from mimcore.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def rows_of(root: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(root / f"artifacts/index/{name}/index.parquet").to_pylist()
    return rows


def jpeg(picture: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def smooth(seed: int, width: int, height: int) -> Image.Image:
    grid = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("width", "height"), [(401, 300), (300, 401), (130, 66), (1000, 70)])
def test_pixels_are_those_of_a_reference_resize(width: int, height: int, orientation: int) -> None:
    data = jpeg(smooth(3, width, height), orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = shrink(data, *upright.size, 64, 95)
    short = min(upright.size)
    expected = tuple(64 if side == short else round(side * 64 / short) for side in upright.size)
    packed = Image.open(io.BytesIO(found.data))
    assert packed.size == (found.width, found.height) == expected
    assert (packed.format, found.suffix) == ("JPEG", "jpg")
    assert 0x0112 not in packed.getexif()
    reference = np.asarray(upright.resize(expected, Image.Resampling.BICUBIC), float)
    difference = np.asarray(packed, float) - reference
    assert np.sqrt(np.mean(difference**2)) < 3.0  # of JPEG at quality 95, with half of the chroma
    assert abs(difference.mean()) < 0.5


def test_a_png_with_transparency_is_laid_on_white() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (200, 100), (0, 0, 0, 0)).save(file, "PNG")
    assert np.asarray(Image.open(io.BytesIO(shrink(file.getvalue(), 200, 100, 32, 90).data))).min() > 250


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_small_image_keeps_its_bytes(picture: Any, kind: str) -> None:
    data = picture(1, 40, 32, kind)
    found = shrink(data, 40, 32, 32, 90)
    assert (found.data, found.width, found.height) == (data, 40, 32)
    assert shrink(data, 40, 32, 31, 90).data != data


@pytest.mark.parametrize(
    "key", ["a", "a/b", "a.b", "../x", "/etc/x", "a//b", "ä ö", "%41", "x" * 300, ".", "a\\b", "line\nbreak", "a/"]
)
def test_any_key_is_found_again_in_a_tar(key: str, tmp_path: Path, picture: Any, indexed: Any) -> None:
    """A name in a tar ends at its first dot for every reader; keys of Parquet pools are any text."""
    (tmp_path / "pool").mkdir()
    pq.write_table(
        pa.table({"image": [picture(n) for n in range(3)], "k": [key, "b", "c"]}), tmp_path / "pool/p.parquet"
    )
    of = {
        "format": "parquet",
        "path": "pool",
        "train": "*.parquet",
        "label_column": None,
        "key_column": "k",
        "val_images": 1,
    }
    indexed(tmp_path, "small", {"format": "packed", "path": "small", "short_side": 16, "of": of})
    assert {row["key"] for row in rows_of(tmp_path, "small")} == {key, "b", "c"}
    assert "." not in stem(key)


def test_all_that_is_known_comes_along(tmp_path: Path, tar_pool: dict[str, Any], indexed: Any, write_tar: Any) -> None:
    """Keys, captions, labels, fields, classes and the drawn validation split are those of the other pool's index."""
    broken = {"bad.png": b"x", "bad.cls": b"1"}
    write_tar(tmp_path / "pool/00002.tar", broken)
    of = {**tar_pool, "max_skipped_fraction": 0.5}
    before = indexed(tmp_path, "p", of)
    card = indexed(
        tmp_path,
        "small",
        {"format": "packed", "path": "data/small", "short_side": 16, "of": of, "max_skipped_fraction": 0.5},
    )
    changing = {*REQUIRED, "phash"} - {"key", "split"}
    assert {name: value for name, value in card.items() if name != "pool"} == {
        name: value for name, value in before.items() if name != "pool"
    }
    small, whole = rows_of(tmp_path, "small"), rows_of(tmp_path, "p")
    assert [{k: v for k, v in row.items() if k not in changing} for row in small] == [
        {k: v for k, v in row.items() if k not in changing} for row in whole
    ]
    # Pictures of 24x16 pixels are no larger: the same bytes, and so the same hashes.
    assert [(row["checksum"], row["phash"]) for row in small] == [(row["checksum"], row["phash"]) for row in whole]


def test_boxes_and_masks_are_scaled_with_the_picture(tmp_path: Path, indexed: Any) -> None:
    of = {"format": "digits", "path": "data/digits", "images": 30, "val_images": 6, "images_per_shard": 12}
    indexed(tmp_path, "digits", of)
    indexed(tmp_path, "small", {"format": "packed", "path": "small", "short_side": 32, "quality": 95, "of": of})
    small, whole = rows_of(tmp_path, "small"), rows_of(tmp_path, "digits")
    assert [row["split"] for row in small] == [row["split"] for row in whole]
    for one, other in zip(small, whole, strict=True):
        assert (one["width"], one["height"], other["width"]) == (32, 32, 64)
        assert np.array_equal(np.array(one["boxes"]) * 2, np.array(other["boxes"]))
        assert np.array_equal(np.array(one["box_areas"]) * 4, np.array(other["box_areas"]))
        for name in ("box_labels", "box_crowd", "label", "caption", "background", "key"):
            assert one[name] == other[name]
        for counts, expected in zip(one["masks"], other["masks"], strict=True):
            mask = coco_mask.decode({"size": [32, 32], "counts": counts.encode()})
            theirs = coco_mask.decode({"size": [64, 64], "counts": expected.encode()})
            assert np.array_equal(mask, theirs[1::2, 1::2])
    table = pq.read_table(tmp_path / "artifacts/index/small/index.parquet")
    assert Images({"path": "small", "format": "packed"}, table, 32, tmp_path).get([0, 29]).shape == (2, 3, 32, 32)


def packed_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def photographs(root: Path, write_tar: Any, shards: int = 3, images: int = 8) -> dict[str, Any]:
    for shard in range(shards):
        pictures = [smooth(images * shard + n, 90 + 7 * n, 80) for n in range(images)]
        write_tar(root / f"pool/{shard}.tar", {f"{shard}-{n}.jpg": jpeg(picture) for n, picture in enumerate(pictures)})
    of = {"format": "tar", "path": "pool", "val_images": 4}
    return {"format": "packed", "path": "small", "short_side": 32, "of": of}


def test_the_same_bytes_by_any_number_of_workers(
    tmp_path: Path, write_tar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = photographs(tmp_path, write_tar)
    found = {}
    for name, workers, alone in (("one", 1, 9.0), ("two", 2, 0.0)):
        here = {**options, "path": name}
        scan(load_pool("p", here, tmp_path), tmp_path / "listing.json")
        assert not (tmp_path / name).exists(), "a scan packs nothing"
        monkeypatch.setattr(parts, "ALONE_SECONDS", alone)
        build_index(
            "p",
            here,
            tmp_path / "listing.json",
            tmp_path / f"i-{name}",
            tmp_path,
            tmp_path / f"s-{name}",
            workers=workers,
        )
        found[name] = packed_bytes(tmp_path / name), packed_bytes(tmp_path / f"i-{name}")
    assert found["one"] == found["two"]
    assert len(found["one"][0]) == 6


def test_it_is_a_pool_of_tars_for_anybody(tmp_path: Path, write_tar: Any, indexed: Any) -> None:
    options = photographs(tmp_path, write_tar)
    card = indexed(tmp_path, "small", options)
    (folder,) = (tmp_path / "small").iterdir()
    assert folder.name.startswith("32px-q90-")
    plain = indexed(tmp_path, "plain", {"format": "tar", "path": f"small/{folder.name}", "val_images": 4})
    assert {**card, "pool": ""} == {**plain, "pool": ""}
    ours = [{**row, "shard": row["shard"].rpartition("/")[2]} for row in rows_of(tmp_path, "small")]
    assert ours == rows_of(tmp_path, "plain")


def test_only_what_is_missing_or_has_changed_is_packed(tmp_path: Path, write_tar: Any, indexed: Any) -> None:
    options = photographs(tmp_path, write_tar)
    indexed(tmp_path, "small", options)
    (folder,) = (tmp_path / "small").iterdir()
    index = tmp_path / "artifacts/index/small/index.parquet"
    before, whole = packed_bytes(folder), index.read_bytes()

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}

    first = times()
    (folder / "0.tar").unlink()
    (folder / "1.tar").write_bytes(before["1.tar"][:1000])
    indexed(tmp_path, "small", options)
    assert (packed_bytes(folder), index.read_bytes()) == (before, whole)
    assert times()["2.tar"] == first["2.tar"]
    # Other options have a folder of their own: an experiment takes nothing from the study.
    indexed(tmp_path, "other", {**options, "quality": 50})
    assert packed_bytes(folder) == before
    write_tar(tmp_path / "pool/2.tar", {"new.jpg": jpeg(smooth(99, 100, 80))})
    with pytest.raises(UserError, match=r"shard '32px-q90-\w+/2\.tar' has changed since it was listed"):
        indexed(tmp_path, "small", options)
    assert indexed(tmp_path, "small", options, adopt=True)["images"] == 17
    assert {name for name, data in packed_bytes(folder).items() if data != before[name]} == {"2.tar", "2.parquet"}


LIMITED = """
import json, resource, sys
from pathlib import Path
from mimcore.data.index import build_index
from mimcore.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
here = Path.cwd()
try:
    build_index("small", json.loads(sys.argv[2]), here / "listings/small.json", here / "index", here, here / ".mimcore")
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel limits the length of files on Linux")
def test_a_disk_that_fills_up_leaves_no_half_pack(tmp_path: Path, write_tar: Any, indexed: Any) -> None:
    """The kernel refuses to let a file grow, as on a full disk: the tar of the second shard, which is larger."""
    options = photographs(tmp_path, write_tar, shards=1, images=3)
    write_tar(tmp_path / "pool/1.tar", {f"1-{n}.jpg": jpeg(smooth(n, 300, 80)) for n in range(30)})
    (tmp_path / "listings").mkdir()
    scan(load_pool("small", options, tmp_path), tmp_path / "listings/small.json")
    command = [sys.executable, "-c", LIMITED, str(20_000), json.dumps(options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    (line,) = done.stdout.splitlines()
    (folder,) = (tmp_path / "small").iterdir()
    assert line.startswith(f"cannot write {folder}/1.tar: ")
    assert line.endswith("nothing was left there. Free or mend the disk and run again.")
    assert sorted(path.name for path in folder.iterdir()) == ["0.parquet", "0.tar"]
    assert not (tmp_path / "index").exists()
    assert not [path for path in tmp_path.rglob("*") if ".part-" in path.name]
    assert indexed(tmp_path, "small", options)["images"] == 33


def test_images_that_cannot_be_decoded_are_set_aside(
    tmp_path: Path, write_tar: Any, indexed: Any, picture: Any
) -> None:
    png = bytearray(picture(1, 200, 200))
    start = png.index(b"IDAT") + 4
    png[start : start + 40] = bytes(40)
    length = int.from_bytes(png[start - 8 : start - 4], "big")
    png[start + length : start + length + 4] = zlib.crc32(png[start - 4 : start + length]).to_bytes(4, "big")
    options = photographs(tmp_path, write_tar)
    write_tar(tmp_path / "pool/3.tar", {"whole.png": picture(2, 200, 200), "torn.png": bytes(png)})
    card = indexed(tmp_path, "small", {**options, "max_skipped_fraction": 0.2})
    assert [(item["key"], item["shard"]) for item in card["skipped"]] == [("torn", "3.tar")]
    assert card["skipped"][0]["reason"].startswith("cannot be decoded")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"of": {"format": "tra"}},
            r"pools\.small: 'of\.format' is 'tra'; one of coco, digits, folder, parquet, tar, video_folder is needed",
        ),
        ({"of": {"format": "packed"}}, r"'of\.format' is 'packed'; one of"),
        (
            {"of": {"format": "tar", "path": "pool", "val_image": 3}},
            r"of\.val_image: unknown option; did you mean 'val_images'",
        ),
        ({"val_images": 4}, r"'val_images' belongs to the pool that is packed"),
        ({"path": "s3://bucket/small"}, r"pools\.small\.path: images are packed on this machine; give a folder"),
        ({"short_side": 4}, r"pools\.small\.short_side: "),
        (
            {"of": {"format": "tar", "path": "none", "val_images": 1}},
            r"pools\.small\.of\.path: there is no folder .*none",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, write_tar: Any, change: dict[str, Any], sentence: str) -> None:
    options = photographs(tmp_path, write_tar, shards=1) | change
    with pytest.raises(UserError, match=sentence):
        scan(load_pool("small", options, tmp_path), tmp_path / "listing.json")


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, picture: Any, indexed: Any) -> None:
    (tmp_path / "pool").mkdir()
    for name in ("a.png", "a.webp", "b.png"):
        (tmp_path / "pool" / name).write_bytes(picture(1, kind=name[2:].upper()))
    of = {"format": "folder", "path": "pool", "val_images": 1}
    with pytest.raises(UserError, match=r"the key 'a' occurs twice"):
        indexed(tmp_path, "small", {"format": "packed", "path": "small", "short_side": 16, "of": of})


def test_real_photographs(tmp_path: Path, shared: Path, indexed: Any) -> None:
    (tmp_path / "pool").mkdir()
    for suffix in ("tar", "parquet"):
        shutil.copy(shared / f"websample/00000.{suffix}", tmp_path / "pool")
    of = {"format": "tar", "path": "pool", "val_images": 10}
    indexed(tmp_path, "web", {**of, "perceptual_hash": False})
    indexed(
        tmp_path, "small", {"format": "packed", "path": "small", "short_side": 128, "of": of, "perceptual_hash": False}
    )
    made = load_pool("small", {"format": "packed", "path": "small", "short_side": 128, "of": of}, tmp_path).made()
    small, whole = rows_of(tmp_path, "small"), rows_of(tmp_path, "web")
    assert made is not None
    assert (made.images, made.source_bytes) == (len(whole), sum(row["length"] for row in whole))
    assert made.bytes == sum(row["length"] for row in small) < 0.5 * made.source_bytes
    for name in set(whole[0]) - ({*REQUIRED, "phash"} - {"key", "split"}):
        assert [row[name] for row in small] == [row[name] for row in whole], name
    with tarfile.open(tmp_path / "small" / small[0]["shard"]) as tar:
        assert len(tar.getnames()) == len(whole)
    assert [min(row["width"], row["height"]) for row in small] == [
        min(row["width"], row["height"], 128) for row in whole
    ]
