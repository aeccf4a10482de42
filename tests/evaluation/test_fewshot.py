import numpy as np
import pytest
import torch
from fakes import context, vectors
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from mimcore.errors import UserError
from mimcore.evaluation import fewshot
from mimcore.evaluation import shots as drawing
from mimcore.evaluation.frozen import Frozen


def features(train=200, test=100, classes=5):
    parts = []
    for seed, count in enumerate((train, test)):
        parts.append(vectors(count, np.random.default_rng(seed).integers(0, classes, count), seed))
    return Frozen(*parts)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 6), st.integers(0, 9))
def test_each_class_gives_as_many_as_it_has_up_to_the_shots(labels, shots, number):
    labels = np.array(labels)
    rows = drawing.draw(labels, shots, number)
    assert len(set(rows)) == len(rows)
    for label in np.unique(labels):
        assert (labels[rows] == label).sum() == min(shots, (labels == label).sum())
    assert set(drawing.draw(labels, max(1, shots - 1), number)) <= set(rows)


def test_draws_differ():
    labels = np.arange(200) % 5
    assert len({tuple(drawing.draw(labels, 5, number)) for number in range(5)}) == 5


def test_mean_and_error_are_of_scikit_learns_regressions(tmp_path):
    data = features()
    config = fewshot.Config(features="x", shots=(5,), l2=0.05)
    found = fewshot.probe(data, config, context(tmp_path))["top1_5"]
    x, z = (part.arrays["mean"].astype(float) for part in (data.train, data.test))
    mean, std = x.mean(0), x.std(0)
    y, truth = (np.array(part.rows["label"]) for part in (data.train, data.test))
    shares = []
    for number in range(5):
        rows = drawing.draw(y, 5, number)
        peer = LogisticRegression(C=1 / (0.05 * len(rows)), tol=1e-8, max_iter=2000)
        peer.fit(((x - mean) / std)[rows], y[rows])
        shares.append(peer.score((z - mean) / std, truth))
    assert found.value == pytest.approx(np.mean(shares), abs=0.005)
    assert found.standard_error == pytest.approx(np.std(shares, ddof=1) / 5**0.5, abs=0.003)


def test_more_shots_are_better_and_the_run_has_no_say_in_the_draws(tmp_path):
    config = fewshot.Config(features="x")
    found = fewshot.probe(features(), config, context(tmp_path))
    assert list(found) == ["top1_1", "top1_5", "top1_10"]
    assert found["top1_1"].value + 0.02 < found["top1_5"].value <= found["top1_10"].value + 0.02
    assert fewshot.probe(features(), config, context(tmp_path, seed=7)) == found


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"tasks\.t\.shots: 5 images of each class are asked for, and no class has more than"
    ):
        fewshot.probe(features(10), fewshot.Config(features="x", shots=(5, 10)), context(tmp_path))
    for shots in ((3,), (), (5, 5)):
        with pytest.raises(ValidationError, match="each must be one of 1, 2, 4, 5, 8, 10, 16"):
            fewshot.Config(features="x", shots=shots)


def test_the_global_generator_is_left_alone(tmp_path):
    state = torch.get_rng_state()
    fewshot.probe(features(), fewshot.Config(features="x", shots=(1,)), context(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
