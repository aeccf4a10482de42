"""Pairs of subsets that have as many images, against the same test in statsmodels' terms, by hand."""

import numpy as np
import pytest
from scipy import stats

from mimcore.scaling.alike import alike, figure
from mimcore.scaling.table import VAL_LOSS, Measure, Run, Setting

SETTING = Setting("mae", "tiny", "long")
LOSS = Measure(*VAL_LOSS, False)
TOP1 = Measure("linear", "top1", True)


def runs(losses, images=1000):
    return [
        Run(f"{subset}-{seed}", SETTING, subset, seed, images, 10, 10, 1.0, {VAL_LOSS: loss}, {})
        for subset, values in losses.items()
        for seed, loss in zip(("s0", "s1", "s2", "s3"), values, strict=False)
    ]


def test_a_pair_is_tested_within_its_seeds():
    first, second = np.array([0.50, 0.52, 0.51, 0.53]), np.array([0.501, 0.5205, 0.5095, 0.5302])
    (pair,) = alike(runs({"random": first, "stratified": second}), [LOSS], 0.01)
    scale = 100 / np.concatenate([first, second]).mean()
    low, high = stats.t.interval(0.9, 3, (second - first).mean() * scale, stats.sem(first - second) * scale)
    assert (pair.test.low, pair.test.high) == (pytest.approx(low), pytest.approx(high))
    assert pair.test.equivalent
    assert "equivalent" in str(figure([pair])[0].spec)


def test_what_differs_is_not_called_the_same():
    (pair,) = alike(runs({"a": [0.50, 0.51, 0.52], "b": [0.55, 0.56, 0.58]}), [LOSS], 0.01)
    assert not pair.test.equivalent
    assert pair.test.low > pair.margin
    assert pair.verdict == "different"


def test_one_seed_or_another_size_is_no_pair():
    assert alike(runs({"a": [0.5], "b": [0.5]}), [LOSS], 0.01) == []
    assert alike(runs({"a": [0.5, 0.6]}) + runs({"b": [0.5, 0.6]}, 2000), [LOSS], 0.01) == []
    assert figure([]) == []


def test_objectives_are_compared_by_tasks_and_never_by_their_losses():
    found = [
        Run(
            f"{objective}-{subset}-{seed}",
            Setting(objective, "tiny", "long"),
            subset,
            seed,
            images,
            10,
            10,
            1.0,
            {VAL_LOSS: 0.5, TOP1[:2]: 0.6 + lift + 0.0005 * images * i},
            {},
        )
        for objective, lift in (("mae", 0.0), ("simmim", 0.03))
        for subset, images in (("a", 1), ("b", 2))
        for i, seed in enumerate(("s0", "s1", "s2"))
    ]
    (pair,) = alike(found, [LOSS, TOP1], 0.01)
    assert (pair.first, pair.second, pair.measure, pair.settings) == ("mae", "simmim", TOP1, 2)
    assert pair.test.difference == pytest.approx(100 * 0.03 / np.mean([run.values[TOP1[:2]] for run in found]))
    assert pair.verdict == "different"
