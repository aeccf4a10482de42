"""Diagnostics of any table, on published numbers, closed forms and other libraries."""

from pathlib import Path

import numpy as np
import pytest
from known_laws import law_of, runs
from scipy import stats

from mimcore.errors import UserError
from mimcore.scaling.detectors import by_length
from mimcore.scaling.equivalence import tost
from mimcore.scaling.estimate import fit_law
from mimcore.scaling.health import effective_rank, rankme
from mimcore.scaling.mapping import Map, observe, read_map
from mimcore.scaling.observations import Observations
from mimcore.scaling.proxy import pearson, proxy
from mimcore.scaling.saturation import saturates
from mimcore.scaling.two_step import chain

ROOT = Path(__file__).resolve().parents[2]
XIE = ROOT.parent / "shared" / "reference" / "xie2023_simmim_swinv2_data_scaling.csv"
TOP1 = {"column": "value", "name": "top1", "higher_is_better": True, "ceiling": 100, "floor": 0.1}


@pytest.fixture
def published():
    """The 63 runs' validation losses and ImageNet-1K accuracies, in one order, and their cells."""
    if not XIE.is_file():
        pytest.skip("the published table is not beside the checkout")
    mapping = read_map(ROOT / "docs" / "examples" / "xie2023.map.yaml")
    loss = observe(XIE, mapping)
    task = observe(
        XIE, Map.model_validate({**mapping.model_dump(), "rows": "metric == 'in1k_ft_top1'", "metric": TOP1})
    )
    assert loss.labels == task.labels
    return loss, task, [label.rsplit(", ", 1)[0] for label in loss.labels]


def test_the_eight_cells_that_rose_and_the_three_whose_accuracy_did_too(published):
    loss, task, cells = published
    found = by_length(cells, loss.variables["images_seen"], loss.metric, task=task.metric)
    assert len(found) == 21
    short = {"Small": "S", "Base": "B", "Large": "L", "Huge": "H", "giant": "g"}

    def brief(cell):
        model, data = cell.removeprefix("SwinV2-").split(", ImageNet-1K ")
        return short[model] + data.rstrip("%")

    rose = {brief(one.cell): one for one in found if one.loss_rose}
    assert set(rose) == {"S10", "B10", "B20", "L10", "L20", "H20", "H50", "g50"}
    assert {name for name, one in rose.items() if not one.task_fell} == {"S10", "B20", "H50"}


def test_the_published_correlations_with_intervals(published):
    loss, task, cells = published
    whole = np.isin(loss.columns["data"], ["ImageNet-1K", "ImageNet-22K"])
    parts = {"all": np.ones(63, dtype=bool), "whole": whole}
    found = proxy(loss.metric, task.metric, cells, parts, confidence=0.9, bootstrap=1000, seed=0)
    for name, value, count in (("all", -0.786, 63), ("whole", -0.954, 27)):
        one = found[name]["pearson"]
        assert one["estimate"] == pytest.approx(value, abs=5e-4)
        assert one["count"] == count
        assert -1 < one["low"] < value < one["high"] < 0
        assert found[name]["spearman"]["estimate"] == pytest.approx(
            stats.spearmanr(loss.metric[parts[name]], task.metric[parts[name]]).statistic
        )


def test_detectors_are_kept_apart_and_say_what_is_noise():
    cells, length = ["a"] * 4 + ["b"] * 2 + ["c"], np.array([1.0, 1, 2, 2, 1, 2, 1])
    loss = np.array([0.50, 0.52, 0.53, 0.53, 0.5, 0.4, 0.1])
    train = np.array([0.5, 0.5, 0.4, 0.4, 0.5, 0.45, 0.1])
    first, second = by_length(cells, length, loss, task=-loss, train_loss=train, noise=0.01)
    assert (first.cell, second.cell) == ("a", "b")
    assert (first.loss_rose, first.task_fell, first.gap_widened, first.within_noise) == (True, True, True, True)
    assert (second.loss_rose, second.task_fell, second.gap_widened, second.within_noise) == (False, False, False, False)
    assert first.loss_change == pytest.approx(0.02)


def test_pearson_is_scipys_and_counts_weights():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 12))
    assert pearson(x, y)[0] == pytest.approx(stats.pearsonr(x, y).statistic)
    weights = rng.integers(0, 3, 12)
    expected = stats.pearsonr(np.repeat(x, weights), np.repeat(y, weights)).statistic
    assert pearson(x, y, weights[None].astype(float))[0] == pytest.approx(expected)


def test_intervals_of_a_correlation_cover_it():
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(30)
        y = 0.8 * x + 0.6 * rng.standard_normal(30)
        one = proxy(
            x, y, [str(i) for i in range(30)], {"all": np.ones(30, bool)}, confidence=0.9, bootstrap=300, seed=0
        )
        hits += one["all"]["pearson"]["low"] <= 0.8 <= one["all"]["pearson"]["high"]
    assert 82 <= hits <= 98


def test_too_few_clusters_have_no_interval():
    x = np.arange(6.0)
    found = proxy(x, x**2, list("aabbcc"), {"all": np.ones(6, bool)}, confidence=0.9, bootstrap=100, seed=0)
    assert found["all"]["pearson"]["low"] is None


@pytest.mark.parametrize("paired", [False, True])
def test_tost_is_two_of_scipys_tests(paired):
    rng = np.random.default_rng(1)
    first, second = 0.7 + 0.01 * rng.standard_normal(6), 0.702 + 0.02 * rng.standard_normal(6)
    margin = 0.02
    if paired:
        below = stats.ttest_rel(first + margin, second, alternative="greater").pvalue
        above = stats.ttest_rel(first - margin, second, alternative="less").pvalue
    else:
        below = stats.ttest_ind(first + margin, second, equal_var=False, alternative="greater").pvalue
        above = stats.ttest_ind(first - margin, second, equal_var=False, alternative="less").pvalue
    found = tost(first, second, margin, paired=paired)
    assert found.p_value == pytest.approx(max(below, above))
    assert found.equivalent == (found.p_value < 0.05) == (-margin < found.low and found.high < margin)
    with pytest.raises(UserError, match="margin of an equivalence test is 0"):
        tost(first, second, 0.0)
    with pytest.raises(UserError, match="1 and 6 runs is impossible"):
        tost(first[:1], second, 0.1)


def test_ranks_of_features():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((200, 5)))[0]
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0]  # five directions of equal strength, with no mean
    assert effective_rank(np.hstack([basis, np.zeros((200, 3))])) == pytest.approx(5)
    assert rankme(np.hstack([basis, np.zeros((200, 3))])) == pytest.approx(5, rel=1e-4)
    shares = np.array([4.0, 2.0, 1.0, 1.0, 0.5])
    p = shares / shares.sum()
    assert rankme(basis * shares) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-4)
    with pytest.raises(UserError, match="has collapsed"):
        effective_rank(np.ones((10, 4)))
    with pytest.raises(UserError, match="not finite"):
        rankme(np.full((10, 4), np.nan))


def test_saturation_is_where_the_closed_form_says():
    """Of floor + A n^-a a doubling gains A n^-a (1 - 2^-a): below g beyond n = (A (1 - 2^-a) / g)^(1/a)."""
    fit = fit_law(law_of("power"), runs("power", 0.002, 0))
    floor, amplitude, exponent = fit.parameters
    expected = (amplitude * (1 - 2**-exponent) / 0.01) ** (1 / exponent)
    found = saturates(fit, "unique_images", {}, 0.01)
    assert found.estimate == pytest.approx(expected, rel=0.02)
    assert found.low < found.estimate < found.high
    assert floor > 0
    assert saturates(fit, "unique_images", {}, 1e-9).estimate == np.inf


def test_two_steps_come_to_the_task_of_the_loss():
    rows = runs("chinchilla", 0.002, 0)
    loss = fit_law(law_of("chinchilla"), rows, {"bootstrap": 200})
    error = 0.05 + 10 * rows.metric**5
    noisy = error * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(rows)))
    both = {**rows.variables, "val_loss": rows.metric}
    task = fit_law(law_of("task"), Observations(both, noisy, rows.labels), {"bootstrap": 200, "seed": 1})
    ahead = {"encoder_params": np.array([2e9]), "images_seen": np.array([4e9])}
    found = chain(loss, task).predict(ahead)
    true_loss = law_of("chinchilla").predict(np.array([[0.3, 30.0, 0.35, 40.0, 0.3]]), ahead)[0, 0]
    assert found.low[0] < 0.05 + 10 * true_loss**5 < found.high[0]
    alone = task.predict({"val_loss": loss.predict(ahead).mean})
    assert found.high[0] - found.low[0] > alone.high[0] - alone.low[0]
