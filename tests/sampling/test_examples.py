import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimcore import registry
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
        choose("probe", {"module": "linear"}, index, output)
    with pytest.raises(UserError, match=r"tasks\.boxes: the task needs boxes, and 8 of the 8 images .* to train on"):
        choose("boxes", {"module": "detection"}, index, output)
    with pytest.raises(
        UserError, match=r"tasks\.masks: the task needs masks, and 8 of the 8 images .* add 'masks' to the"
    ):
        choose("masks", {"module": "segmentation"}, index, output)
    assert not output.exists()


def test_an_instance_without_a_mask_is_refused(index: Path, tmp_path: Path) -> None:
    rows = pq.read_table(index / "index.parquet")
    masks = [["a"], [], ["a", None], None, [None], ["b"], ["b"], ["b"], *[["c"]] * 4]
    pq.write_table(rows.append_column("masks", pa.array(masks, pa.list_(pa.string()))), index / "index.parquet")
    with pytest.raises(UserError, match=r"the task needs masks, and 3 of the 8 images"):
        choose("masks", {"module": "segmentation"}, index, tmp_path / "out")


def test_a_split_without_images_is_refused(index: Path, tmp_path: Path) -> None:
    rows = pq.read_table(index / "index.parquet")
    pq.write_table(rows.slice(0, 8), index / "index.parquet")
    with pytest.raises(UserError, match="has no image to test on"):
        choose("probe", {"module": "linear"}, index, tmp_path / "out")


def test_what_a_task_needs_is_read_without_importing_it() -> None:
    for name in registry.names("task"):
        assert registry.constant("task", name, "NEEDS") == registry.load("task", name).NEEDS
    with pytest.raises(KeyError, match="assigns no NOTHING"):
        registry.constant("task", "linear", "NOTHING")
    with pytest.raises(UserError, match="no task called 'liner'; did you mean 'linear'"):
        registry.constant("task", "liner", "NEEDS")
