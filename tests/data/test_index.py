import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimcore.data.files import fingerprint
from mimcore.data.index import build_index
from mimcore.data.listing import read_listing, scan
from mimcore.data.pool import load_pool
from mimcore.errors import UserError

CONTRACT = ["key", "shard", "offset", "length", "width", "height", "checksum", "split", "label", "caption", "phash"]


def test_index_points_at_the_bytes(tmp_path: Path, tar_pool: dict[str, Any], indexed: Any, picture: Any) -> None:
    card = indexed(tmp_path, "tars", tar_pool)
    table = pq.read_table(tmp_path / "artifacts/index/tars/index.parquet")
    assert table.column_names == [*CONTRACT, "score"]
    assert [str(kind) for kind in table.schema.types] == [
        *[
            "string",
            "string",
            "int64",
            "int64",
            "int32",
            "int32",
            "string",
            "string",
            "int64",
            "string",
            "uint64",
            "double",
        ]
    ]
    for number, row in enumerate(table.to_pylist()):
        data = picture(number)
        assert row["key"] == f"{number:09d}"
        assert (row["width"], row["height"], row["length"]) == (24, 16, len(data))
        container = (tmp_path / "pool" / row["shard"]).read_bytes()
        assert container[row["offset"] : row["offset"] + row["length"]] == data
        assert (row["label"], row["caption"], row["score"]) == (number % 3, f"picture {number}", number / 4)
    assert card == json.loads((tmp_path / "artifacts/index/tars/card.json").read_text())
    assert card == {
        **{"pool": "tars", "images": 12, "train": 9, "val": 3, "shards": 2, "classes": ["a", "b", "c"]},
        **{"box_classes": None, "skipped": [], "skipped_fraction": 0.0},
    }


def test_a_rebuilt_index_is_equal_bit_for_bit(tmp_path: Path, tar_pool: dict[str, Any], indexed: Any) -> None:
    side = {"key": [f"{number:09d}" for number in range(6)], "words": [["a", "b"]] * 6, "boxes": [[[1.0, 2, 3, 4]]] * 6}
    pq.write_table(pa.table(side), tmp_path / "pool/00000.parquet")
    indexed(tmp_path, "tars", tar_pool)
    path = tmp_path / "artifacts/index/tars/index.parquet"
    first = path.read_bytes()
    assert pq.read_table(path)["boxes"].type == pa.list_(pa.list_(pa.float32()))
    indexed(tmp_path, "tars", tar_pool)  # From the parts in the scratch folder.
    assert path.read_bytes() == first
    shutil.rmtree(tmp_path / ".mimcore")
    indexed(tmp_path, "tars", tar_pool)
    assert path.read_bytes() == first


def test_only_a_changed_shard_is_looked_at_again(
    tmp_path: Path,
    tar_pool: dict[str, Any],
    indexed: Any,
    write_tar: Any,
    picture: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    indexed(tmp_path, "tars", tar_pool)
    write_tar(tmp_path / "pool/00002.tar", {"new.png": picture(50)})
    looked_at = []
    from mimcore.data.formats import tar

    original = tar.index_shard
    monkeypatch.setattr(tar, "index_shard", lambda c, r, s: looked_at.append(s.name) or original(c, r, s))
    card = indexed(tmp_path, "tars", tar_pool, adopt=True)
    assert (card["images"], looked_at) == (13, ["00002.tar"])
    row = pq.read_table(tmp_path / "artifacts/index/tars/index.parquet").to_pylist()[-1]
    assert (row["key"], row["label"], row["score"]) == ("new", None, None)


def test_scan_tells_what_changed_and_rewrites_only_when_told(
    tmp_path: Path, tar_pool: dict[str, Any], write_tar: Any, picture: Any
) -> None:
    listing = tmp_path / "listings/tars.json"
    pool = load_pool("tars", tar_pool, tmp_path)
    assert scan(pool, listing).sentence() == "pool 'tars': 2 shards listed for the first time."
    first = listing.read_text()
    assert len(first.splitlines()) == 2 + 5
    assert json.loads(first)["pool"] == "tars"
    assert scan(pool, listing).sentence() == "pool 'tars': 2 shards, unchanged."
    write_tar(tmp_path / "pool/00001.tar", {"a.png": picture(1)})
    write_tar(tmp_path / "pool/00002.tar", {"b.png": picture(2)})
    (tmp_path / "pool/00000.tar").unlink()
    report = scan(pool, listing)
    assert (report.added, report.changed, report.vanished) == (["00002.tar"], ["00001.tar"], ["00000.tar"])
    assert not report.written
    assert report.sentence() == (
        "pool 'tars': 1 added (00002.tar), 1 changed (00001.tar), 1 vanished (00000.tar);"
        " 'mimcore scan tars --adopt' pins it anew."
    )
    assert listing.read_text() == first
    assert scan(pool, listing, adopt=True).written
    assert [shard.name for shard in read_listing(listing)] == ["00001.tar", "00002.tar"]


def test_a_copy_of_a_pool_has_not_changed(tmp_path: Path, tar_pool: dict[str, Any]) -> None:
    listing = tmp_path / "listing.json"
    scan(load_pool("tars", tar_pool, tmp_path), listing)
    shutil.copytree(tmp_path / "pool", tmp_path / "copy", copy_function=shutil.copyfile)
    assert scan(load_pool("tars", {**tar_pool, "path": "copy"}, tmp_path), listing).state == "unchanged"


def test_fingerprint_sees_length_and_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    found = set()
    for content in [b"", b"a", b"ab", b"b" * 300_000, b"b" * 300_001, b"a" + b"b" * 299_999, b"b" * 299_999 + b"a"]:
        path.write_bytes(content)
        found.add(fingerprint(path))
    assert len(found) == 7


def test_changed_and_vanished_shards_are_refused(tmp_path: Path, tar_pool: dict[str, Any], indexed: Any) -> None:
    indexed(tmp_path, "tars", tar_pool)
    arguments = ("tars", tar_pool, tmp_path / "listings/tars.json", tmp_path / "out", tmp_path, tmp_path / ".mimcore")
    path = tmp_path / "pool/00001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    cure = r"'mimcore scan tars --adopt' pins it anew\."
    with pytest.raises(UserError, match=rf"pool 'tars': shard '00001\.tar' has changed since it was listed; {cure}"):
        build_index(*arguments)
    path.unlink()
    with pytest.raises(UserError, match=rf"'00001\.tar' is listed, but is not there any more; {cure}"):
        build_index(*arguments)
    path.write_bytes(content)
    (tmp_path / "pool/00003.tar").write_bytes(b"growth is none of a pinned snapshot's business")
    assert build_index(*arguments)["images"] == 12


def test_growth_changes_validation_by_newcomers_alone(
    tmp_path: Path, tar_pool: dict[str, Any], indexed: Any, write_tar: Any, picture: Any
) -> None:
    def validation() -> set[str]:
        rows = pl.read_parquet(tmp_path / "artifacts/index/tars/index.parquet")
        return set(rows.filter(pl.col("split") == "val")["key"])

    indexed(tmp_path, "tars", tar_pool)
    before = validation()
    write_tar(tmp_path / "pool/00002.tar", {f"n{number}.png": picture(number) for number in range(12)})
    indexed(tmp_path, "tars", tar_pool, adopt=True)
    assert len(before) == len(validation()) == 3
    assert all(key.startswith("n") for key in validation() - before)


def test_mistakes_in_options(tmp_path: Path, tar_pool: dict[str, Any], indexed: Any) -> None:
    for change, message in [
        ({"format": "tarr"}, r"pools\.p\.format: there is no format called 'tarr'; did you mean 'tar'\?"),
        ({"format": None}, r"pools\.p\.format: there is no format called 'None'"),
        ({"val_image": 3}, r"pools\.p\.val_image: unknown option; did you mean 'val_images'"),
        ({"val": "v*.tar"}, r"pools\.p: exactly one of 'val' .* and 'val_images'"),
        ({"val_images": None}, r"pools\.p: exactly one of 'val' .* and 'val_images'"),
        ({"path": "nowhere"}, r"pools\.p\.path: there is no folder .*nowhere; correct the path"),
        ({"train": "*.tgz"}, r"pools\.p: no images of format 'tar' in .*pool; correct the options"),
        ({"val_images": 12}, r"pools\.p\.val_images: 12 of 12 images leave none to train on"),
        ({"val_images": None, "val": "v*.tar"}, r"pool 'p': no image is in the split 'val'; correct pools\.p\.val"),
        ({"classes": "none.json"}, r"none\.json is missing; correct the option 'classes'"),
    ]:
        shutil.rmtree(tmp_path / "listings", ignore_errors=True)
        with pytest.raises(UserError, match=message):
            indexed(tmp_path, "p", {**tar_pool, **change})
    with pytest.raises(UserError, match=r"pools\.p\.format: required, but not given; one of .*digits"):
        load_pool("p", {"path": "pool"}, tmp_path)
    with pytest.raises(UserError, match="the pool 'q' was never listed; run 'mimcore scan q'"):
        read_listing(tmp_path / "q.json")
    (tmp_path / "q.json").write_text('{"shards": [{}]}')
    with pytest.raises(UserError, match=r"q\.json is broken .*; restore it, or delete it and run 'mimcore scan q'"):
        read_listing(tmp_path / "q.json")


def test_progress_is_told(tmp_path: Path, tar_pool: dict[str, Any]) -> None:
    told: list[tuple[int, int]] = []
    scan(load_pool("t", tar_pool, tmp_path), tmp_path / "t.json")
    build_index(
        *("t", tar_pool, tmp_path / "t.json", tmp_path / "o", tmp_path, tmp_path / "s"),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 2), (2, 2)]
    assert np.array_equal(sorted(path.name for path in (tmp_path / "o").iterdir()), ["card.json", "index.parquet"])


def labelled(folder: Path, picture: Any, **columns: Any) -> dict[str, Any]:
    folder.mkdir()
    names = {"info": {"features": {"label": {"names": ["grey cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [picture(number) for number in range(5)], **columns})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), folder / "train-0.parquet")
    return {"format": "parquet", "path": folder.name, "val_images": 1, "max_skipped_fraction": 0.5}


def test_captions_of_labels(tmp_path: Path, picture: Any, indexed: Any) -> None:
    labels, texts = [1, 0, None, 7, 0], ["my dog", " ", None, "x", None]
    options = labelled(tmp_path / "p", picture, label=labels, text=texts)
    options["caption_template"] = "a photo of a {label}"

    def captions() -> list[str | None]:
        return pq.read_table(tmp_path / "artifacts/index/p/index.parquet")["caption"].to_pylist()

    card = indexed(tmp_path, "p", options)
    assert [item["key"] for item in card["skipped"]] == ["train-0/3"]
    assert captions() == ["a photo of a dog", "a photo of a grey cat", None, "a photo of a grey cat"]
    # What the pool says itself goes first; another template is another index of the same looked-at rows.
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / ".mimcore").rglob("*.parquet")}
    assert parts
    indexed(tmp_path, "p", {**options, "caption_template": "{label}"})
    assert captions() == ["dog", "grey cat", None, "grey cat"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / ".mimcore").rglob("*.parquet")} == parts
    indexed(tmp_path, "p", {**options, "caption_column": "text"})
    assert captions() == ["my dog", "a photo of a grey cat", None, "a photo of a grey cat"]


def test_captions_need_labels_with_names(tmp_path: Path, picture: Any, indexed: Any) -> None:
    options = labelled(tmp_path / "p", picture, label=[0, 1, 0, 1, 0])
    with pytest.raises(UserError, match=r"pools\.p\.caption_template: it must have '\{label\}' once"):
        indexed(tmp_path, "p", {**options, "caption_template": "a photo"})
    unlabelled = labelled(tmp_path / "u", picture) | {"label_column": None}
    (tmp_path / "u/classes.json").write_text('["cat"]')
    with pytest.raises(UserError, match="the pool has no label of any image"):
        indexed(tmp_path, "u", {**unlabelled, "classes": "classes.json", "caption_template": "{label}"})
    bare = pq.read_table(tmp_path / "p/train-0.parquet").replace_schema_metadata(None)
    (tmp_path / "q").mkdir()
    pq.write_table(bare, tmp_path / "q/train-0.parquet")
    with pytest.raises(UserError, match="the pool has no names of the classes"):
        indexed(tmp_path, "q", {**options, "path": "q", "caption_template": "{label}"})
    packed = {"format": "packed", "path": "r", "short_side": 16, "of": {**options, "caption_template": "{label}"}}
    with pytest.raises(UserError, match="write it beside 'of'"):
        load_pool("r", packed, tmp_path)
    packed["of"].pop("caption_template")
    indexed(tmp_path, "r", {**packed, "caption_template": "a {label}"})
    found = pq.read_table(tmp_path / "artifacts/index/r/index.parquet")["caption"].to_pylist()
    assert found == ["a grey cat", "a dog", "a grey cat", "a dog", "a grey cat"]


def test_another_class_folder_renumbers_the_rows_of_all(tmp_path: Path, indexed: Any, picture: Any) -> None:
    options = {"format": "folder", "path": "pool", "val_images": 1}

    def add(name: str, *numbers: int) -> dict[str, str]:
        (tmp_path / "pool" / name).mkdir(parents=True)
        for number in numbers:
            (tmp_path / "pool" / name / f"{number}.png").write_bytes(picture(number))
        card = indexed(tmp_path, "p", options, adopt=True)
        table = pq.read_table(tmp_path / "artifacts/index/p/index.parquet")
        return {
            key: card["classes"][label]
            for key, label in zip(*table.select(["key", "label"]).to_pydict().values(), strict=False)
        }

    add("bees", 0, 1)
    assert {key.split("/")[0] for key in add("cats", 2, 3)} == {"bees", "cats"}
    found = add("ants", 4, 5)
    assert len(found) == 6
    assert all(key.split("/")[0] == label for key, label in found.items())
