"""Whole runs of the objective ``feature``: a teacher that is another run, an average that is state, and what it all counts.

Processes that import torch are started: a minute."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small_run
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_run import FILES, Trained

from mimcore.data.loader import Images
from mimcore.launch import launch
from mimcore.models import encoder as encoders
from mimcore.models.objective import Given
from mimcore.plan.work import Counter, foreseen
from mimcore.training.flops import encoder_flops, trace
from mimcore.training.memory import activation_bytes
from mimcore.training.state import start_run
from mimcore.training.step import speed_up, train_step

CPU = torch.device("cpu")
DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
AVERAGE: dict[str, Any] = {
    "module": "feature",
    "teacher": {"kind": "average", "layers": 1, "decay_start": 0.9, "decay_end": 0.99, "decay_steps": 20},
    "loss": "smooth_l1",
    "keep_decoder": True,
    **DECODER,
}
OF_RUN: dict[str, Any] = {"module": "feature", "teacher": {"kind": "run"}, "target_normalization": "layer", **DECODER}
#: Timm's name of a teacher for images of 32 pixels, whose patches of 16 are as many at 64.
TIMM = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def declared(objective: dict[str, Any], **schedule: Any) -> dict[str, Any]:
    return small_run.definition(**schedule) | {"objective": objective}


def images(root: Path) -> torch.Tensor:
    rows = pq.read_table(root / "artifacts/subsets/n150-s0/manifest.parquet", partitioning=None)
    table = Images(small_run.POOL, rows, 32, root, 64, 3)
    return torch.from_numpy(table.get(torch.arange(16).numpy()))


def test_a_phase_learns_from_the_run_that_it_follows(root: Path, undisturbed: Trained) -> None:
    phase = declared(OF_RUN) | {"use": "teacher", "after": small_run.definition()}
    made = small_run.train(root, "phase", phase, undisturbed.folder)
    assert set(made.bytes()) == FILES
    losses = [p["loss"] for p in pq.read_table(made.folder / "curve.parquet").to_pylist() if p["split"] == "val"]
    assert losses[-1] < 0.9 * losses[0]
    state = load_file(made.folder / "encoder.safetensors")
    assert set(state) == set(load_file(undisturbed.folder / "encoder.safetensors"))


@pytest.mark.parametrize("style", ["mae", "simmim"])
def test_the_encoder_of_a_run_is_learned_from(root: Path, undisturbed: Trained, style: str) -> None:
    batch = images(root)
    run = start_run(declared(OF_RUN | {"style": style}), CPU, given=Given(teacher=undisturbed.folder))
    first = run.objective.target(run.encoder.normalize(batch))
    source = encoders.load(undisturbed.folder)
    with torch.no_grad():
        wanted = source.module.forward_features(source.normalize(batch))[:, 1:]
    torch.testing.assert_close(first, torch.nn.functional.layer_norm(wanted, [32]), atol=1e-4, rtol=1e-4)
    saved = {name for name in run.tensors()["objective"] if name.startswith("teacher.")}
    assert saved == set()
    losses = []
    for step in range(1, 41):
        before = run.loss_sum.clone()
        train_step(run, batch)
        run.objective.after_step(step, 40)
        losses.append(float(run.loss_sum - before))
    assert torch.equal(run.objective.target(run.encoder.normalize(batch)), first)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_an_average_that_was_killed_goes_on_bit_for_bit(root: Path) -> None:
    status, whole = small_run.train_in_child(root, "average", objective=AVERAGE)
    assert status == 0
    assert set(whole.bytes()) == FILES | {"objective.safetensors"}
    teacher = load_file(whole.folder / "objective.safetensors")
    encoder = load_file(whole.folder / "encoder.safetensors")
    assert {name.removeprefix("teacher.module.") for name in teacher if "teacher" in name} == set(encoder)
    weight = "blocks.0.mlp.fc1.weight"
    assert not torch.equal(teacher[f"teacher.module.{weight}"], encoder[weight])
    assert small_run.train_in_child(root, "killed-average", 13, 18, objective=AVERAGE)[0] == -signal.SIGKILL
    status, resumed = small_run.train_in_child(root, "killed-average", objective=AVERAGE)
    assert status == 0
    assert resumed.told[0] == 13 * 16
    assert resumed.bytes() == whole.bytes()


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_ranks_have_the_average_of_one(root: Path, parallel: str) -> None:
    script = Path(__file__).with_name("ranked_run.py")
    for name, ranks, how in (
        ("average-of-one", 1, {}),
        (f"average-{parallel}", 2, {"parallel": parallel, "micro_batch": 3}),
    ):
        options = json.dumps({"objective": AVERAGE, "execution": how})
        command = [sys.executable, str(script), str(root), name, options]
        assert (launch(command, 2, 0) if ranks == 2 else subprocess.run(command, check=False).returncode) == 0
    digests = [(root / f"average-{parallel}.state-{rank}").read_text() for rank in (0, 1)]
    assert (digests[0] == digests[1]) is (parallel == "ddp")  # with fsdp each has another part
    for file in ("encoder.safetensors", "objective.safetensors"):
        one, two = (
            load_file(root / f"artifacts/runs/{name}" / file) for name in ("average-of-one", f"average-{parallel}")
        )
        assert set(one) == set(two)
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=2e-3, atol=2e-4)


def test_an_average_starts_from_the_weights_that_the_model_continues_from(root: Path, undisturbed: Trained) -> None:
    digest = hashlib.sha256((undisturbed.folder / "encoder.safetensors").read_bytes()).hexdigest()
    model = small_run.MODEL | {"initial": {"path": str(undisturbed.folder), "sha256": digest}}
    run = start_run(declared(AVERAGE) | {"model": model}, CPU)
    state = run.objective.state_dict()
    for name, tensor in load_file(undisturbed.folder / "encoder.safetensors").items():
        assert torch.equal(state[f"teacher.module.{name}"], tensor), name


def test_targets_over_the_batch_refuse_its_parts() -> None:
    run = start_run(declared(AVERAGE | {"target_normalization": "batch"}), CPU)
    batch = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(Exception, match="needs the whole batch at once"):
        speed_up(run, small_run.execution(micro_batch=4), batch)


def test_a_teacher_is_counted_with_its_forward_pass_and_keeps_nothing_for_the_backward_one(tmp_path: Path) -> None:
    """On shapes alone, where no weights are read; and with them the same."""
    of_timm = {"kind": "timm", "architecture": TIMM, "pretrained": True, "image_size": 64}
    pixels, features = (
        trace(small_run.MODEL, {"module": "feature", "teacher": teacher, **DECODER})
        for teacher in ({"kind": "pixels"}, of_timm)
    )
    with torch.device("meta"):
        teacher = encoders.build(encoders.Config(architecture="vit_tiny_patch16_224", image_size=64, patch_size=16))
    assert features.encoder_params == pixels.encoder_params
    assert features.params == pixels.params  # 8 * 8 * 3 pixels are as many as the teacher is wide
    assert features.forward - pixels.forward == encoder_flops(teacher)
    assert features.training - pixels.training == encoder_flops(teacher)
    file = tmp_path / "teacher.safetensors"
    save_file({n: t.contiguous() for n, t in timm.create_model(TIMM, num_classes=0).state_dict().items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    of_file = {"kind": "timm", "architecture": TIMM, "weights": str(file), "sha256": digest, "image_size": 64}
    runs = [
        start_run(declared({"module": "feature", "teacher": teacher, **DECODER}), CPU)
        for teacher in ({"kind": "pixels"}, of_file)
    ]
    batch = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    kept = [activation_bytes(run, batch) for run in runs]
    assert kept[1] == pytest.approx(kept[0], rel=0.01)


@pytest.mark.parametrize("name", ["maskfeat", "data2vec", "eva"])
def test_the_recipes_of_the_page_are_options_that_go_together(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs/objectives.md").read_text(encoding="utf-8")
    (recipe,) = [yaml.safe_load(line) for line in page.splitlines() if line.startswith(f"      {name}:")]
    model = {"patch_size": 14 if name == "eva" else 16, "embed_dim": 32, "depth": 6, "num_heads": 2}
    cost = trace(model, recipe[name])
    assert cost.training > 2 * cost.forward > 0 if name == "maskfeat" else cost.training > cost.forward > 0


@pytest.mark.parametrize("teacher", [{"kind": "run"}, {"kind": "run", "image_size": 64}, AVERAGE["teacher"]])
def test_a_run_is_counted_before_its_teacher_is_made(teacher: dict[str, Any]) -> None:
    """The teacher is taken to be as the student; an average is."""
    objective = {"module": "feature", "teacher": teacher, "style": "simmim"}
    cost = trace(small_run.MODEL, objective)
    with torch.device("meta"):
        encoder = encoders.build(encoders.Config(**small_run.MODEL))
    larger = small_run.MODEL | {"depth": 3}
    if teacher == {"kind": "run"}:  # a phase whose teacher is another model
        after = {"model": small_run.MODEL, "objective": objective, "use": "teacher", "after": {"model": larger}}
        with torch.device("meta"):
            of_teacher = encoder_flops(encoders.build(encoders.Config(**larger)))
        assert Counter().cost(after).forward == cost.forward - encoder_flops(encoder) + of_teacher
        run = start_run(
            declared(objective) | {"use": "teacher", "after": {"model": larger}}, CPU, given=foreseen(after)
        )
        assert run.objective.target(torch.randn(2, 3, 32, 32)).shape == (2, 16, 32)
    hidden = 12  # of 16, at a ratio of 0.75
    assert cost.forward == 2 * encoder_flops(encoder) + 2 * hidden * 32 * 32
