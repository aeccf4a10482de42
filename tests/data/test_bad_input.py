"""What can be wrong with a user's images, all the way to an index: counted, named, never half-written."""

import errno
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimcore.errors import UserError


def write_pool(root: Path, files: dict[str, bytes]) -> dict[str, Any]:
    (root / "pool").mkdir(exist_ok=True)
    for name, data in files.items():
        (root / "pool" / name).write_bytes(data)
    return {"format": "folder", "path": "pool", "val_images": 2}


def test_broken_images_are_set_aside_with_a_reason(tmp_path: Path, picture: Any, indexed: Any) -> None:
    files = {f"good{number:03d}.png": picture(number) for number in range(40)}
    files |= {
        "cmyk.jpg": picture(1, kind="JPEG", mode="CMYK"),
        "deep.png": picture(2, mode="I;16"),
        "moving.gif": picture(3, kind="GIF", save_all=True),
        "cut.jpg": picture(4, 64, 64, kind="JPEG")[:-200],
        "dot.png": picture(5, 1, 1),
        "empty.png": b"",
        "page.jpg": b"<html>404</html>",
    }
    options = write_pool(tmp_path, files)
    card = indexed(tmp_path, "p", {**options, "max_skipped_fraction": 0.1})
    assert (card["images"], card["skipped_fraction"]) == (43, 4 / 47)
    assert {item["shard"]: item["reason"] for item in card["skipped"]} == {
        "cut.jpg": "truncated",
        "dot.png": "1x1 pixels, and 8 are needed on each side",
        "empty.png": "empty file",
        "page.jpg": "not an image",
    }
    with pytest.raises(UserError) as caught:
        indexed(tmp_path, "p", {**options, "max_skipped_fraction": 0.05})
    assert str(caught.value) == (
        "pool 'p': 4 of 47 images cannot be used ('cut' in cut.jpg: truncated; 'dot' in dot.png: 1x1 pixels, and 8 are"
        " needed on each side; 'empty' in empty.png: empty file); mend or remove them, or raise"
        " pools.p.max_skipped_fraction (now 0.05)."
    )


def test_nothing_but_broken_images(tmp_path: Path, indexed: Any) -> None:
    options = write_pool(tmp_path, {"a.png": b"", "b.png": b""})
    with pytest.raises(UserError, match="2 of 2 images cannot be used"):
        indexed(tmp_path, "p", {**options, "max_skipped_fraction": 1})
    assert not (tmp_path / "artifacts").exists()


def test_labels_out_of_range(tmp_path: Path, picture: Any, write_tar: Any, indexed: Any) -> None:
    members: dict[str, bytes] = {}
    for number, label in enumerate(["0", "1", "2", "3", "x"]):
        members |= {f"{number}.png": picture(number), f"{number}.cls": label.encode()}
    write_tar(tmp_path / "pool/0.tar", members)
    (tmp_path / "pool/names.json").write_text('{"0": "a", "1": "b", "2": "c"}')
    options = {"format": "tar", "path": "pool", "val_images": 1, "classes": "names.json", "max_skipped_fraction": 0.4}
    card = indexed(tmp_path, "p", options)
    assert card["skipped"] == [
        {"key": "4", "shard": "0.tar", "reason": "its .cls is no label: 'x'"},
        {"key": "3", "shard": "0.tar", "reason": "label 3 is outside the 3 classes"},
    ]
    assert pq.read_table(tmp_path / "artifacts/index/p/index.parquet")["label"].to_pylist() == [0, 1, 2]
    (tmp_path / "pool/names.json").write_text('{"a": 0}')
    with pytest.raises(UserError, match=r"names\.json: a list of class names is needed"):
        indexed(tmp_path, "p", options)


def test_box_labels_out_of_range(tmp_path: Path, picture: Any, write_tar: Any, indexed: Any) -> None:
    for shard, labels in enumerate([[[0], [1, 0]], [[], [1, 2]]]):
        keys = [f"{shard}{number}" for number in range(2)]
        write_tar(tmp_path / f"pool/{shard}.tar", {f"{key}.png": picture(1) for key in keys})
        pq.write_table(pa.table({"key": keys, "box_labels": labels}), tmp_path / f"pool/{shard}.parquet")
    (tmp_path / "pool/names.json").write_text('["a", "b"]')
    options = {"format": "tar", "path": "pool", "val_images": 1, "box_classes": "names.json"}
    card = indexed(tmp_path, "p", {**options, "max_skipped_fraction": 0.3})
    assert card["box_classes"] == ["a", "b"]
    assert card["skipped"] == [{"key": "11", "shard": "1.tar", "reason": "box label 2 is outside the 2 classes"}]


def test_duplicate_keys(tmp_path: Path, picture: Any, write_tar: Any, indexed: Any) -> None:
    for shard in "ab":
        write_tar(tmp_path / f"pool/{shard}.tar", {f"{key}.png": picture(1) for key in (shard, "x", "y")})
    with pytest.raises(UserError, match=r"2 keys occur more than once, first 'x' \(in a\.tar, b\.tar\); rename"):
        indexed(tmp_path, "p", {"format": "tar", "path": "pool", "val_images": 1})


def test_broken_fields(tmp_path: Path, picture: Any, write_tar: Any, indexed: Any) -> None:
    options = {"format": "tar", "path": "pool", "val_images": 1, "max_skipped_fraction": 0.5}
    members = {f"{number}.png": picture(number) for number in range(3)}
    write_tar(tmp_path / "pool/0.tar", {**members, "2.json": b"{"})
    assert indexed(tmp_path, "p", options)["skipped"][0]["reason"] == "its .json is no mapping"
    write_tar(tmp_path / "pool/0.tar", {**members, "2.json": b"[1]"})
    assert indexed(tmp_path, "p", options, adopt=True)["skipped"][0]["reason"] == "its .json is no mapping"
    write_tar(tmp_path / "pool/0.tar", {**members, "2.json": json.dumps({"label": "cat"}).encode()})
    with pytest.raises(UserError, match=r"0\.tar: 'label' has to be int64, but not all of it is"):
        indexed(tmp_path, "p", options, adopt=True)


@pytest.mark.parametrize("writer", ["mimcore.data.index.pq.write_table", "pathlib.Path.write_text"])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, tar_pool: dict[str, Any], indexed: Any, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    indexed(tmp_path, "p", tar_pool)
    before = (tmp_path / "artifacts/index/p/index.parquet").read_bytes()
    monkeypatch.setattr(writer, full)
    with pytest.raises(UserError, match=r"cannot write .*: no space left on device; nothing was left there"):
        indexed(tmp_path, "p", {**tar_pool, "val_images": 4})
    monkeypatch.undo()
    assert (tmp_path / "artifacts/index/p/index.parquet").read_bytes() == before
    assert not [path for path in tmp_path.rglob("*") if ".part-" in path.name]
