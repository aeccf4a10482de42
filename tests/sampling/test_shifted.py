"""Pools of shifted images: classes by name, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.pool import load_pool
from mimcore.errors import UserError
from mimcore.sampling.examples import choose


def written(folder: Path, classes: list[str] | None, labels: list[int | None], split: str = "val") -> Path:
    """An index of two training images of each class, and of these labels in a split."""
    folder.mkdir()
    train = [label for label in range(len(classes or "abc")) for _ in range(2)] if split == "val" else []
    rows = {
        "key": [f"{folder.name}{number}" for number in range(len(train) + len(labels))],
        "split": ["train"] * len(train) + [split] * len(labels),
        "label": pa.array([*train, *labels], pa.int64()),
    }
    pq.write_table(pa.table(rows), folder / "index.parquet")
    (folder / "card.json").write_text(json.dumps({"pool": folder.name, "classes": classes, "box_classes": None}))
    return folder


def chosen(root: Path, other: Path, clean: Path | None = None, **options: object) -> dict[str, object]:
    clean = clean or written(root / "photos", ["ant", "bee", "cat", "dog"], [0, 1, 2, 3])
    options = {"shifted": [other.name], **options}
    return choose("tasks.robust", options, clean, root / "out", {"robust": "labels"}, {other.name: other})


def test_labels_are_those_of_the_clean_pool_by_name(tmp_path: Path) -> None:
    other = written(tmp_path / "sketches", ["dog", "bee"], [0, 0, 1])
    card = chosen(tmp_path, other)
    assert card["shifted"] == {"sketches": {"images": 3, "classes": [1, 3]}}
    rows = pq.read_table(tmp_path / "out/shifted-sketches.parquet")
    assert rows["label"].to_pylist() == [3, 3, 1]
    assert rows["key"].to_pylist() == ["sketches4", "sketches5", "sketches6"]
    assert json.loads((tmp_path / "out/card.json").read_text()) == card


def test_the_classes_are_those_that_the_images_have(tmp_path: Path) -> None:
    """Names of classes that no image has count for nothing, known or not; a part of the images has the classes of all."""
    other = written(tmp_path / "sketches", ["dog", "bee", "yak", "ant"], [0, 1, 1, 1, 1])
    card = chosen(tmp_path, other, shifted_images={"sketches": 1})
    assert card["shifted"] == {"sketches": {"images": 1, "classes": [1, 3]}}


def test_folders_are_matched_by_their_names(tmp_path: Path) -> None:
    """The same classes, numbered otherwise since a folder lacks the first of them."""
    random = np.random.default_rng(0)
    for pool, classes in (("photos", "abcd"), ("paintings", "db")):
        for name in classes:
            for number in range(3):
                file = tmp_path / pool / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(file)
        options = {"format": "folder", "path": str(tmp_path / pool), "perceptual_hash": False}
        options |= {"val_images": 6} if pool == "photos" else {"val": "."}
        scan(load_pool(pool, options, tmp_path), tmp_path / f"{pool}.json")
        build_index(pool, options, tmp_path / f"{pool}.json", tmp_path / "index" / pool, tmp_path, tmp_path / "scratch")
    chosen(tmp_path, tmp_path / "index/paintings", tmp_path / "index/photos")
    rows = pq.read_table(tmp_path / "out/shifted-paintings.parquet").to_pylist()
    assert sorted((row["key"][0], row["label"]) for row in rows) == [("b", 1)] * 3 + [("d", 3)] * 3


def test_what_cannot_be_matched_is_refused_in_a_sentence(tmp_path: Path) -> None:
    unknown = written(tmp_path / "unknown", ["zebra", "ant", "yak"], [0, 1, 2])
    with pytest.raises(
        UserError, match=r"tasks\.robust\.shifted: pool 'unknown' has .* 'photos' does not know: 'yak', 'zebra'; re"
    ):
        chosen(tmp_path, unknown)
    clean = tmp_path / "photos"
    with pytest.raises(
        UserError, match=r"shifted: every image of pool 'nameless' needs a label, and each label a name"
    ):
        chosen(tmp_path, written(tmp_path / "nameless", None, [0, 1]), clean)
    with pytest.raises(UserError, match=r"shifted: every image of pool 'half' needs a label"):
        chosen(tmp_path, written(tmp_path / "half", ["ant"], [0, None]), clean)
    with pytest.raises(UserError, match=r"shifted_images\.few: 5 are asked for, but the pool has 2"):
        chosen(tmp_path, written(tmp_path / "few", ["ant"], [0, 0]), clean, shifted_images={"few": 5})
    ants = tmp_path / "few"
    with pytest.raises(UserError, match=r"matched by their names, and pool 'plain' names none"):
        chosen(tmp_path, ants, written(tmp_path / "plain", None, [0]))
    with pytest.raises(UserError, match=r"pool 'double' has two classes of the name 'ant'"):
        chosen(tmp_path, ants, written(tmp_path / "double", ["ant", "ant"], [0]))
    with pytest.raises(UserError, match=r"no image that is tested on of pool 'bees' is of a class of pool 'few'"):
        chosen(tmp_path, ants, written(tmp_path / "bees", ["ant", "bee"], [1]))
    with pytest.raises(UserError, match=r"pool 'trained' has no image in its validation split"):
        chosen(tmp_path, written(tmp_path / "trained", ["ant"], [0], split="train"), clean)
    assert not (tmp_path / "out").exists()
