import math

import pytest
from pydantic import ValidationError

from mimcore.training.schedule import Schedule


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
