from typing import Any

import numpy as np
import pytest
import torch
from fakes import context, digit_data, digits, encoder
from pydantic import ValidationError
from test_segmentation import swin

from mimcore.errors import UserError
from mimcore.evaluation import fewshot, fewshot_adapter
from mimcore.evaluation.fewshot_adapter import Adapted, Config
from mimcore.evaluation.frozen import Frozen, Split
from mimcore.evaluation.recipe import head_groups, train
from mimcore.evaluation.task import Data, NotApplicable

ADAPTERS = [{"adapter": "prompts"}, {"adapter": "lora", "rank": 4}]


def short(**options):
    plain = {"crop_scale": (1.0, 1.0), "mirror": False, "draws": 2, "base_learning_rate": 0.1}
    return Config(**({"pool": "x", "images_seen": 32, "batch_size": 32} | plain | options))


@pytest.mark.parametrize("options", ADAPTERS)
def test_only_the_adapter_and_the_classifier_are_trained(options, tmp_path):
    subject, config = encoder(), short(images_seen=128, **options)
    torch.manual_seed(0)
    model = Adapted(subject, 10, config).train()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    images = digits(0, 32)
    pixels, labels = torch.from_numpy(images.get(range(32))), torch.tensor(images.rows["label"].to_numpy())
    losses = lambda step: torch.nn.functional.cross_entropy(model(pixels), labels)  # noqa: E731
    train(head_groups(model.learned, config), 1e-2, losses, config, context(tmp_path))
    learned = {id(parameter) for parameter in model.learned}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in learned) == (not torch.equal(parameter, before[name])), name
        assert (parameter.grad is not None) == (id(parameter) in learned), name
        assert parameter.requires_grad == (id(parameter) in learned), name
    parts = {name.partition(".")[0] for name, parameter in model.named_parameters() if id(parameter) in learned}
    assert parts == {"module", "head"}


@pytest.mark.parametrize("options", ADAPTERS)
def test_the_encoder_is_left_as_it_was(options, tmp_path):
    subject = encoder()
    before = {name: tensor.clone() for name, tensor in subject.module.state_dict().items()}
    flags = [parameter.requires_grad for parameter in subject.module.parameters()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    fewshot_adapter.evaluate(subject, short(shots=(1,), **options), digit_data(60, 20), context(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    after = subject.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [parameter.requires_grad for parameter in subject.module.parameters()] == flags
    assert all(parameter.grad is None for parameter in subject.module.parameters())


def test_the_classifier_of_lora_starts_on_what_the_frozen_probe_sees(tmp_path):
    from fakes import frozen

    subject, images = encoder(), digits(0, 20)
    for pooling in ("mean", "cls"):
        model = Adapted(subject, 10, short(adapter="lora", pooling=pooling)).eval()
        with torch.no_grad():
            found = model.features(torch.from_numpy(images.get(range(20))))
        expected = frozen(subject, Data(images, images), tmp_path).train.arrays[pooling]
        np.testing.assert_array_equal(found.numpy(), expected)


def test_the_images_are_those_of_the_frozen_task(tmp_path, monkeypatch):
    """Of the probe they are read off its features, which number the images."""
    data, numbers = digit_data(200, 20), np.arange(200, dtype=np.float32)[:, None]
    frozen, real = [], fewshot.fit

    def fit(features, *others):
        frozen.append(set((features[:, 0] * numbers.std() + numbers.mean()).round().int().tolist()))
        return real(features, *others)

    monkeypatch.setattr(fewshot, "fit", fit)
    parts = (Split(data.train.rows, {"mean": numbers}), Split(data.test.rows, {"mean": numbers[:20]}))
    fewshot.probe(Frozen(*parts, data.classes), fewshot.Config(features="x", shots=(1, 5), draws=3), context(tmp_path))

    adapted, read = [], data.train.get
    monkeypatch.setattr(data.train, "get", lambda positions: adapted.append(positions.tolist()) or read(positions))
    config = short(shots=(1, 5), draws=3, images_seen=20, batch_size=10)
    fewshot_adapter.evaluate(encoder(), config, data, context(tmp_path, workers=0))
    steps = [2] * 3 + [10] * 3  # n shots take n times as long
    assert len(adapted) == sum(steps)
    ends = np.cumsum(steps)
    trained = [
        {at for batch in adapted[end - count : end] for at in batch} for end, count in zip(ends, steps, strict=True)
    ]
    assert trained == frozen
    assert [len(images) for images in trained] == [10] * 3 + [50] * 3


@pytest.mark.parametrize(("options", "least"), list(zip(ADAPTERS, (0.3, 0.35), strict=True)))
def test_more_shots_are_better(options, least, tmp_path):
    config = short(shots=(1, 10), images_seen=320, base_learning_rate=0.2, **options)
    found = fewshot_adapter.evaluate(encoder(), config, digit_data(400, 200), context(tmp_path))
    assert list(found) == ["top1_1", "top1_10"]
    assert found["top1_1"].value + 0.1 < found["top1_10"].value
    assert found["top1_10"].value > least  # of patches of untrained weights, 0.1 by chance
    assert all(value.standard_error > 0 for value in found.values())


@pytest.mark.parametrize("options", ADAPTERS)
def test_a_rerun_is_equal_bit_for_bit_whatever_reads_ahead(options, tmp_path, monkeypatch):
    scores: list[list[torch.Tensor]] = [[], []]
    config = short(shots=(5,), images_seen=64, crop_scale=(0.5, 1.0), mirror=True, **options)
    real = fewshot_adapter.top1
    for run, workers in enumerate((0, 2)):

        def top1(score, images, where, run=run):
            with torch.no_grad():
                scores[run].append(score(torch.from_numpy(images.get(range(20)))))
            return real(score, images, where)

        monkeypatch.setattr(fewshot_adapter, "top1", top1)
        fewshot_adapter.evaluate(encoder(), config, digit_data(100, 40), context(tmp_path, workers=workers))
    assert len(scores[0]) == 2
    assert all(torch.equal(a, b) for a, b in zip(*scores, strict=True))
    assert not torch.equal(*scores[0])


def test_prompts_are_not_for_a_swin_and_lora_is(tmp_path):
    subject, data = swin(), digit_data(40, 10, 64)
    sentence = (
        r"tasks\.t: prompts are for plain vision transformers, and this encoder is swinv2.*; 'adapter: lora' takes any"
    )
    with pytest.raises(NotApplicable, match=sentence):
        fewshot_adapter.evaluate(subject, short(shots=(1,)), data, context(tmp_path))
    lora: dict[str, Any] = {"adapter": "lora", "shots": (1,), "images_seen": 16, "batch_size": 8}
    assert 0 <= fewshot_adapter.evaluate(subject, short(**lora), data, context(tmp_path))["top1_1"].value <= 1
    with pytest.raises(UserError, match=r"tasks\.t\.pooling: the encoder has no class token; use 'mean'"):
        fewshot_adapter.evaluate(subject, short(**lora, pooling="cls"), data, context(tmp_path))


def test_impossible_options_are_refused(tmp_path):
    for options, message in [
        ({"adapter": "lora", "prompts": 3}, "prompts is an option of 'adapter: prompts', but adapter is 'lora'"),
        ({"rank": 3}, "rank is an option of 'adapter: lora'"),
        ({"shots": (3,)}, "each must be one of"),
        ({"layer_decay": 0.5}, "of encoders that are trained"),
        ({"crop_scale": (0.5, 0.2)}, "must rise"),
        ({"images_seen": 40}, "the nearest is 32"),
    ]:
        with pytest.raises(ValidationError, match=message):
            short(**options)
    with pytest.raises(
        UserError, match=r"tasks\.t\.shots: 10 images .* no class has more than \d; raise train_images of tasks\.t"
    ):
        fewshot_adapter.evaluate(encoder(), short(shots=(10,)), digit_data(40, 10), context(tmp_path))
