"""Times of a few steps on this machine: that they add up as stages do, and are taken once."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from mimcore.cli.plan import _stages
from mimcore.execution import Execution
from mimcore.plan.noise import vectors
from mimcore.plan.probe import Probe
from mimcore.plan.starts import FILLER, FILLER_LINES, LOADS, _a_stage, _lock, dvc_seconds, lock_lines, start_seconds
from mimcore.plan.work import Counted, Counter, Stage, fixed_images
from mimcore.study import Study
from mimcore.training.flops import trace
from mimcore.training.schedule import Schedule

ROOT = Path(__file__).resolve().parents[2]
MODEL = {
    "architecture": "vit_tiny_patch16_224",
    "image_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
}
OBJECTIVE = {"module": "mae", "decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
SCHEDULE = {
    "images_seen": 640,
    "batch_size": 16,
    "warmup_images": 64,
    "precision": "float32",
    "validations": 4,
    "validation_images": 32,
}
RUN = {"objective": OBJECTIVE, "model": MODEL, "schedule": SCHEDULE}
FEATURES = {"pool": "p"}
LINEAR = {"module": "linear", "features": "f", "l2": [0.01]}
DETECTION = {
    "module": "detection", "pool": "p", "head": "fcos", "image_size": 32, "width": 32, "scales": ["2"], "convolutions": 1,
    "images_seen": 400, "batch_size": 4,
}  # fmt: skip


def stages():
    yield Stage("pretrain", "r", (), RUN, (20,))
    for verb, definition in (
        ("features", {"features": FEATURES}),
        ("probe", {"task": LINEAR, "features": FEATURES}),
        ("evaluate", {"task": DETECTION}),
    ):
        floor = "floor" if verb == "evaluate" else f"{verb}-floor"
        yield Stage(verb, f"{verb}@r", ("r",), {**definition, "run": RUN}, (100, 50))
        yield Stage(floor, f"{floor}@m", (), {**definition, "model": MODEL}, (100, 50))


@pytest.fixture(scope="module")
def probed(monkeypatch_module: pytest.MonkeyPatch) -> Probe:
    monkeypatch_module.setattr("mimcore.plan.probe.SECONDS", 0.05)
    monkeypatch_module.setattr("mimcore.plan.probe.start_seconds", lambda loads: 2.0)
    monkeypatch_module.setattr("mimcore.plan.probe.dvc_seconds", lambda: {"stage": 0.3, "line": 0.0001})
    probe = Probe(torch.device("cpu"), {}, Execution(workers=0), lock_lines=2000)
    probe.run(list(stages()), lambda *told: None)
    return probe


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_a_run_counts_its_steps_and_its_validations() -> None:
    counted, cost = Counter()(next(stages())), trace(MODEL, OBJECTIVE)
    schedule = Schedule.model_validate(SCHEDULE)
    assert fixed_images(schedule, 20) == 5 * (32 + 20)
    assert counted.images == 640 + 260
    assert counted.flops == cost.training * 640 + cost.forward * 260
    assert counted.stored_bytes == 4 * cost.encoder_params


def test_a_locked_encoder_is_not_measured_once_more() -> None:
    lit = {"module": "clip", "freeze_image": True, "text_width": 16, "text_depth": 1, "text_num_heads": 2}
    for objective, counts in ((lit, False), ({**lit, "freeze_image": False}, True)):
        phase = {**RUN, "objective": objective, "use": "weights", "after": RUN}
        stage = Stage("evaluate", "e", (), {"task": DETECTION, "run": phase}, (100, 50))
        assert bool(Counter()(stage).images) is counts


def test_a_task_that_trains_counts_three_times_forward() -> None:
    _, features, _, probe, _, tune, floor = (Counter()(stage) for stage in stages())
    assert features.images == 150
    assert tune.images == 450
    assert tune.flops / features.flops == pytest.approx((3 * 400 + 50) / 150)
    assert floor == tune
    assert probe == Counted()


def test_corruptions_and_shifted_images_count() -> None:
    """A test image is seen clean and under 15 corruptions in 5 severities; one of a shifted pool once."""
    options = {"module": "robustness", "pool": "p", "shifted": ["q"]}
    stage = Stage("evaluate", "r", (), {"task": options, "run": RUN}, (100, 50, 30))
    probed = Counter()(stage)
    assert probed.images == 100 + 76 * 50 + 30
    tuning = {"head": "finetune", "finetune": {"images_seen": 400, "batch_size": 4, "precision": "bfloat16"}}
    stage = Stage("evaluate", "r", (), {"task": options | tuning, "run": RUN}, (100, 50, 30))
    tuned = Counter()(stage)
    assert tuned.images == 400 + 76 * 50 + 30
    assert tuned.flops / probed.flops == pytest.approx((3 * 400 + 76 * 50 + 30) / (100 + 76 * 50 + 30))
    assert tuned.precision == "bfloat16"


def test_few_shots_are_trained_and_tested_once_for_each_draw() -> None:
    options = {
        "module": "fewshot_adapter",
        "pool": "p",
        "images_seen": 400,
        "batch_size": 4,
        "shots": [1, 10],
        "draws": 3,
    }
    _, features, *_ = (Counter()(stage) for stage in stages())
    found = Counter()(Stage("evaluate", "few@r", ("r",), {"task": options, "run": RUN}, (100, 50)))
    assert found.images == 400 * (1 + 10) * 3 + 50 * 2 * 3
    assert found.flops / features.flops == pytest.approx((3 * 400 * 33 + 300) / 150)


def test_features_keep_the_mean_and_the_class_token_of_each_image() -> None:
    _, features, *_ = (Counter()(stage) for stage in stages())
    assert features.stored_bytes == 150 * 2 * 32 * 4


def test_a_stage_is_its_start_and_its_steps(probed: Probe) -> None:
    run = next(stages())
    found = probed.seconds(run)
    longer = Stage("pretrain", "r", (), RUN | {"schedule": SCHEDULE}, (32,))
    assert found is not None
    assert found > 2.5
    fixed = probed.seconds(longer)
    assert fixed is not None
    assert fixed > found  # twelve more fixed images, five times
    for stage in stages():
        assert (probed.seconds(stage) or 0) >= 2.5


def test_nothing_is_timed_twice(probed: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    again = Probe(torch.device("cpu"), probed.times, Execution(workers=0), lock_lines=2000)
    monkeypatch.setattr(Probe, "_run", None)
    monkeypatch.setattr(Probe, "_task", None)
    again.run(list(stages()), lambda *told: None)
    assert again.seconds(next(stages())) == probed.seconds(next(stages()))


def test_what_was_not_timed_has_no_time(probed: Probe) -> None:
    assert Probe(torch.device("cpu"), {}, Execution(workers=0), lock_lines=2000).seconds(next(stages())) is None
    other = Stage("pretrain", "r", (), RUN | {"schedule": SCHEDULE | {"batch_size": 32}}, (20,))
    assert probed.seconds(other) is None


def test_every_verb_of_a_study_is_timed_by_what_it_loads() -> None:
    verbs = {stage.verb for stage in _stages(Study.read(ROOT / "studies" / "quick.yaml"))}
    assert verbs == set(LOADS)
    for loads in LOADS.values():
        assert all(find_spec(module) for module in loads.split(", ")), loads


def test_the_start_of_a_process_is_its_imports() -> None:
    assert start_seconds(LOADS["collect"]) > 0.01  # no Python starts sooner


def test_dvc_is_timed_without_and_with_other_stages_in_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {0: 0.25, FILLER: 0.25 + 0.5}
    monkeypatch.setattr("mimcore.plan.starts._a_stage", seconds.__getitem__)
    found = dvc_seconds()
    assert found["stage"] == 0.25
    assert found["line"] * FILLER * FILLER_LINES == pytest.approx(0.5)
    text = _lock(FILLER)
    assert len(text.splitlines()) == 2 + FILLER * FILLER_LINES


def test_dvc_takes_the_scratch_pipelines() -> None:
    """It refuses what it cannot read by an exit status, which is an error here; how long it takes is for ``benchmarks/plan.py``."""
    assert all(_a_stage(filler) >= 0 for filler in (0, FILLER))


def test_a_stage_meets_the_lock_and_half_of_what_comes_to_it(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    assert lock_lines(["a", "b"], lock) == FILLER_LINES
    lock.write_text("schema: '2.0'\nstages:\n  a@x:\n    cmd: true\n    deps:\n    - path: y\n  b@x:\n    cmd: true\n")
    assert lock_lines(["a@x", "b@x"], lock) == 8
    assert lock_lines(["a@x", "c", "d"], lock) == 8 + 4 * 2 / 2


def test_dvc_pays_for_its_lock(probed: Probe) -> None:
    longer = Probe(torch.device("cpu"), probed.times, Execution(workers=0), lock_lines=12_000)
    found = [probe.seconds(next(stages())) or 0.0 for probe in (probed, longer)]
    assert found[1] - found[0] == pytest.approx(1.0)


def test_features_of_noise_are_as_hard_as_those_of_images() -> None:
    """Their spectrum falls with the square of the frequency, as that of natural images does (Field 1987)."""
    power = np.abs(np.fft.rfft(vectors(400, 1, 1024).train.arrays["mean"], axis=1)[:, 4:64]) ** 2
    slope = np.polyfit(np.log(np.arange(4, 64)), np.log(power.mean(axis=0)), 1)[0]
    assert slope == pytest.approx(-2, abs=0.1)
