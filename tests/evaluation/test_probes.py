import numpy as np
import pytest
import torch
from fakes import context, digit_data, digits, encoder, frozen
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from mimcore.errors import UserError
from mimcore.evaluation import knn, linear, logistic
from mimcore.evaluation.features import Pixels
from mimcore.evaluation.task import Data, accuracy


def table(images, labels, features, classes=4, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(images, features)) + 2 * random.normal(size=(classes, features))[labels]
    return torch.tensor(x, dtype=torch.float32)


def test_nearest_neighbours_vote_as_scikit_learns(tmp_path):
    random = np.random.default_rng(0)
    labels, others = random.integers(0, 4, 300), random.integers(0, 4, 1500)
    train, test = table(300, labels, 6), table(1500, others, 6, seed=0)
    config = knn.Config(features="x", neighbors=7, temperature=0.5)
    ours = knn.vote(train, torch.tensor(labels), test, 4, config)
    peer = KNeighborsClassifier(7, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.5))
    assert (ours.numpy() == peer.fit(train.numpy(), labels).predict(test.numpy())).mean() > 0.999


def test_a_low_temperature_is_the_nearest_neighbour_alone():
    train, test = torch.randn(50, 5), torch.randn(20, 5)
    labels = torch.arange(50) % 3
    nearest = knn.vote(train, labels, test, 3, knn.Config(features="x", neighbors=1))
    torch.testing.assert_close(knn.vote(train, labels, test, 3, knn.Config(features="x", temperature=1e-4)), nearest)


def test_more_neighbours_than_images_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"tasks\.t\.neighbors"):
        knn.probe(frozen(Pixels(16), digit_data(10, 10), tmp_path), knn.Config(features="x"), context(tmp_path))


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-3])
def test_the_probe_is_scikit_learns_logistic_regression(l2):
    labels = np.random.default_rng(0).integers(0, 4, 400)
    x, _ = logistic.standardize(table(400, labels, 10), torch.zeros(1, 10))
    solution = logistic.fit(x, torch.tensor(labels), l2, torch.zeros(11, 4), 500)
    peer = LogisticRegression(C=1 / (l2 * 400), tol=1e-8, max_iter=2000).fit(x.double().numpy(), labels)
    expected = peer.predict_proba(x.double().numpy())
    np.testing.assert_allclose(logistic.logits(x, solution).softmax(1).numpy(), expected, atol=2e-3)


def test_the_penalty_is_strong_for_noise_and_weak_for_a_clean_rule():
    config = linear.Config(features="x")
    features = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    noise = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(1))
    assert logistic.choose(features, noise, 3, config, 0) == 1.0
    assert logistic.choose(features, features[:, :3].argmax(1), 3, config, 0) <= 1e-2


def test_standardising_leaves_constant_features_at_zero():
    train, test = logistic.standardize(torch.tensor([[1.0, 5], [3, 5]]), torch.tensor([[2.0, 9]]))
    assert train.tolist() == [[-1, 0], [1, 0]]
    assert test.tolist() == [[0, 0]]


def test_probes_are_good_on_digits_and_equal_bit_for_bit(tmp_path):
    data = digit_data(600, 300)
    for task, least in ((linear, 0.9), (knn, 0.9)):
        found = task.probe(frozen(Pixels(16), data, tmp_path), task.Config(features="x"), context(tmp_path))
        assert found["top1"].value > least
        config = task.Config(features="x")
        first, second = (task.probe(frozen(encoder(), data, tmp_path), config, context(tmp_path)) for _ in range(2))
        assert first == second
        assert first["top1"].value > 0.25  # even an untrained encoder is above chance


def test_standard_error_is_the_binomial_one():
    value = accuracy(torch.tensor([True] * 30 + [False] * 70))
    assert value.value == pytest.approx(0.3)
    assert value.standard_error == pytest.approx((0.3 * 0.7 / 100) ** 0.5)


def test_a_label_without_a_name_is_refused(tmp_path):
    data = Data(digits(0, 50), digits(1000, 50), classes=["zero", "one"])
    with pytest.raises(UserError, match="outside 0 to 1"):
        linear.probe(frozen(Pixels(16), data, tmp_path), linear.Config(features="x"), context(tmp_path))
