import itertools
import math

import pytest
import small_run
import torch
from pydantic import ValidationError
from timm.scheduler import CosineLRScheduler

from mimcore.training.optimizer import set_learning_rate
from mimcore.training.schedule import Schedule
from mimcore.training.state import start_run


def test_defaults_are_maes_table_8() -> None:
    fields = Schedule.model_fields
    recipe = {
        "batch_size": 4096,
        "base_learning_rate": 1.5e-4,
        "weight_decay": 0.05,
        "betas": (0.9, 0.95),
        "crop_scale": (0.2, 1.0),
    }
    assert {name: fields[name].default for name in recipe} == recipe


def test_learning_rate_is_warmup_then_half_a_cosine() -> None:
    schedule = Schedule(
        images_seen=102400, batch_size=1024, warmup_images=10240, base_learning_rate=1e-3, min_learning_rate=1e-5
    )
    peak = 1e-3 * 1024 / 256
    assert schedule.learning_rate(0) == 0
    assert schedule.learning_rate(5) == pytest.approx(peak / 2)
    assert schedule.learning_rate(10) == pytest.approx(peak)
    assert schedule.learning_rate(55) == pytest.approx((peak + 1e-5) / 2)
    assert schedule.learning_rate(100) == pytest.approx(1e-5)
    quarter = 10 + 90 / 4
    assert schedule.learning_rate(32) > 1e-5 + (peak - 1e-5) * 0.5 * (1 + math.cos(math.pi * (quarter - 10) / 90))


def test_validation_points_are_equally_spaced_and_end_at_the_end() -> None:
    schedule = Schedule(images_seen=1000, batch_size=10, warmup_images=0, validations=4)
    assert schedule.validation_steps() == [0, 25, 50, 75, 100]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_seen": 1000, "batch_size": 256}, "nearest are 768 and 1024"),
        ({"images_seen": 512, "batch_size": 256, "warmup_images": 512}, "must be less than images_seen 512"),
        ({"images_seen": 512, "batch_size": 256, "validations": 3}, "more than the 2 steps"),
        ({"images_seen": 512, "batch_size": 256, "validations": 1, "crop_scale": (0.5, 1.5)}, "ascending"),
        ({"images_seen": 512, "batch_size": 256, "validations": 1, "learning_rate": 1}, "Extra inputs"),
    ],
)
def test_mistakes_are_refused_not_adjusted(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Schedule.model_validate({"warmup_images": 0} | options)


SIMMIM = {
    "images_seen": 800_000,
    "batch_size": 2000,
    "base_learning_rate": 1e-4,
    "learning_rate_batch": 512,
    "warmup_learning_rate": 2e-6,
    "warmup_images": 10_000,
    "decay": "multistep",
    "milestones": (700_000,),
    "validations": 4,
}
WSD = {
    "images_seen": 1000,
    "batch_size": 10,
    "base_learning_rate": 1.0,
    "learning_rate_batch": 10,
    "warmup_images": 100,
}


def test_multistep_is_torchs_after_the_warmup() -> None:
    schedule = Schedule.model_validate(SIMMIM | {"milestones": (300_000, 700_000), "gamma": 0.2})
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-4 * 2000 / 512)
    peer = torch.optim.lr_scheduler.MultiStepLR(optimizer, [150, 350], gamma=0.2)
    for step in range(schedule.steps):
        if step >= 5:
            assert schedule.learning_rate(step) == pytest.approx(peer.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        peer.step()
    assert [schedule.learning_rate(step) for step in (0, 5)] == pytest.approx([2e-6, 1e-4 * 2000 / 512])
    halfway = Schedule.model_validate(SIMMIM | {"warmup_images": 8000}).learning_rate(2)
    assert halfway == pytest.approx((2e-6 + 1e-4 * 2000 / 512) / 2)


def test_wsd_is_constant_and_then_falls_as_one_minus_the_root_of_progress() -> None:
    schedule = Schedule.model_validate(WSD | {"decay": "wsd", "decay_images": 400, "min_learning_rate": 0.1})
    rates = [schedule.learning_rate(step) for step in range(101)]
    assert rates[10:61] == [1.0] * 51
    assert rates[70] == pytest.approx(0.1 + 0.9 * 0.5)  # a quarter of the way: the root is a half
    assert rates[100] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[60:]))


def test_a_cosine_from_the_start_is_timms_without_a_warmup_prefix() -> None:
    """As SimMIM's released code builds it (its lr_scheduler.py, lines 26 to 35)."""
    options = {"cosine_from": "start", "warmup_learning_rate": 1e-3, "min_learning_rate": 1e-2}
    schedule = Schedule.model_validate(WSD | options)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = CosineLRScheduler(
        optimizer, t_initial=100, lr_min=1e-2, warmup_lr_init=1e-3, warmup_t=10, cycle_limit=1, t_in_epochs=False
    )
    for step in range(100):
        peer.step_update(step)
        assert schedule.learning_rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert schedule.learning_rate(10) < 0.98


def test_runs_of_two_lengths_have_the_same_rates_up_to_the_decay_of_the_shorter() -> None:
    short, long = (
        Schedule.model_validate(WSD | {"decay": "wsd", "images_seen": n, "decay_images": n // 5}) for n in (500, 1000)
    )
    assert [short.learning_rate(s) for s in range(41)] == [long.learning_rate(s) for s in range(41)]
    assert short.learning_rate(41) < long.learning_rate(41)


@pytest.mark.parametrize(("rule", "factor"), [("batch_linear", 16.0), ("batch_sqrt", 4.0)])
def test_the_rate_follows_the_batch_by_the_rule(rule: str, factor: float) -> None:
    options = {"images_seen": 81920, "batch_size": 4096, "warmup_images": 0, "learning_rate_rule": rule}
    assert Schedule.model_validate(options).learning_rate(0) == pytest.approx(1.5e-4 * factor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "wsd"}, "decay_images None must be a whole number of batches"),
        ({"decay": "wsd", "decay_images": 95}, "decay_images 95 must be a whole number of batches"),
        ({"decay": "wsd", "decay_images": 910}, "no more than the 900 images after the warmup"),
        ({"decay_images": 100}, "decay_images is an option of 'decay: wsd', but decay is 'cosine'"),
        ({"decay": "wsd", "decay_images": 100, "cosine_from": "start"}, "cosine_from is an option of 'decay: cosine'"),
        ({"gamma": 0.5}, "gamma is an option of 'decay: multistep'"),
        ({"decay": "multistep"}, "must ascend between warmup_images 100 and images_seen 1000"),
        ({"decay": "multistep", "milestones": (500, 400)}, "must ascend"),
        ({"decay": "multistep", "milestones": (50,)}, "must ascend"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Schedule.model_validate(WSD | options)


def test_the_rate_of_hidden_matrices_follows_the_width() -> None:
    declared = small_run.definition(learning_rate_width=8)
    run = start_run(declared, torch.device("cpu"))
    set_learning_rate(run.optimizer, 0.1)
    rate = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    hidden = {name for name, p in run.objective.named_parameters() if rate.get(id(p)) == pytest.approx(0.1 * 8 / 32)}
    assert hidden == {f"encoder.blocks.0.{part}.weight" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert {rate[id(p)] for name, p in run.objective.named_parameters() if p.requires_grad and name not in hidden} == {
        0.1
    }
