import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faster_coco_eval.core import mask as coco_mask
from scipy.ndimage import binary_erosion
from sklearn.datasets import load_digits

from mimcore.data.formats import _scenes
from mimcore.data.loader import Images
from mimcore.data.pool import load_pool
from mimcore.data.rows import OPTIONAL
from mimcore.data.splits import read_split
from mimcore.errors import UserError

OPTIONS = {"format": "digits", "images": 60, "val_images": 12, "images_per_shard": 20}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, indexed: Any) -> Path:
    root = tmp_path_factory.mktemp("study")
    indexed(root, "digits", OPTIONS)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "data/digits").iterdir())}


def test_index_of_the_pool(study: Path) -> None:
    card = json.loads((study / "artifacts/index/digits/card.json").read_text())
    assert (card["train"], card["val"], card["shards"]) == (48, 12, 4)
    assert card["classes"] == card["box_classes"] == list(_scenes.NAMES)
    rows = read_split(study / "artifacts/index/digits", "train")
    assert {name: rows.schema.field(name).type for name in OPTIONAL} == OPTIONAL
    assert rows["key"].to_pylist() == [f"train-{number:07d}" for number in range(48)]
    assert set(rows["background"].to_pylist()) == set(_scenes.BACKGROUNDS)
    assert {len(boxes) for boxes in rows["boxes"].to_pylist()} == {1, 2, 3, 4, 5}


def test_every_truth_agrees_with_the_pixels(study: Path) -> None:
    for split in ("train", "val"):
        rows = read_split(study / "artifacts/index/digits", split)
        images = Images(OPTIONS, rows, 64, study)
        for position, row in enumerate(rows.to_pylist()):
            masks = [coco_mask.decode({"size": [64, 64], "counts": counts.encode()}) for counts in row["masks"]]
            assert np.max(sum(mask.astype(int) for mask in masks)) == 1
            for mask, box, area in zip(masks, row["boxes"], row["box_areas"], strict=True):
                ys, xs = np.nonzero(mask)
                assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                assert area == mask.sum()
            order = sorted(range(len(masks)), key=lambda number: -row["box_areas"][number])
            assert row["label"] == row["box_labels"][order[0]]
            assert row["box_crowd"] == [False] * len(masks)
            check_caption(row["caption"], order, row, masks, images.raw(position))
            check_tags(row, order, masks, images.raw(position))


def check_caption(caption: str, order: list[int], row: dict[str, Any], masks: list[Any], pixels: Any) -> None:
    words = re.fullmatch(
        r"a (\w+) (\w+) (\w+)(?: (above|below|to the left of|to the right of) a (\w+) (\w+) (\w+))?", caption
    )
    assert words is not None
    assert (words[4] is None) == (len(masks) == 1)
    for number, (size, colour, name) in zip(order, [words.group(1, 2, 3), words.group(5, 6, 7)], strict=False):
        assert size in _scenes.SIZES
        assert name == _scenes.NAMES[row["box_labels"][number]]
        inside = binary_erosion(masks[number], iterations=2)
        if inside.sum() >= 4:
            found = np.median(pixels[:, inside], axis=1)
            assert np.abs(found - _scenes.PALETTE[colour]).max() < 40
    if len(masks) > 1:
        x0, y0, x1, y1 = np.subtract(row["boxes"][order[0]], row["boxes"][order[1]])
        right, down = x0 + x1, y0 + y1
        told = {"above": -down, "below": down, "to the left of": -right, "to the right of": right}[words[4]]
        assert told == max(abs(right), abs(down))


def check_tags(row: dict[str, Any], order: list[int], masks: list[Any], pixels: Any) -> None:
    names = list(dict.fromkeys(_scenes.NAMES[row["box_labels"][number]] for number in order))
    colours = row["tags"][len(names) :]
    assert row["tags"][: len(names)] == names
    assert len(set(colours)) == len(colours)
    palette = np.array(list(_scenes.PALETTE.values()))
    inside = [binary_erosion(mask, iterations=2) for mask in masks]
    shown = {
        list(_scenes.PALETTE)[np.abs(np.median(pixels[:, part], axis=1) - palette).sum(1).argmin()]
        for part in inside
        if part.sum() >= 8
    }
    assert shown <= set(colours) <= set(_scenes.PALETTE)
    assert 1 <= len(colours) <= len(masks)


def test_a_label_can_be_the_colour_of_the_digit_that_shows_most(study: Path, tmp_path: Path) -> None:
    pool = load_pool("coloured", {**OPTIONS, "label": "colour"}, tmp_path)
    pool.prepare()
    assert list(pool.classes().labels) == list(_scenes.PALETTE)
    for split, shards in (("train", "train-*.parquet"), ("val", "val-*.parquet")):
        told = [
            row for file in sorted((tmp_path / "data/digits").glob(shards)) for row in pq.read_table(file).to_pylist()
        ]
        by_digit = read_split(study / "artifacts/index/digits", split).to_pylist()
        assert len(told) == len(by_digit)
        for row, other in zip(told, by_digit, strict=True):
            assert list(_scenes.PALETTE)[row["label"]] == row["caption"].split()[2]
            assert {name: row[name] for name in row if name != "label"} == {
                name: other[name] for name in row if name != "label"
            }


def test_digits_stand_out_from_every_ground() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        first, second = rng.uniform(0, 255, (2, 3))
        colours = _scenes.Renderer._colours(first, second)
        assert len(colours) >= 3
        for part in np.linspace(0, 1, 50):
            ground = first + part * (second - first)
            for colour in colours:
                assert np.linalg.norm(ground - _scenes.PALETTE[colour]) >= _scenes.CONTRAST - 1e-9


def test_splits_are_written_by_different_hands() -> None:
    train, val = (_scenes.Renderer(32, 0, split) for split in ("train", "val"))
    images = load_digits().images
    assert len(train._strokes) + len(val._strokes) == len(images)
    assert 0.1 < len(val._strokes) / len(images) < 0.2
    assert not {stroke.tobytes() for stroke in train._strokes} & {stroke.tobytes() for stroke in val._strokes}
    assert set(val._labels) == set(range(10))


def test_the_same_options_give_the_same_files(study: Path, tmp_path: Path) -> None:
    load_pool("digits", OPTIONS, tmp_path).prepare()
    assert files(tmp_path) == files(study)


def test_a_larger_pool_only_adds(study: Path, tmp_path: Path) -> None:
    def scenes(root: Path) -> dict[str, Any]:
        tables = [pq.read_table(path) for path in sorted((root / "data/digits").glob("*.parquet"))]
        return {row["key"]: row for row in pa.concat_tables(tables).to_pylist()}

    load_pool("digits", {**OPTIONS, "images": 80}, tmp_path).prepare()
    before, after = scenes(study), scenes(tmp_path)
    assert before.items() <= {key: after[key] for key in before}.items()
    assert set(after) - set(before) == {f"train-{number:07d}" for number in range(48, 68)}


def test_other_options_render_again_what_they_change(tmp_path: Path) -> None:
    load_pool("digits", OPTIONS, tmp_path).prepare()
    folder = tmp_path / "data/digits"
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    load_pool("digits", OPTIONS, tmp_path).prepare()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    smaller = load_pool("digits", {**OPTIONS, "images": 40}, tmp_path)
    smaller.prepare()
    assert sorted(path.name for path in folder.glob("*.tar")) == [shard.name for shard in smaller.shards()]
    kept = {path.name for path in folder.iterdir() if times.get(path.name) == path.stat().st_mtime_ns}
    assert kept == {"train-00000.tar", "train-00000.parquet", "val-00000.tar", "val-00000.parquet"}
    before = files(tmp_path)
    load_pool("digits", {**OPTIONS, "images": 40, "seed": 1}, tmp_path).prepare()
    assert not {name for name, data in files(tmp_path).items() if before[name] == data}
    (folder / "val-00000.tar").unlink()
    load_pool("digits", {**OPTIONS, "images": 40, "seed": 1}, tmp_path).prepare()
    assert (folder / "val-00000.tar").is_file()


def test_tags_are_told_from_the_options_alone(study: Path, tmp_path: Path) -> None:
    shards = load_pool("digits", OPTIONS, study).shards()
    assert all(shard.bytes == 0 for shard in shards)
    assert len({shard.etag for shard in shards}) == 4
    (tmp_path / "data/digits").mkdir(parents=True)
    for shard in shards:
        (tmp_path / "data/digits" / shard.name).write_bytes(b"other JPEG bytes")
    assert load_pool("digits", OPTIONS, tmp_path).shards() == shards


def test_scenes_told_of_in_another_way_are_rendered_again_and_stay_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "images": 8, "val_images": 3}
    load_pool("digits", options, tmp_path).prepare()
    shards, side = load_pool("digits", options, tmp_path).shards(), tmp_path / "data/digits/val-00000.parquet"
    whole = side.read_bytes()
    pq.write_table(pq.read_table(side).drop_columns("tags"), side)
    load_pool("digits", options, tmp_path).prepare()
    assert "tags" not in pq.read_schema(side).names
    monkeypatch.setattr("mimcore.data.formats.digits.TRUTH", _scenes.TRUTH + 1)
    load_pool("digits", options, tmp_path).prepare()
    assert side.read_bytes() == whole
    assert load_pool("digits", options, tmp_path).shards() == shards


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data/digits").mkdir(parents=True)
    (tmp_path / "data/digits/.gitignore").write_text("*")
    load_pool("digits", {**OPTIONS, "images": 2, "val_images": 1}, tmp_path).prepare()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"mine holds files that the pool of digits did not make; give it another"):
        load_pool("digits", {**OPTIONS, "path": "mine"}, tmp_path).prepare()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["photo.jpg"]
    with pytest.raises(UserError, match=r"'val_images' \(60\) leaves none of 60 'images' to train on"):
        load_pool("digits", {**OPTIONS, "val_images": 60}, tmp_path)
