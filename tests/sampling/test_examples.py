import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimcore import registry
from mimcore.data.splits import pick
from mimcore.errors import UserError
from mimcore.sampling.examples import choose


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Twelve images, of which one has no label and none has boxes."""
    folder = tmp_path / "index"
    folder.mkdir()
    rows = {
        "key": [f"k{number}" for number in range(12)],
        "split": ["train"] * 8 + ["val"] * 4,
        "label": pa.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, None, 1], pa.int64()),
    }
    pq.write_table(pa.table(rows), folder / "index.parquet")
    (folder / "card.json").write_text(json.dumps({"pool": "photos", "classes": None, "box_classes": None}))
    return folder


def test_a_task_is_refused_before_pretraining_where_its_truth_is_missing(index: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(
        UserError, match=r"tasks\.probe: the task needs labels, and 1 of the 4 images of pool 'photos' to"
    ):
        choose("features.all", {}, index, output, {"probe": "labels"})
    with pytest.raises(UserError, match=r"tasks\.boxes: the task needs boxes, and 8 of the 8 images .* to train on"):
        choose("tasks.boxes", {}, index, output, {"boxes": "boxes"})
    with pytest.raises(
        UserError, match=r"tasks\.masks: the task needs masks, and 8 of the 8 images .* add 'masks' to the"
    ):
        choose("tasks.masks", {}, index, output, {"masks": "masks"})
    with pytest.raises(UserError, match=r"tasks\.many: the task needs tags, .* add 'tags' or 'box_labels' to"):
        choose("features.all", {}, index, output, {"many": "tags"})
    assert not output.exists()


def test_an_instance_without_a_mask_is_refused(index: Path, tmp_path: Path) -> None:
    rows = pq.read_table(index / "index.parquet")
    masks = [["a"], [], ["a", None], None, [None], ["b"], ["b"], ["b"], *[["c"]] * 4]
    pq.write_table(rows.append_column("masks", pa.array(masks, pa.list_(pa.string()))), index / "index.parquet")
    with pytest.raises(UserError, match=r"the task needs masks, and 3 of the 8 images"):
        choose("tasks.masks", {}, index, tmp_path / "out", {"masks": "masks"})


def test_a_split_without_images_is_refused(index: Path, tmp_path: Path) -> None:
    rows = pq.read_table(index / "index.parquet")
    pq.write_table(rows.slice(0, 8), index / "index.parquet")
    with pytest.raises(UserError, match="has no image to test on"):
        choose("features.all", {}, index, tmp_path / "out", {})


def test_features_have_the_rows_that_a_task_had(index: Path, tmp_path: Path) -> None:
    rows = pq.read_table(index / "index.parquet")
    for where in ("features.all", "tasks.tune"):
        card = choose(where, {"train_images": 5, "test_images": None}, index, tmp_path / where, {})
        assert (card["train"], card["test"]) == (5, 4)
    for part in ("train", "test"):
        first, second = (
            pq.read_table(tmp_path / where / f"{part}.parquet") for where in ("features.all", "tasks.tune")
        )
        assert first.equals(second)
    chosen = pq.read_table(tmp_path / "features.all" / "train.parquet")["key"].to_pylist()
    assert chosen == pick(rows.slice(0, 8), 5, "examples/train")["key"].to_pylist()


def test_what_a_task_needs_is_read_without_importing_it() -> None:
    for kind in ("task", "probe"):
        for name in registry.names(kind):
            assert registry.constant(kind, name, "NEEDS") == registry.load(kind, name).NEEDS
    with pytest.raises(KeyError, match="assigns no NOTHING"):
        registry.constant("probe", "linear", "NOTHING")
    with pytest.raises(UserError, match="no probe called 'liner'; did you mean 'linear'"):
        registry.constant("probe", "liner", "NEEDS")
