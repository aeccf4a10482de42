"""The step: parts of a batch add up to the whole, memory that runs out, gradients that are not finite, clipping, compiling."""

import copy
from pathlib import Path
from typing import Any

import pytest
import small_run
import torch
from timm.models.vision_transformer import Attention
from torch.profiler import ProfilerActivity, profile

from mimcore.errors import UserError
from mimcore.training import step as stage
from mimcore.training.memory import activation_bytes
from mimcore.training.state import Run, start_run
from mimcore.training.step import speed_up, train_step

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def prepared(schedule: dict[str, Any] | None = None, **options: Any) -> Run:
    run = start_run(small_run.definition(**schedule or {}), CPU)
    speed_up(run, small_run.execution(**options), IMAGES[:2])
    return run


def stepped(run: Run, steps: int = 3) -> Run:
    for _ in range(steps):
        train_step(run, IMAGES)
    return run


def weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.objective.parameters()])


def close(one: Run, other: Run) -> bool:
    return torch.allclose(weights(one), weights(other), rtol=1e-4, atol=1e-5) and torch.allclose(
        one.loss_sum, other.loss_sum, rtol=1e-5
    )


@pytest.mark.parametrize("options", [{"micro_batch": 5}, {"micro_batch": 1}, {"activation_checkpointing": True}])
def test_what_changes_only_the_speed_changes_the_result_by_rounding(options: dict[str, Any]) -> None:
    assert close(stepped(prepared()), stepped(prepared(**options)))


def test_checkpointed_activations_take_less_memory() -> None:
    run = prepared()
    kept = activation_bytes(run, IMAGES[:2])
    stage.checkpoint_blocks(run.objective)
    assert activation_bytes(run, IMAGES[:2]) < kept / 2


def test_a_trial_of_the_memory_leaves_none_of_it_behind() -> None:
    run = start_run(small_run.definition(), CPU)
    assert any(isinstance(part, Attention) for part in run.objective.modules())  # whose softmax keeps its own output
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = activation_bytes(run, IMAGES[:2])
    changes = [event.self_cpu_memory_usage for event in seen.key_averages()]
    assert sum(change for change in changes if change > 0) > 2 * kept
    assert sum(changes) == 0


def test_memory_that_runs_out_halves_the_micro_batch_and_the_step_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared()
    forward, seen = run.objective.forward, []

    def room_for_six(images: torch.Tensor, drawn: torch.Tensor) -> Any:
        seen.append(len(images))
        if len(images) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(images, drawn)

    monkeypatch.setattr(run.objective, "forward", room_for_six)
    assert close(stepped(run), stepped(prepared()))
    assert seen == [16, 8] + 3 * [4, 4, 4, 4]


def test_memory_too_small_for_one_image_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared()

    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run.objective, "forward", never)
    with pytest.raises(UserError, match="too little memory for 1 images"):
        train_step(run, IMAGES)


def test_the_micro_batch_follows_from_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    each = activation_bytes(prepared(), IMAGES[:2])
    weights_and_moments = 16 * len(weights(prepared()))
    monkeypatch.setattr("mimcore.training.memory.machine_memory", lambda: weights_and_moments + int(5 * each / 0.6))
    assert prepared().micro_batch == 4


def test_an_objective_that_needs_the_whole_batch_refuses_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_run(small_run.definition(), CPU)
    monkeypatch.setattr(type(run.objective), "whole_batch", True)
    with pytest.raises(UserError, match=r"execution.micro_batch: 4 is less than the batch of 16"):
        speed_up(run, small_run.execution(micro_batch=4), IMAGES[:2])


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    run, twin = stepped(prepared(), 2), stepped(prepared(), 2)
    augmented = stage.augmented
    monkeypatch.setattr(stage, "augmented", lambda *a: augmented(*a) * float("nan"))
    before = weights(run), copy.deepcopy(run.optimizer.state_dict()), run.loss_sum.clone()
    stepped(run, 2)
    assert torch.equal(weights(run), before[0])
    for key, state in run.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(value, before[1]["state"][key][name]), name
    assert (int(run.skipped), int(run.skipped_in_a_row), run.loss_sum) == (2, 2, before[2])
    monkeypatch.undo()
    twin.step = run.step  # the same images and masks as after the two lost steps
    assert torch.equal(weights(stepped(run, 1)), weights(stepped(twin, 1)))
    assert (int(run.skipped), int(run.skipped_in_a_row)) == (2, 0)


def test_clipping_is_that_of_torch() -> None:
    """AdamW alone does not depend on the gradient's scale; its epsilon and its moments do."""
    run, other = prepared({"clip_grad": 0.01}), prepared()
    update = other.optimizer.step

    def clipped(*_: Any) -> None:
        torch.nn.utils.clip_grad_norm_(other.objective.parameters(), 0.01)
        update()

    other.optimizer.step = clipped  # type: ignore[method-assign]
    assert close(stepped(run), stepped(other))
    states = [r.optimizer.state_dict()["state"][0]["exp_avg"] for r in (run, other)]
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-8)
    assert float(run.gradient_norm) > 0.01


def test_a_compiler_that_is_missing_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (str(tmp_path / "none"),))
    with pytest.raises(UserError, match=r"execution.compile: 'default' needs a C\+\+ compiler"):
        prepared(compile="default")
