import numpy as np
import pytest
import torch
from fakes import context, digits, encoder

from mimcore.errors import UserError
from mimcore.evaluation.features import FeaturesConfig, Pixels, ahead, extract


def test_mean_features_are_timms_average_pooling(tmp_path):
    subject, images = encoder(), digits(0, 10)
    features = extract(subject, images, FeaturesConfig(pool="x", batch_size=4), context(tmp_path))
    pixels = torch.from_numpy(images.get(np.arange(10)))
    with torch.no_grad():
        tokens = subject.module.forward_features(subject.normalize(pixels))
        expected = subject.module.pool(tokens, pool_type="avg")
    torch.testing.assert_close(features, expected)


def test_cls_features_and_their_refusal(tmp_path):
    subject, images = encoder(), digits(0, 3)
    features = extract(subject, images, FeaturesConfig(pool="x", pooling="cls"), context(tmp_path))
    with torch.no_grad():
        tokens = subject.module.forward_features(subject.normalize(torch.from_numpy(images.get(np.arange(3)))))
    torch.testing.assert_close(features, tokens[:, 0])
    subject.module.cls_token = None
    with pytest.raises(UserError, match="class token"):
        extract(subject, images, FeaturesConfig(pool="x", pooling="cls"), context(tmp_path))


def test_bfloat16_features_are_close(tmp_path):
    parts = [
        extract(encoder(), digits(0, 8), FeaturesConfig(pool="x", precision=p), context(tmp_path))
        for p in ("float32", "bfloat16")
    ]
    assert parts[1].dtype == torch.float32
    torch.testing.assert_close(parts[0], parts[1], atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("side", "numbers"), [(16, 768), (64, 3072)])
def test_pixels_are_at_most_32_wide(tmp_path, side, numbers):
    features = extract(Pixels(side), digits(0, 2, side), FeaturesConfig(pool="x"), context(tmp_path))
    assert features.shape == (2, numbers)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_ahead_keeps_the_order_and_raises_where_it_happens(workers):
    assert list(ahead(lambda x: x * x, range(20), workers)) == [x * x for x in range(20)]
    values = ahead(lambda x: 6 // (3 - x), range(9), workers)
    assert [next(values) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(values)
