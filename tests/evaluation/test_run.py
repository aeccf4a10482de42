import dataclasses
import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fakes import digits, encoder

from mimcore import registry
from mimcore.errors import UserError
from mimcore.evaluation import knn
from mimcore.evaluation import run as stage
from mimcore.evaluation.extract import extract_floor, extract_run
from mimcore.evaluation.job import Job
from mimcore.evaluation.probing import probe_floor, probe_run
from mimcore.evaluation.task import NotApplicable
from mimcore.execution import Execution
from mimcore.models import encoder as encoders
from mimcore.sampling.examples import COLUMNS

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
    (tmp_path / "run/metrics.json").write_text("{}")
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


def job(place, name, definition, output, inputs="examples"):
    return Job(
        name, definition, place / inputs, place / output, place / "provenance" / f"{output}.json", EXECUTION, CPU, silent, {}, place
    )  # fmt: skip


def extracted(place, output="features", **options):
    definition = {"features": {"pool": "digits"} | options, "run": {"seed": "s0"}}
    extract_run("r", place / "run", job(place, "digits", definition, output))


def probed(place, task, output="out", **options):
    extracted(place)
    definition = {"task": {"module": task, "features": "digits"} | options, "run": {"seed": "s0"}}
    return probe_run("r", place / "run", job(place, "probe", definition, output, "features"))


def test_the_tasks_and_probes_are_these():
    assert registry.names("task") == [
        "attentive",
        "detection",
        "fewshot_adapter",
        "finetune",
        "instance_segmentation",
        "robustness",
        "segmentation",
        "video",
    ]
    assert registry.names("probe") == [
        "caption_words",
        "fewshot",
        "knn",
        "linear",
        "multilabel",
        "retrieval",
        "zeroshot",
    ]
    for kind in ("task", "probe"):
        for name in registry.names(kind):
            module = registry.load(kind, name)
            assert module.NEEDS in COLUMNS
            assert isinstance(module.PIXELS, bool)
            assert module.METRICS


def test_a_run_is_probed_into_the_contracts_file(place):
    found = probed(place, "linear")
    written = json.loads((place / "out" / "metrics.json").read_text())
    assert written == json.loads(json.dumps(found))
    assert written["definition"] == {"task": {"module": "linear", "features": "digits"}, "run": {"seed": "s0"}}
    assert set(written) == {"definition", "libraries", "subjects"}
    top1, loss = (written["subjects"]["run"][name] for name in ("top1", "cross_entropy"))
    assert set(top1) == {"value", "standard_error", "higher_is_better", "headline"}
    assert (top1["headline"], top1["higher_is_better"]) == (True, True)
    assert (loss["headline"], loss["higher_is_better"]) == (False, False)
    record = json.loads((place / "provenance" / "out.json").read_text())
    assert set(record["inputs"]) == {"features", "train", "test"}


def test_shifted_pools_are_in_the_contracts_file(place):
    task = {"module": "robustness", "pool": "digits", "l2": [0.01], "shifted": ["sketches"]}
    card = json.loads((place / "examples/card.json").read_text())
    (place / "examples/card.json").write_text(
        json.dumps(card | {"shifted": {"sketches": {"images": 9, "classes": [1, 2]}}})
    )
    rows = digits(0, 120).rows
    few = np.flatnonzero(np.isin(rows["label"].to_numpy(), (1, 2)))[:9]
    pq.write_table(rows.take(few), place / "examples/shifted-sketches.parquet")
    pq.write_table(digits(1000, 60).rows, place / "examples/test.parquet")
    given = job(place, "robust", {"task": task, "run": {"seed": "s0"}}, "out")
    found = stage.evaluate_run("r", place / "run", dataclasses.replace(given, shifted={"sketches": {}}))
    measured = found["subjects"]["run"]
    assert measured["mce"]["headline"]
    assert (measured["top1_sketches"]["higher_is_better"], measured["gap_sketches"]["higher_is_better"]) == (
        True,
        False,
    )
    assert measured["top1_sketches"]["value"] in [pytest.approx(n / 9) for n in range(10)]
    record = json.loads((place / "provenance" / "out.json").read_text())
    assert set(record["inputs"]) == {"encoder", "train", "test", "shifted-sketches"}


def test_a_run_is_evaluated_into_the_contracts_file(place):
    definition = {
        "task": {"module": "finetune", "pool": "digits", "images_seen": 64, "batch_size": 32},
        "run": {"seed": "s0"},
    }
    found = stage.evaluate_run("r", place / "run", job(place, "tune", definition, "out"))
    assert set(found["subjects"]["run"]) == {"top1"}
    record = json.loads((place / "provenance" / "out.json").read_text())
    assert set(record["inputs"]) == {"encoder", "train", "test"}


def test_a_rerun_gives_the_same_bytes(place):
    probed(place, "linear", "a")
    first = {file.name: file.read_bytes() for file in (place / "features").iterdir()}
    probed(place, "linear", "b")
    assert (place / "a" / "metrics.json").read_bytes() == (place / "b" / "metrics.json").read_bytes()
    assert {file.name: file.read_bytes() for file in (place / "features").iterdir()} == first


def test_the_card_has_the_digest_of_every_array(place):
    extracted(place)
    arrays = json.loads((place / "features" / "card.json").read_text())["arrays"]
    files = {file.name for file in (place / "features").glob("*.npy")}
    assert set(arrays) == files == {f"run-{part}-{name}.npy" for part in ("train", "test") for name in ("mean", "cls")}
    for file, digest in arrays.items():
        numbers = np.load(place / "features" / file)
        assert (numbers.dtype, numbers.shape) == (np.float32, (120, 32))
        assert hashlib.sha256(numbers.tobytes()).hexdigest() == digest


def test_floors_are_the_untrained_encoder_and_pixels(place):
    definition = {"features": {"pool": "digits"}, "model": MODEL}
    state = torch.get_rng_state()
    extract_floor("m", job(place, "digits", definition, "floor"))
    assert torch.equal(torch.get_rng_state(), state)

    def probed_floor(output):
        definition = {"task": {"module": "knn", "features": "digits"}, "model": MODEL}
        return probe_floor("m", job(place, "knn", definition, output, "floor"))["subjects"]

    found = probed_floor("a")
    assert list(found) == ["untrained", "pixels"]
    assert probed_floor("b") == found
    task = {"module": "finetune", "pool": "digits", "images_seen": 64, "batch_size": 32}
    tuned = stage.evaluate_floor("m", job(place, "tune", {"task": task, "model": MODEL}, "c"))
    assert list(tuned["subjects"]) == ["untrained"]


def test_what_does_not_apply_is_said_and_is_no_error(place, monkeypatch):
    def refuse(features, config, context):
        raise NotApplicable("the run has no text tower.")

    monkeypatch.setattr(knn, "probe", refuse)
    found = probed(place, "knn")
    assert found["not_applicable"] == "the run has no text tower."
    assert json.loads((place / "out" / "metrics.json").read_text())["subjects"] == {}


def test_a_typo_in_the_options_is_a_sentence(place):
    with pytest.raises(UserError, match=r"tasks\.probe\.neighbours: unknown option; did you mean 'neighbors'"):
        probed(place, "knn", neighbours=3)
    with pytest.raises(UserError, match="no probe called 'liner'; did you mean 'linear'"):
        probed(place, "liner")
    with pytest.raises(UserError, match=r"features\.digits\.poolin: unknown option"):
        extracted(place, poolin="cls")


def test_a_missing_table_names_the_cure(place):
    (place / "examples" / "test.parquet").unlink()
    with pytest.raises(UserError, match=r"test\.parquet is missing; bring it up to date"):
        extracted(place)


def test_the_encoder_of_another_run_is_not_measured_once_more(place):
    (place / "run/metrics.json").write_text(json.dumps({"encoder_of": "mae-first"}))
    definition = {"task": {"module": "robustness", "pool": "digits"}, "run": {"seed": "s0"}}
    found = stage.evaluate_run("lit", place / "run", job(place, "robustness", definition, "evaluation"))
    assert found["subjects"] == {}
    assert "'mae-first'" in found["not_applicable"]
    assert json.loads((place / "evaluation/metrics.json").read_text()) == found
    assert (place / "provenance/evaluation.json").is_file()
