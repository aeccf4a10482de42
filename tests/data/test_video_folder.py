"""Pools of video files: their layouts, their lists, and what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from video_files import damaged, decoded, encode, noisy, write_classes

from mimcore.data import parts
from mimcore.data.clips import read_frames
from mimcore.data.loader import Images
from mimcore.data.perceptual import hash_of
from mimcore.data.pool import load_pool
from mimcore.definition import resolve
from mimcore.errors import UserError

FOLDERS = {"format": "video_folder", "path": "pool", "train": "train", "val": "val"}
LISTS = {"format": "video_folder", "path": "pool", "train": "train.csv", "val": "val.csv"}


def rows_of(root: Path, name: str = "v") -> Any:
    return pq.read_table(root / "artifacts/index" / name / "index.parquet")


def videos(folder: Path, **frames: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in frames.items():
        (folder / f"{name}.mp4").write_bytes(encode(noisy(count, 16, 24)))


def test_folders_of_classes(tmp_path: Path, indexed: Any) -> None:
    write_classes(tmp_path / "pool", {"train": 2, "val": 1})
    (tmp_path / "pool/train/left/notes.txt").write_text("no video")
    card = indexed(tmp_path, "v", FOLDERS)
    assert (card["train"], card["val"], card["classes"], card["skipped"]) == (4, 2, ["left", "right"], [])
    table = rows_of(tmp_path)
    assert table["key"].to_pylist()[:3] == ["train/left/000", "train/left/001", "train/right/000"]
    assert table["shard"].to_pylist()[0] == "train/left/000.mp4"
    assert table["label"].to_pylist() == [0, 0, 1, 1, 0, 1]
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["frames"], first["fps"], first["seconds"], first["width"], first["height"]) == (12, 25, 0.48, 32, 32)
    data = (tmp_path / "pool/train/left/000.mp4").read_bytes()
    assert first["length"] == len(data)
    assert first["phash"] == hash_of(Image.fromarray(decoded(data)[0]))
    ((_, found),) = Images(FOLDERS, table, 32, tmp_path).encoded(np.array([0]))
    assert np.array_equal(read_frames(found, [11])[0].transpose(1, 2, 0), decoded(data)[11])


@pytest.mark.parametrize(
    ("lines", "labels", "names"),
    [
        ("a b/x, 1.mp4,1\nc.webm.mp4,0\n", [1, 0], None),
        ("path,label\n'a b/x, 1.mp4',1\nc.webm.mp4, 0\n".replace("'", '"'), [1, 0], None),
        ("a b/x, 1.mp4 1\n\nc.webm.mp4  0\n", [1, 0], None),
        ("a b/x, 1.mp4\tjump, high\nc.webm.mp4\tdance\n", [1, 0], ["dance", "jump, high"]),
        ("{root}/a b/x, 1.mp4 12\n./c.webm.mp4 3\n", [12, 3], None),
    ],
    ids=["commas", "header", "spaces", "names", "absolute"],
)
def test_lists_of_paths_and_labels(
    tmp_path: Path, indexed: Any, lines: str, labels: list[int], names: list[str] | None
) -> None:
    videos(tmp_path / "pool/a b", **{"x, 1": 2})
    videos(tmp_path / "pool", **{"c.webm": 3, "other": 1})
    (tmp_path / "pool/list.csv").write_text(lines.replace("{root}", str(tmp_path / "pool")))
    options = {"format": "video_folder", "path": "pool", "train": "list.csv", "val_images": 1}
    card = indexed(tmp_path, "v", options)
    assert card["classes"] == names
    table = rows_of(tmp_path)
    assert table["key"].to_pylist() == ["a b/x, 1", "c.webm"]
    assert table["label"].to_pylist() == labels
    assert table["frames"].to_pylist() == [2, 3]


def test_lists_of_two_splits_with_names_of_classes(tmp_path: Path, indexed: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("mimcore.data.formats.video_folder._LINES", 2)
    pool = tmp_path / "pool"
    videos(pool / "all", a=2, b=2, c=2, d=2)
    (pool / "train.csv").write_text("a.mp4 0\nb.mp4 1\nc.mp4 0\n")
    (pool / "val.csv").write_text("d.mp4 1\n")
    (pool / "names.json").write_text('["still", "fast"]')
    options = {**LISTS, "videos": "all", "classes": "names.json"}
    card = indexed(tmp_path, "v", options)
    assert (card["train"], card["val"], card["shards"], card["classes"]) == (3, 1, 3, ["still", "fast"])
    # Another label is another entry of the listing, though no file has changed.
    (pool / "train.csv").write_text("a.mp4 0\nb.mp4 0\nc.mp4 0\n")
    with pytest.raises(UserError, match=r"shard 'train.csv:000000' has changed since it was listed"):
        indexed(tmp_path, "v", options)
    indexed(tmp_path, "v", options, adopt=True)
    assert rows_of(tmp_path)["label"].to_pylist() == [0, 0, 0, 1]
    (pool / "val.csv").write_text("d.mp4 fast\n")
    with pytest.raises(UserError, match=r"val\.csv: the label 'fast' is not in names\.json"):
        indexed(tmp_path, "v", options)


def test_broken_and_missing_videos_are_set_aside(tmp_path: Path, indexed: Any) -> None:
    videos(tmp_path / "pool", a=4, b=4, c=4)
    whole = encode(noisy(30), options={"g": "5"})
    (tmp_path / "pool/cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pool/empty.mkv").write_bytes(b"")
    lines = [f"{name} 0" for name in ("a.mp4", "b.mp4", "c.mp4", "cut.mp4", "empty.mkv", "gone.mp4")]
    (tmp_path / "pool/train.csv").write_text("\n".join(lines))
    options = {"format": "video_folder", "path": "pool", "train": "train.csv", "val_images": 1}
    card = indexed(tmp_path, "v", {**options, "max_skipped_fraction": 0.6})
    assert card["images"] == 3
    assert {item["key"]: item["reason"].split(":")[0] for item in card["skipped"]} == {
        "cut": "cannot be decoded",
        "empty": "cannot be decoded",
        "gone": "missing",
    }
    with pytest.raises(UserError, match="3 of 6 images"):
        indexed(tmp_path, "v", options)


def test_damage_inside_is_found_while_indexing_where_that_is_asked_for(tmp_path: Path, indexed: Any) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    data = encode(noisy(30), options={"g": "5", "bf": "0"})
    (pool / "whole.mp4").write_bytes(data)
    (pool / "other.mp4").write_bytes(encode(noisy(8)))
    (pool / "damaged.mp4").write_bytes(damaged(data, 17))
    options = {"format": "video_folder", "path": "pool", "val_images": 1, "max_skipped_fraction": 0.5}
    assert indexed(tmp_path, "v", options)["images"] == 3
    card = indexed(tmp_path, "w", {**options, "check_frames": True})
    assert [item["key"] for item in card["skipped"]] == ["damaged"]
    # Otherwise whoever comes to it says which it is.
    images = Images(options, rows_of(tmp_path), 16, tmp_path)
    place = rows_of(tmp_path)["key"].to_pylist().index("damaged")
    ((_, found),) = images.encoded(np.array([place]))
    with (
        pytest.raises(UserError, match=r"image 'damaged' in damaged\.mp4: .*mend or remove it"),
        images.explained(place),
    ):
        read_frames(found, list(range(30)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb 1\n", r"train\.csv, line 2: 'b 1' is not the path of a video and a label"),
        ("a.mp4 0\n/far/away.mp4 1\n", r"line 2: '/far/away\.mp4' does not lie below the pool's path"),
        ("../a.mp4 0\n", r"line 1: '\.\./a\.mp4' does not lie below"),
        (None, r"train\.csv is missing; correct 'train' and 'val'"),
        ("\n", "no images of format 'video_folder'"),
    ],
)
def test_lists_that_cannot_be_read_are_sentences(tmp_path: Path, indexed: Any, text: str | None, message: str) -> None:
    videos(tmp_path / "pool", a=1)
    if text is not None:
        (tmp_path / "pool/train.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        indexed(tmp_path, "v", {"format": "video_folder", "path": "pool", "train": "train.csv", "val_images": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "train.csv", "val": "val"}, "two subfolders, or two lists"),
        ({"train": "train", "val": "val", "videos": "x"}, "'classes' and 'videos' belong to lists"),
        ({"train": "train"}, "exactly one of 'val'"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    from mimcore.data.formats.video_folder import Config

    with pytest.raises(UserError, match=message):
        resolve(Config, {"path": "x", **options}, "pools.v")


def test_a_new_class_renumbers_the_others_in_a_process_that_goes_on(tmp_path: Path, indexed: Any) -> None:
    write_classes(tmp_path / "pool", {"train": 1, "val": 1})
    pool = load_pool("v", FOLDERS, tmp_path)
    before = {shard.name: shard for shard in pool.shards()}
    assert pool.index_shard(before["train/left"]).rows["label"].to_pylist() == [0]
    (tmp_path / "pool/train/idle").mkdir()
    (tmp_path / "pool/train/idle/0.mp4").write_bytes(encode(noisy(3)))
    after = {shard.name: shard for shard in pool.shards()}
    assert after["train/left"] != before["train/left"]
    assert pool.index_shard(after["train/left"]).rows["label"].to_pylist() == [1]
    assert parts._digest(pool) == parts._digest(load_pool("v", FOLDERS, tmp_path))


def test_frames_are_packed_as_images(tmp_path: Path, indexed: Any) -> None:
    write_classes(tmp_path / "pool", {"train": 2, "val": 1})
    (tmp_path / "pool/train/left/short.mp4").write_bytes(encode(noisy(2, 40, 64)))
    options = {
        "format": "packed",
        "path": "small",
        "short_side": 32,
        "quality": 95,
        "of": FOLDERS,
        "frames_per_video": 3,
    }
    card = indexed(tmp_path, "p", options)
    assert (card["train"], card["val"], card["classes"]) == (4 * 3 + 2, 2 * 3, ["left", "right"])
    table = rows_of(tmp_path, "p")
    assert not {"frames", "seconds", "fps"} & set(table.column_names)
    keys = table["key"].to_pylist()
    # The middles of thirds of twelve frames, and both of two.
    assert [key for key in keys if key.startswith("train/left/001")] == [f"train/left/001/{n:05d}" for n in (2, 6, 10)]
    assert [key[-5:] for key in keys if "short" in key] == ["00000", "00001"]
    images = Images(options, table, 32, tmp_path)
    truth = decoded((tmp_path / "pool/train/left/001.mp4").read_bytes())[6]
    found = images.raw(keys.index("train/left/001/00006")).transpose(1, 2, 0)
    assert np.abs(found.astype(int) - truth).mean() < 4
    with pytest.raises(UserError, match="'frames_per_video' belongs to videos"):
        load_pool("p", {**options, "of": {**FOLDERS, "format": "folder"}}, tmp_path)
    with pytest.raises(UserError, match="frames of one video for both splits"):
        load_pool("p", {**options, "of": {"format": "video_folder", "path": "pool", "val_images": 1}}, tmp_path)
