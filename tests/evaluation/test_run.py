import json
from typing import get_args

import pyarrow.parquet as pq
import pytest
import torch
from fakes import digits, encoder

from mimcore import registry
from mimcore.errors import UserError
from mimcore.evaluation import run as stage
from mimcore.evaluation.task import Needs
from mimcore.execution import Execution
from mimcore.models import encoder as encoders

MODEL = {"architecture": "vit_tiny_patch16_224", "image_size": 16, "patch_size": 4}
MODEL |= {"embed_dim": 32, "depth": 2, "num_heads": 2}
EXECUTION = Execution(device="cpu", threads=1)
CPU = torch.device("cpu")


def silent(phase, done, total, note):
    pass


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A run, and examples whose images are those of scikit-learn's digits."""
    (tmp_path / "run").mkdir()
    encoders.save(encoder(), tmp_path / "run", {})
    (tmp_path / "examples").mkdir()
    for part, first in (("train", 0), ("test", 1000)):
        pq.write_table(digits(first, 120).rows, tmp_path / "examples" / f"{part}.parquet")
    card = {"classes": [str(i) for i in range(10)], "box_classes": None}
    (tmp_path / "examples" / "card.json").write_text(json.dumps(card))

    def images(pool, rows, image_size, root, cache_mib, channels):
        found = digits(0, 1500, image_size)
        found.pictures = [found.pictures[i] for i in range(rows.num_rows)]
        found.rows = rows
        return found

    monkeypatch.setattr(stage, "Images", images)
    return tmp_path


def job(place, definition, output="out"):
    return stage.Job(
        "probe", definition, {}, place / "examples", place / output, place / "provenance" / "out.json", place, EXECUTION,
        CPU, silent,
    )  # fmt: skip


def evaluate(place, task, output="out", **options):
    definition = {"task": {"module": task, "pool": "digits"} | options, "run": {"seed": "s0"}}
    return stage.evaluate_run("r", place / "run", job(place, definition, output))


def test_the_tasks_are_these():
    assert registry.names("task") == [
        "detection",
        "finetune",
        "instance_segmentation",
        "knn",
        "linear",
        "segmentation",
        "video",
    ]
    for name in registry.names("task"):
        module = registry.load("task", name)
        assert module.NEEDS in get_args(Needs)
        assert isinstance(module.PIXELS, bool)
        assert module.METRICS


def test_a_run_is_evaluated_into_the_contracts_file(place):
    found = evaluate(place, "linear")
    written = json.loads((place / "out" / "metrics.json").read_text())
    assert written == json.loads(json.dumps(found))
    assert written["definition"] == {"task": {"module": "linear", "pool": "digits"}, "run": {"seed": "s0"}}
    assert set(written) == {"definition", "libraries", "subjects"}
    top1, loss = (written["subjects"]["run"][name] for name in ("top1", "cross_entropy"))
    assert set(top1) == {"value", "standard_error", "higher_is_better", "headline"}
    assert (top1["headline"], top1["higher_is_better"]) == (True, True)
    assert (loss["headline"], loss["higher_is_better"]) == (False, False)
    assert set(json.loads((place / "provenance" / "out.json").read_text())["inputs"]) == {"encoder", "train", "test"}


def test_a_rerun_gives_the_same_bytes(place):
    evaluate(place, "linear", "a")
    evaluate(place, "linear", "b")
    assert (place / "a" / "metrics.json").read_bytes() == (place / "b" / "metrics.json").read_bytes()


def test_floors_are_the_untrained_encoder_and_pixels(place):
    def floor(task, **options):
        definition = {"task": {"module": task, "pool": "digits"} | options, "model": MODEL}
        return stage.evaluate_floor("m", job(place, definition, task))["subjects"]

    state = torch.get_rng_state()
    found = floor("knn")
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found) == ["untrained", "pixels"]
    assert list(floor("finetune", images_seen=64, batch_size=32)) == ["untrained"]
    assert floor("knn") == found


def test_a_typo_in_the_options_is_a_sentence(place):
    with pytest.raises(UserError, match=r"tasks\.probe\.neighbours: unknown option; did you mean 'neighbors'"):
        evaluate(place, "knn", neighbours=3)
    with pytest.raises(UserError, match="no task called 'liner'; did you mean 'linear'"):
        evaluate(place, "liner")


def test_a_missing_table_names_the_cure(place):
    (place / "examples" / "test.parquet").unlink()
    with pytest.raises(UserError, match=r"test\.parquet is missing; bring it up to date"):
        evaluate(place, "linear")
