import itertools
import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from botocore.retries.standard import ExponentialBackoff, RetryContext
from fakes import context, digit_data, encoder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from timm.data.transforms_factory import transforms_imagenet_train

from mimcore.errors import UserError
from mimcore.evaluation import finetune
from mimcore.evaluation.finetune import Config
from mimcore.evaluation.randaugment import RandAugment, erase
from mimcore.evaluation.recipe import encoder_groups, order, rate, train
from mimcore.evaluation.task import seed_number, seeded
from mimcore.models.encoder import IMAGENET_MEAN


def short(**options):
    return Config(**({"pool": "x", "images_seen": 640, "batch_size": 32} | options))


def test_it_learns_digits(tmp_path):
    plain = {"augmentation": "none", "mixup": 0, "cutmix": 0, "base_learning_rate": 0.02, "layer_decay": 1.0}
    config = short(images_seen=6400, **plain)
    assert finetune.evaluate(encoder(), config, digit_data(), context(tmp_path))["top1"].value > 0.6


def test_a_rerun_is_equal_and_the_encoder_and_the_global_generators_are_left_alone(tmp_path):
    gentle = {"crop_scale": (0.8, 1.0), "mirror": False, "base_learning_rate": 0.02, "layer_decay": 1.0}
    subject, config = encoder(), short(images_seen=3200, **gentle)
    before = {k: v.clone() for k, v in subject.module.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = finetune.evaluate(subject, config, digit_data(100, 300), context(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    np.random.seed(99)  # noqa: NPY002
    second = finetune.evaluate(subject, config, digit_data(100, 300), context(tmp_path, workers=0))
    assert first == second
    assert all(torch.equal(before[k], v) for k, v in subject.module.state_dict().items())
    assert finetune.evaluate(subject, config, digit_data(100, 300), context(tmp_path, seed=1)) != first


def test_rand_augment_is_timms(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    ours = RandAugment("rand-m9-mstd0.5-inc1", 32, IMAGENET_MEAN)(images, seed=11)
    # What timm's own training pipeline makes of the same images and generators (timm.data.transforms_factory).
    pipeline = transforms_imagenet_train(32, scale=(1, 1), hflip=0, auto_augment="rand-m9-mstd0.5-inc1", separate=True)[
        1
    ]
    random.seed(11)
    np.random.seed(11)  # noqa: NPY002
    theirs = [np.asarray(pipeline(Image.fromarray(image.transpose(1, 2, 0)))).transpose(2, 0, 1) for image in images]
    assert np.array_equal(ours, np.stack(theirs))
    assert not np.array_equal(ours, images)


def test_augmentation_and_the_waits_before_requests_know_nothing_of_each_other():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    augment, end = RandAugment("rand-m9-mstd0.5-inc1", 32, IMAGENET_MEAN), threading.Event()
    wait = ExponentialBackoff().delay_amount  # with jitter, as botocore sleeps between attempts

    def retries():
        return [wait(RetryContext(attempt_number=1)) for _ in iter(end.is_set, True)]

    alone = [augment(images, seed) for seed in range(8)]
    with ThreadPoolExecutor(1) as pool:
        random.seed(5)
        waits = pool.submit(retries)
        beside = [augment(images, seed) for seed in range(8)]
        end.set()
    assert np.array_equal(alone, beside)
    random.seed(5)
    assert waits.result() == [wait(RetryContext(attempt_number=1)) for _ in waits.result()]
    assert len(set(waits.result())) > 8


def test_erasing_takes_one_rectangle_of_the_share_that_was_asked_for():
    images = torch.zeros(400, 3, 16, 16)
    torch.manual_seed(0)
    erased = erase(images.clone(), 0.25, seed=3)
    changed = (erased != 0).any(dim=1)
    touched = changed.flatten(1).any(dim=1)
    assert touched.double().mean() == pytest.approx(0.25, abs=0.065)  # three standard errors
    for mask in changed[touched]:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    assert torch.equal(erase(images.clone(), 0.0, seed=3), images)


def test_augmentation_is_of_the_seed_and_the_step_alone_whatever_draws_beside_it():
    config, images = short(), np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    subject = encoder()

    def augmented(step, seed=0):
        augment = finetune.Augment(subject, config, seed)
        return augment.before(images, step)

    expected = [augmented(step) for step in range(8)]
    with ThreadPoolExecutor(4) as threads:
        assert all(torch.equal(a, b) for a, b in zip(threads.map(augmented, range(8)), expected, strict=True))
    assert not torch.equal(expected[0], expected[1])
    assert not torch.equal(expected[0], augmented(0, seed=1))


def test_the_encoder_keeps_its_weights_under_the_new_head():
    subject = encoder()
    tuned = subject.fresh(num_classes=10, global_pool="avg").module
    state = tuned.state_dict()
    for name, tensor in subject.module.state_dict().items():
        if not name.startswith("norm."):
            assert torch.equal(tensor, state[name]), name
    assert {name for name in state if name not in subject.module.state_dict()} == {
        "fc_norm.weight",
        "fc_norm.bias",
        "head.weight",
        "head.bias",
    }


def test_layers_decay_as_in_mae():
    # The released code: layer_decay ** (depth + 1 - layer); the stem is layer 0, block i is i + 1, the head the last.
    model = encoder(depth=3).fresh(num_classes=5, global_pool="avg").module
    scales = {id(p): g["lr_scale"] for g in encoder_groups(model, short()) for p in g["params"]}
    decays = {id(p): g["weight_decay"] for g in encoder_groups(model, short()) for p in g["params"]}
    for name, parameter in model.named_parameters():
        layer = 0
        if name.startswith("blocks."):
            layer = int(name.split(".")[1]) + 1
        elif name.startswith(("head", "fc_norm")):
            layer = 4
        assert scales[id(parameter)] == pytest.approx(0.75 ** (4 - layer)), name
        plain = parameter.ndim <= 1 or name in ("pos_embed", "cls_token")
        assert decays[id(parameter)] == (0 if plain else 0.05), name


def test_the_schedule_rises_and_falls():
    config = short(images_seen=3200, warmup_fraction=0.1, warmup_learning_rate=0.1, min_learning_rate=0.2)
    rates = [rate(step, 1.0, config) for step in range(100)]
    assert rates[:3] == pytest.approx([0.19, 0.28, 0.37])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    from_start = rate(25, 1.0, short(images_seen=3200, warmup_fraction=0.1, cosine_from="start", min_learning_rate=0))
    assert from_start == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("clip_grad", [None, 5.0])
def test_gradients_are_clipped_before_the_update(tmp_path, clip_grad):
    parameter = torch.nn.Parameter(torch.zeros(2))
    train(
        [{"params": [parameter], "lr_scale": 1.0}],
        1e-3,
        lambda step: (parameter * torch.tensor([30.0, 40.0])).sum(),
        short(images_seen=32, clip_grad=clip_grad),
        context(tmp_path),
    )
    given = parameter.grad
    expected = torch.tensor([30.0, 40.0]) * (1 if clip_grad is None else clip_grad / 50)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=0)


@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 10))
def test_every_image_comes_once_before_any_comes_again(images, batch_size, steps):
    seen = np.concatenate(list(order(images, batch_size, steps, 3)))
    assert len(seen) == batch_size * steps
    for start in range(0, len(seen), images):
        part = seen[start : start + images]
        assert len(set(part.tolist())) == len(part)


def test_a_loss_that_is_not_finite_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"tasks\.t: the loss is not finite after \d+ of 640 images; lower"):
        finetune.evaluate(encoder(), short(base_learning_rate=1e30), digit_data(64, 32), context(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"images_seen": 100}, "the nearest is 96"), ({"batch_size": 5}, "even"), ({"crop_scale": (0.5, 0.2)}, "rise")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        short(**options)


def test_seeds_differ_by_text_and_are_put_back():
    assert seed_number("s0") != seed_number("s1") != seed_number("s", "1")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    with seeded(7, torch.device("cpu")):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(1), expected)
    with seeded(7, torch.device("cpu")):
        assert torch.equal(torch.rand(3), inside)
