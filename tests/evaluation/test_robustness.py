import re

import numpy as np
import pytest
import torch
from fakes import context, digit_data, encoder, frozen

from mimcore.definition import problems
from mimcore.errors import UserError
from mimcore.evaluation import finetune, robustness
from mimcore.evaluation.corruptions import NAMES
from mimcore.evaluation.features import Pixels
from mimcore.evaluation.logistic import logits, standardize
from mimcore.evaluation.robustness import ALEXNET, Config, corruption_error

#: Corruption errors of ResNet-50, percent, in the order of the corruptions (Hendrycks & Dietterich 2019, table 1; mCE 76.7).
RESNET50 = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]


def test_the_mean_is_that_of_the_papers_table() -> None:
    errors = {name: ce / 100 * ALEXNET[name] for name, ce in zip(NAMES, RESNET50, strict=True)}
    assert 100 * corruption_error(errors, ALEXNET) == pytest.approx(76.7, abs=0.5)  # of rounded numbers
    assert corruption_error(ALEXNET, ALEXNET) == 1
    # Not the ratio of the means: each corruption counts alike.
    assert corruption_error({"a": 0.1, "b": 0.9}, {"a": 0.2, "b": 0.3}) == pytest.approx((0.5 + 3) / 2)


def test_pixels_are_their_own_reference_and_errors_add_up(tmp_path) -> None:
    data = digit_data(300, 70)
    config = Config(pool="x", l2=[0.01])
    found = robustness.evaluate(Pixels(16), config, data, context(tmp_path))
    assert set(found) == set(robustness.METRICS)
    assert found["mce"].value == pytest.approx(1)
    kinds = np.mean([found[f"error_{name}"].value for name in NAMES])
    severities = np.mean([found[f"severity_{s}"].value for s in range(1, 6)])
    assert found["corrupted_error"].value == pytest.approx(kinds) == pytest.approx(severities)
    assert found["clean_error"].value < found["severity_1"].value < found["severity_5"].value
    assert 0 < found["corrupted_error"].standard_error < 0.1


def test_an_encoder_is_measured_by_the_pixels_of_the_same_images(tmp_path) -> None:
    data, config = digit_data(300, 70), Config(pool="x", l2=[0.01])
    first, pixels = (robustness.evaluate(one, config, data, context(tmp_path)) for one in (encoder(), Pixels(16)))
    again = robustness.evaluate(encoder(), config, data, context(tmp_path, workers=0))
    assert again == first
    expected = np.mean([first[f"error_{name}"].value / pixels[f"error_{name}"].value for name in NAMES])
    assert first["mce"].value == pytest.approx(expected)


def test_the_probe_standardises_test_images_as_training_images(tmp_path) -> None:
    data = digit_data(300, 50)
    probe = robustness.Probe(encoder(), data, 10, Config(pool="x", l2=[0.01]), context(tmp_path))
    features = frozen(encoder(), data, tmp_path)
    _, test = standardize(*(torch.tensor(part.arrays["mean"]) for part in (features.train, features.test)))
    expected = logits(test, probe.solution).argmax(1)
    found = probe.scores(torch.from_numpy(data.test.get(np.arange(50)))).argmax(1)
    assert float((found == expected).float().mean()) > 0.97  # another order of the same sums


def test_what_cannot_be_asked_is_refused(tmp_path) -> None:
    data = digit_data(20, 10)
    with pytest.raises(
        UserError, match=r"tasks\.t\.reference: 'alexnet' is a table of errors on ImageNet, .* 10 classes"
    ):
        robustness.evaluate(encoder(), Config(pool="x", reference="alexnet"), data, context(tmp_path))
    with pytest.raises(UserError, match="three channels"):
        robustness.evaluate(Pixels(16, 1), Config(pool="x"), data, context(tmp_path))


def test_the_fine_tuned_model_answers_in_the_place_of_the_probe(tmp_path) -> None:
    """Its clean error is that of the task finetune, for the same images and options; raw pixels keep their probe."""
    block = {"images_seen": 128, "batch_size": 32, "augmentation": "none", "base_learning_rate": 1e-2}
    data = digit_data(64, 20)
    images = {"pool": "x", "train_images": 64, "test_images": 20}
    config = Config(**images, l2=[0.01], head="finetune", finetune=block)
    assert config.finetune == finetune.Config(**images, **block)
    found = robustness.evaluate(encoder(), config, data, context(tmp_path))
    alone = finetune.evaluate(encoder(), config.finetune, data, context(tmp_path))
    assert found["clean_error"].value == pytest.approx(1 - alone["top1"].value)
    pixels, probed = (
        robustness.evaluate(Pixels(16), one, data, context(tmp_path)) for one in (config, Config(**images, l2=[0.01]))
    )
    assert pixels == probed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"head": "finetune"}, "head 'finetune' and a block 'finetune' .* go together"),
        ({"finetune": {"images_seen": 1024}}, "head 'finetune' and a block 'finetune' .* go together"),
        (
            {"head": "finetune", "finetune": {"images_seen": 1024, "pool": "y"}},
            r"finetune\.pool: .* images of the task",
        ),
        ({"head": "finetune", "finetune": {"images_seen": 1000}}, r"t\.finetune: images_seen 1000 is no multiple"),
        ({"head": "finetune", "finetune": {"images_seen": 1024, "mixupp": 1}}, r"t\.finetune\.mixupp: unknown option"),
        ({"shifted": ["a", "a"]}, "shifted names a pool twice"),
        ({"shifted": ["sketch"], "shifted_images": {"sketsh": 5}}, r"shifted_images\.sketsh: .* did you mean 'sketch'"),
        ({"shifted": ["a"], "shifted_images": {"a": 0}}, r"t\.shifted_images\.a: input should be greater"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, sentence) -> None:
    (found,) = problems(Config, {"pool": "x"} | options, "tasks.t")
    assert re.search(sentence, found)
