import numpy as np
import pyarrow as pa
import pytest
from fakes import context, vectors
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from mimcore.errors import UserError
from mimcore.evaluation import multilabel
from mimcore.evaluation.frozen import Frozen

TAGS = ["red", "round", "small"]


def split(count, seed, width=6):
    """Images with several of three tags, each of which shows in the features, with noise."""
    random = np.random.default_rng(seed)
    true = random.random((count, len(TAGS))) < [0.5, 0.3, 0.2]
    tags = [[TAGS[c] for c in np.flatnonzero(row)] for row in true]
    classes = [[int(c) for c in np.flatnonzero(row)] for row in true]
    columns = {"tags": pa.array(tags, pa.list_(pa.string())), "box_labels": pa.array(classes, pa.list_(pa.int32()))}
    found = vectors(count, np.zeros(count, int), seed, width, columns)
    found.arrays["mean"][:, : len(TAGS)] += 1.5 * true
    return found, true


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40))
def test_average_precision_is_scikit_learns_ties_and_weights_and_all(rows):
    scores, hits, weights = (np.array(column) for column in zip(*rows, strict=True))
    (found,) = multilabel.average_precision(scores.astype(float), hits.astype(bool), weights[None])
    if not (hits * weights).sum():
        assert np.isnan(found)
        return
    assert found == pytest.approx(average_precision_score(hits, scores, sample_weight=weights))


def test_the_probe_is_one_regression_against_the_rest_for_each_tag(tmp_path):
    (train, true), (test, truth) = split(300, 0), split(150, 1)
    config = multilabel.Config(features="x", l2=[0.02], max_iterations=500)
    found = multilabel.probe(Frozen(train, test), config, context(tmp_path))["map"]
    x, z = (part.arrays["mean"].astype(float) for part in (train, test))
    x, z = (x - x.mean(0)) / x.std(0), (z - x.mean(0)) / x.std(0)
    expected = []
    for column in range(3):
        peer = LogisticRegression(C=1 / (0.02 * 300), tol=1e-8, max_iter=2000).fit(x, true[:, column])
        expected.append(average_precision_score(truth[:, column], peer.decision_function(z)))
    assert found.value == pytest.approx(np.mean(expected), abs=2e-3)
    assert 0.005 < found.standard_error < 0.1


def test_tags_and_the_classes_of_boxes_are_read_alike(tmp_path):
    data = Frozen(split(300, 0)[0], split(150, 1)[0])
    tags, boxes = (
        multilabel.probe(data, multilabel.Config(features="x", column=column), context(tmp_path))
        for column in ("tags", "box_labels")
    )
    assert tags["map"].value == pytest.approx(boxes["map"].value, abs=1e-6)


def test_the_error_is_the_spread_over_draws_of_test_images(tmp_path):
    train, config = split(400, 0)[0], multilabel.Config(features="x", l2=[0.02])
    found = [multilabel.probe(Frozen(train, split(100, s)[0]), config, context(tmp_path))["map"] for s in range(1, 40)]
    spread = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.35)


def test_rare_tags_and_missing_columns_are_refused(tmp_path):
    data = Frozen(split(20, 0)[0], split(10, 1)[0])
    with pytest.raises(UserError, match=r"tasks\.t\.min_images: no tag has 50 training images"):
        multilabel.probe(data, multilabel.Config(features="x", min_images=50), context(tmp_path))
    bare = Frozen(vectors(9, np.zeros(9, int), 0), data.test)
    with pytest.raises(UserError, match=r"tasks\.t\.column: some images of features\.x have no 'tags'"):
        multilabel.probe(bare, multilabel.Config(features="x"), context(tmp_path))
