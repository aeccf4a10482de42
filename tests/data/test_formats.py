import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image
from pycocotools.coco import COCO

from mimcore import registry
from mimcore.data.decode import decode
from mimcore.data.loader import Images
from mimcore.data.pool import load_pool
from mimcore.data.splits import read_split
from mimcore.definition import Definition
from mimcore.errors import UserError


def rows_of(root: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(root / "artifacts/index" / name / "index.parquet").to_pylist()


@pytest.mark.parametrize("name", registry.names("format"))
def test_every_format_keeps_the_contract(name: str) -> None:
    module = registry.load("format", name)
    assert issubclass(module.Config, Definition)
    assert {"format", "path", "val_images", "max_skipped_fraction"} <= set(module.Config.model_fields)
    assert not {"size", "nfiles"} & set(module.Config.model_fields)
    assert callable(module.list_shards)
    assert callable(module.index_shard)


def test_tar_splits_by_pattern_and_skips_what_is_no_image(
    tmp_path: Path, picture: Any, write_tar: Any, indexed: Any
) -> None:
    write_tar(tmp_path / "a/train-0.tar", {"x/1.jpg": picture(1, kind="JPEG"), "x/1.seg.png": b"", "x/2.txt": b"only"})
    write_tar(tmp_path / "a/val-0.tar", {"./2.PNG": picture(2), "./__pycache__/.x": b""})
    card = indexed(tmp_path, "a", {"format": "tar", "path": "a", "val": "val-*.tar"})
    assert (card["images"], card["skipped"]) == (2, [])
    assert [(row["key"], row["split"]) for row in rows_of(tmp_path, "a")] == [("x/1", "train"), ("2", "val")]


def test_tar_fields_of_mixed_types(tmp_path: Path, picture: Any, write_tar: Any, indexed: Any) -> None:
    values = [{"a": 1, "b": 1, "c": True}, {"a": 0.5, "b": "x", "c": None}, {"a": None, "d": 2**70}]
    for shard, part in enumerate((values, [{"a": "text", "b": 2, "c": False}])):
        members = {}
        for number, fields in enumerate(part):
            members |= {f"{shard}{number}.png": picture(number), f"{shard}{number}.json": json.dumps(fields).encode()}
        write_tar(tmp_path / f"a/{shard}.tar", members)
    indexed(tmp_path, "a", {"format": "tar", "path": "a", "val_images": 1})
    table = pl.read_parquet(tmp_path / "artifacts/index/a/index.parquet")
    assert table["a"].to_list() == ["1", "0.5", None, "text"]
    assert table["b"].to_list() == ["1", "x", None, "2"]
    assert table["c"].to_list() == [True, None, None, False]
    assert table["d"].to_list() == [None, None, str(2**70), None]


def test_tar_of_real_photographs(tmp_path: Path, shared: Path, indexed: Any) -> None:
    options = {"format": "tar", "path": str(shared / "websample"), "val_images": 100}
    card = indexed(tmp_path, "web", options)
    assert (card["images"], card["train"], card["skipped"]) == (1000, 900, [])
    rows = rows_of(tmp_path, "web")
    side = pl.concat([pl.read_parquet(path) for path in sorted((shared / "websample").glob("*.parquet"))])
    for row, truth in zip(rows, side.iter_rows(named=True), strict=True):
        assert row["checksum"] == truth["sha256"][:16]
        for name in ("key", "caption", "width", "height", "original_width", "image_phash"):
            assert row[name] == truth[name]


def test_parquet_of_real_images(tmp_path: Path, shared: Path, indexed: Any) -> None:
    path = shared / "cifar10"
    options = {"format": "parquet", "path": str(path), "train": "train-00001-*", "val": "test-*"}
    card = indexed(tmp_path, "cifar", {**options, "classes": "classes.json"})
    assert (card["train"], card["val"], card["classes"][5]) == (10_000, 6_000, "dog")
    rows = read_split(tmp_path / "artifacts/index/cifar", "train")
    truth = pq.read_table(path / "train-00001-of-00003.parquet")
    assert rows["label"].to_pylist() == truth["label"].to_pylist()
    assert rows["key"][2345].as_py() == "train-00001-of-00003/2345"
    images = Images({**options, "classes": "classes.json"}, rows, 32, tmp_path)
    for position in (0, 999, 1000, 9999):
        assert np.array_equal(images.raw(position), decode(truth["image"][position]["bytes"].as_py()))


def test_parquet_columns_and_class_names_of_the_metadata(tmp_path: Path, picture: Any, indexed: Any) -> None:
    names = {"info": {"features": {"kind": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "picture": [picture(0), picture(1), None],
            "kind": [0, 1, 1],
            "text": ["a", "b", "c"],
            "name": ["x", "y", "z"],
            "score": [0.5, None, 1.0],
            "blob": [b"", b"", b""],
        }
    ).replace_schema_metadata({"huggingface": json.dumps(names)})
    (tmp_path / "p").mkdir()
    pq.write_table(table, tmp_path / "p/train-0.parquet", row_group_size=2)
    options = {
        **{"format": "parquet", "path": "p", "val_images": 1, "max_skipped_fraction": 0.4, "image_column": "picture"},
        **{"label_column": "kind", "caption_column": "text", "key_column": "name"},
    }
    card = indexed(tmp_path, "p", options)
    assert card["classes"] == ["cat", "dog"]
    assert card["skipped"] == [{"key": "z", "shard": "train-0.parquet", "reason": "empty file"}]
    found = [{name: row[name] for name in ("key", "label", "caption", "score")} for row in rows_of(tmp_path, "p")]
    assert found == [
        {"key": "x", "label": 0, "caption": "a", "score": 0.5},
        {"key": "y", "label": 1, "caption": "b", "score": None},
    ]
    assert "blob" not in rows_of(tmp_path, "p")[0]
    (tmp_path / "listings/p.json").unlink()
    for change, message in [
        ({"label_column": "label"}, "no column 'label'; correct 'label_column', or set it to null"),
        ({"image_column": "image"}, "no column 'image'; name the column of the images"),
        ({"label_column": "text"}, r"train-0\.parquet: 'label' has to be int64, but not all of it is"),
    ]:
        with pytest.raises(UserError, match=message):
            indexed(tmp_path, "p", {**options, **change})


def test_folders_of_classes(tmp_path: Path, picture: Any, indexed: Any) -> None:
    for number, name in enumerate(["train/dog/a.png", "train/cat/a.jpg", "train/cat/deep/b.PNG", "val/dog/c.png"]):
        path = tmp_path / "f" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, kind="JPEG" if path.suffix == ".jpg" else "PNG"))
    (tmp_path / "f/train/cat/.hidden.png").write_bytes(b"")
    (tmp_path / "f/train/cat/notes.txt").write_bytes(b"")
    options = {"format": "folder", "path": "f", "train": "train", "val": "val"}
    card = indexed(tmp_path, "f", options)
    assert card["classes"] == ["cat", "dog"]
    found = [(row["key"], row["shard"], row["split"], row["label"]) for row in rows_of(tmp_path, "f")]
    assert found == [
        ("train/cat/a", "train/cat/a.jpg", "train", 0),
        ("train/cat/deep/b", "train/cat/deep/b.PNG", "train", 0),
        ("train/dog/a", "train/dog/a.png", "train", 1),
        ("val/dog/c", "val/dog/c.png", "val", 1),
    ]
    assert [line.count('"name"') for line in (tmp_path / "listings/f.json").read_text().splitlines()].count(1) == 4
    images = Images(options, read_split(tmp_path / "artifacts/index/f", "val"), 16, tmp_path)
    assert np.array_equal(images.get([0])[0], decode(picture(3), 16))
    (tmp_path / "f/val/bird").mkdir()
    (tmp_path / "f/val/bird/a.png").write_bytes(picture(0))
    with pytest.raises(UserError, match=r"val: its class folders \(bird\) are not all in the training split"):
        indexed(tmp_path, "f", options, adopt=True)
    assert indexed(tmp_path, "g", {**options, "labels": False})["classes"] is None


def test_flat_folders(tmp_path: Path, picture: Any, indexed: Any) -> None:
    (tmp_path / "f").mkdir()
    for number in range(5):
        (tmp_path / f"f/{number}.png").write_bytes(picture(number))
    options = {"format": "folder", "path": "f", "val_images": 2}
    card = indexed(tmp_path, "f", options)
    assert (card["classes"], card["shards"], card["val"]) == (None, 1, 2)
    assert [row["key"] for row in rows_of(tmp_path, "f")] == ["0", "1", "2", "3", "4"]
    (tmp_path / "f/below").mkdir()
    (tmp_path / "f/below/5.png").write_bytes(picture(5))
    with pytest.raises(UserError, match=r"some images lie in subfolders and some beside them.*'labels' to false"):
        indexed(tmp_path, "f", options, adopt=True)
    indexed(tmp_path, "f", {**options, "labels": False}, adopt=True)
    assert [row["key"] for row in rows_of(tmp_path, "f")] == ["0", "1", "2", "3", "4", "below/5"]


def test_coco_of_real_blood_cells(tmp_path: Path, shared: Path, indexed: Any, capsys: Any) -> None:
    card = indexed(tmp_path, "bccd", {"format": "coco", "path": str(shared / "bccd")})
    assert (card["train"], card["val"]) == (205, 87)
    assert card["box_classes"] == ["RBC", "WBC", "Platelets"]
    truth = COCO(str(shared / "bccd/instances_val.json"))
    rows = read_split(tmp_path / "artifacts/index/bccd", "val").to_pylist()
    assert "masks" not in rows[0]
    for row in rows:
        annotations = truth.loadAnns(truth.getAnnIds(row["image_id"]))
        assert len(annotations) == len(row["boxes"])
        for annotation, box, label in zip(annotations, row["boxes"], row["box_labels"], strict=True):
            x, y, width, height = annotation["bbox"]
            assert box == pytest.approx([x, y, x + width, y + height])
            assert label == annotation["category_id"] - 1


def test_coco_masks_of_each_kind(tmp_path: Path, picture: Any, indexed: Any) -> None:
    mask = np.zeros((16, 24), np.uint8)
    mask[2:9, 3:13] = 1
    encoded = coco_mask.encode(np.asfortranarray(mask))
    lengths, values = [], np.concatenate([[0], mask.ravel(order="F"), [2]])
    changes = np.flatnonzero(np.diff(values[1:])) + 1
    lengths = np.diff(np.concatenate([[0], changes])).tolist()
    kinds = [
        [[3, 2, 13, 2, 13, 9, 3, 9]],
        {"size": [16, 24], "counts": lengths},
        {"size": [16, 24], "counts": encoded["counts"].decode()},
        None,
    ]
    plain = {"bbox": [3, 2, 10, 7], "area": 70, "category_id": 7, "image_id": 4}
    content = {
        "images": [{"id": 4, "file_name": "a/x.png", "width": 24, "height": 16}],
        "annotations": [{"id": n, "segmentation": kind, **plain} for n, kind in enumerate(kinds)],
        "categories": [{"id": 9, "name": "late"}, {"id": 7, "name": "early"}],
    }
    (tmp_path / "c/images/a").mkdir(parents=True)
    (tmp_path / "c/images/a/x.png").write_bytes(picture(0))
    (tmp_path / "c/images/a/y.png").write_bytes(picture(1))
    (tmp_path / "c/instances_train.json").write_text(json.dumps(content))
    other = {**content, "images": [{"id": 4, "file_name": "a/y.png", "width": 24, "height": 16}]}
    other["images"] += [{"id": 5, "file_name": "a/gone.png", "width": 24, "height": 16}]
    other["images"] += [{"id": 6, "file_name": "a/x.png", "width": 16, "height": 24}]
    (tmp_path / "c/instances_val.json").write_text(json.dumps(other))
    card = indexed(tmp_path, "c", {"format": "coco", "path": "c", "max_skipped_fraction": 0.6})
    assert card["box_classes"] == ["early", "late"]
    assert [item["reason"] for item in card["skipped"]] == ["missing", "24x16 pixels, but annotated as 16x24"]
    row = rows_of(tmp_path, "c")[0]
    assert (row["key"], row["shard"], row["box_labels"]) == ("a/x", "images/a/x.png", [0, 0, 0, 0])
    assert row["masks"][3] is None
    for counts in row["masks"][:3]:
        assert np.array_equal(coco_mask.decode({"size": [16, 24], "counts": counts.encode()}), mask)
    (tmp_path / "c/instances_val.json").write_text(json.dumps({**other, "categories": []}))
    with pytest.raises(UserError, match=r"its categories are not those of instances_train\.json"):
        indexed(tmp_path, "c", {"format": "coco", "path": "c"}, adopt=True)
    (tmp_path / "c/instances_val.json").write_text("[]")
    with pytest.raises(UserError, match="lacks annotations, categories, images; a COCO annotation file is needed"):
        indexed(tmp_path, "c", {"format": "coco", "path": "c"}, adopt=True)


def test_coco_captions_and_tags(tmp_path: Path, picture: Any, indexed: Any) -> None:
    boxes = [
        {"id": n, "bbox": [3, 2, 10, 7], "area": 70, "category_id": kind, "image_id": 4}
        for n, kind in enumerate((7, 9, 7))
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 24, "height": 16} for n in (4, 5, 6)],
        "annotations": boxes,
        "categories": [{"id": 9, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    captions = [(12, 4, "a second one"), (11, 4, " two dogs and a cat\n"), (13, 5, "nothing")]
    texts = {"annotations": [{"id": one, "image_id": image, "caption": text} for one, image, text in captions]}
    (tmp_path / "c/images").mkdir(parents=True)
    for number in (4, 5, 6):
        (tmp_path / f"c/images/{number}.png").write_bytes(picture(number))
    (tmp_path / "c/instances_train.json").write_text(json.dumps(content))
    (tmp_path / "c/captions.json").write_text(json.dumps(texts))
    options = {"format": "coco", "path": "c", "val": None, "val_images": 1, "train_captions": "captions.json"}
    indexed(tmp_path, "c", options)
    found = {row["key"]: (row["caption"], row["tags"]) for row in rows_of(tmp_path, "c")}
    assert found == {"4": ("two dogs and a cat", ["dog", "cat"]), "5": ("nothing", []), "6": (None, [])}
    pinned = load_pool("c", options, tmp_path).shards()
    texts["annotations"][0]["caption"] = "another one"
    (tmp_path / "c/captions.json").write_text(json.dumps(texts))
    assert load_pool("c", options, tmp_path).shards() != pinned
    for content, message in [
        ("[]", r"captions\.json holds no captions of COCO's form"),
        (None, r"captions\.json is missing; correct"),
    ]:
        (tmp_path / "c/captions.json").unlink()
        if content:
            (tmp_path / "c/captions.json").write_text(content)
        with pytest.raises(UserError, match=message):
            indexed(tmp_path, "c", options, adopt=True)
    with pytest.raises(UserError, match="'val_captions' belongs to 'val'"):
        load_pool("c", {**options, "val_captions": "x"}, tmp_path)


def test_parquet_columns_of_dense_truth(tmp_path: Path, picture: Any, indexed: Any) -> None:
    counts = coco_mask.encode(np.asfortranarray(np.ones((16, 24), np.uint8)))["counts"].decode()
    truth = {"caption": ["a", None], "tags": [["x", "y"], []], "masks": [[counts], []], "box_labels": [[0], []]}
    table = pa.table({"image": [picture(0), picture(1)], "boxes": [[[0.0, 0, 24, 16]], []], **truth})
    (tmp_path / "p").mkdir()
    pq.write_table(table, tmp_path / "p/train-0.parquet")
    indexed(tmp_path, "p", {"format": "parquet", "path": "p", "val_images": 1, "label_column": None})
    rows = rows_of(tmp_path, "p")
    assert {name: [row[name] for row in rows] for name in truth} == truth


def test_tars_that_cannot_be_used(tmp_path: Path, picture: Any, write_tar: Any, indexed: Any) -> None:
    options = {"format": "tar", "path": "a", "val_images": 1}
    path = tmp_path / "a/0.tar"
    write_tar(path, {f"{number}.png": picture(number) for number in range(4)})
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    middle, boundary = members[2].offset_data + 100, members[3].offset
    for content in [whole[:middle], whole[:boundary], whole[: boundary + 100], whole[: boundary + 512], b""]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a/0\.tar is cut short or damaged; fetch it again"):
            indexed(tmp_path, "a", options, adopt=True)
    damaged = bytearray(whole)
    damaged[boundary : boundary + 50] = b"x" * 50
    path.write_bytes(bytes(damaged))
    with pytest.raises(UserError, match=r"a/0\.tar is cut short or damaged; fetch it again"):
        indexed(tmp_path, "a", options, adopt=True)
    zipped = io.BytesIO()
    with tarfile.open(fileobj=zipped, mode="w:gz"):
        pass
    path.write_bytes(zipped.getvalue())
    with pytest.raises(UserError, match=r"a/0\.tar is compressed.*'gunzip'"):
        indexed(tmp_path, "a", options, adopt=True)
    path.write_bytes(whole)
    pq.write_table(pa.table({"id": [1]}), path.with_suffix(".parquet"))
    with pytest.raises(UserError, match=r"0\.parquet: there is no column 'key' that joins it with 0\.tar"):
        indexed(tmp_path, "a", options, adopt=True)
    path.with_suffix(".parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"0\.parquet cannot be read"):
        indexed(tmp_path, "a", options, adopt=True)


def test_exif_size_is_upright_in_the_index(tmp_path: Path, indexed: Any) -> None:
    (tmp_path / "f").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(2):
        Image.new("RGB", (40, 20)).save(tmp_path / f"f/{number}.jpg", exif=exif)
    indexed(tmp_path, "f", {"format": "folder", "path": "f", "val_images": 1})
    row = rows_of(tmp_path, "f")[0]
    assert (row["width"], row["height"]) == (20, 40)
