"""Forecasts of a score by a law of its own and through the validation loss, against truths of which one or the other extrapolates."""

import copy
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from known_laws import law_of

from mimcore.scaling.choose import choose
from mimcore.scaling.chosen import extrapolating, through
from mimcore.scaling.estimate import fit_law
from mimcore.scaling.fit_options import Config
from mimcore.scaling.import_runs import runs_from
from mimcore.scaling.imported import rows_of
from mimcore.scaling.observations import Observations
from mimcore.scaling.outlook import LOSS, Asked, outlook
from mimcore.scaling.table import Measure, Run, Setting, runs_of
from mimcore.scaling.two_step import chain, fit_in_two
from mimcore.scaling.two_ways import DIRECT, FORECAST, THROUGH, ahead, both

ROOT = Path(__file__).resolve().parents[2]
XIE = ROOT.parent / "shared" / "reference" / "xie2023_simmim_swinv2_data_scaling.csv"
TOP1 = Measure("linear", "top1", True)
MODELS, IMAGES, SEEN = (5e7, 9e7, 2e8, 6e8), (1e5, 4e5, 1.6e6, 6.4e6), (2.5e8, 5e8, 1e9)
#: Of the law 'joint': floor, A, alpha, B, beta, C, gamma.
OF_LOSS = (0.3, 30.0, 0.35, 3.0, 0.3, 30.0, 0.3)
#: An error that the model's size moves most, of which the loss above tells little.
OF_ERROR = (0.05, 200.0, 0.4, 0.3, 0.2, 1.0, 0.3)


def joint(parameters, n, u, t):
    floor, a, alpha, b, beta, c, gamma = parameters
    return floor + a * n**-alpha + b * u**-beta + c * t**-gamma


def error_of(loss):
    return 0.05 + 8 * loss**6


def true_error(truth, n, u, t):
    return error_of(joint(OF_LOSS, n, u, t)) if truth == THROUGH else joint(OF_ERROR, n, u, t)


def runs(truth, noise=0.002, seed=0):
    """Runs whose score follows their loss alone, or scale alone, in a way that the other forecast cannot follow."""
    random = np.random.default_rng(seed)
    found = []
    for n, u, t in ((n, u, t) for n in MODELS for u in IMAGES for t in SEEN):
        first, second = np.exp(noise * random.standard_normal(2))
        loss = joint(OF_LOSS, n, u, t) * first
        error = (error_of(loss) if truth == THROUGH else joint(OF_ERROR, n, u, t)) * second
        facts = {"unique_images": int(u), "images_seen": int(t), "encoder_params": int(n), "flops": 300 * n * t}
        values = {LOSS.measure[:2]: loss, TOP1[:2]: 1 - error}
        setting = Setting("mae", f"m{n:.0f}", f"t{t:.0f}")
        found.append(Run(f"{setting} {u:.0f}", setting, f"n{u:.0f}", "s0", **facts, values=values, errors={}))
    return found


@cache
def fitted(truth):
    made = runs(truth)
    return made, {"laws": choose(made, (LOSS.measure, TOP1), {}, Config(bootstrap=100, laws=("joint", "task")))}


@pytest.mark.parametrize(("truth", "other"), [(THROUGH, DIRECT), (DIRECT, THROUGH)])
def test_the_way_that_extrapolates_is_trusted_and_nearer_the_truth(truth, other):
    made, told = fitted(truth)
    found = both(told, made, Asked(TOP1), "mae", 0.9)
    assert [one.name for one in found.ways] == [truth, other]
    assert found.trusted is found.ways[0]
    first, second = (FORECAST[name] for name in (truth, other))
    assert re.match(
        rf"Trusted is {first}\. On the runs held out was off: {first} by 0\.00\d+, {second} by 0\.0\d+, ",
        found.verdict(),
    )
    targets = ahead(made)
    assert targets.base == "m600000000 on 6.4M images, 1B seen"
    n, u, t = (targets.variables[name] for name in ("encoder_params", "unique_images", "images_seen"))
    assert (n[-1], u[-1], t[-1]) == (4 * 6e8, 4 * 6.4e6, 4e9)
    true = 1 - true_error(truth, n, u, t)
    right, wrong = (one.fit.predict(targets.variables) for one in found.ways)
    assert abs(wrong.mean[-1] - true[-1]) > 5 * abs(right.mean[-1] - true[-1])


@pytest.mark.parametrize("truth", [THROUGH, DIRECT])
def test_errors_of_runs_held_out_are_those_of_fits_without_them(truth):
    """The largest subset, fitted here without the runs on it, by the parts that the choice among laws is not made of."""
    made, told = fitted(truth)
    kept, left = ([run for run in made if (run.unique_images == 6.4e6) == out] for out in (False, True))

    def rows(of, values):
        names = ("encoder_params", "unique_images", "images_seen")
        variables = {name: np.array([float(getattr(run, name)) for run in of]) for name in names}
        variables["val_loss"] = np.array([run.values[LOSS.measure[:2]] for run in of])
        return Observations(variables, np.array(values), tuple(run.name for run in of))

    losses = rows(kept, [run.values[LOSS.measure[:2]] for run in kept])
    errors = rows(kept, [1 - run.values[TOP1[:2]] for run in kept])
    test = rows(left, [1 - run.values[TOP1[:2]] for run in left])
    expected = fit_law(law_of("joint"), losses, {"bootstrap": 0}).predict(test.variables).mean
    link = fit_law(law_of("task"), errors, {"bootstrap": 0})
    ahead_of = {
        THROUGH: link.predict({"val_loss": expected}).mean,
        DIRECT: fit_law(law_of("joint"), errors, {"bootstrap": 0}).predict(test.variables).mean,
    }
    for one in both(told, made, Asked(TOP1), "mae", 0.9).ways:
        error = np.sqrt(np.mean((ahead_of[one.name] - test.metric) ** 2))
        assert one.told["holdouts"][0]["rmse"] == pytest.approx(error, rel=1e-3)


def test_what_fits_best_within_is_not_trusted_for_it():
    made, told = fitted(THROUGH)
    changed = copy.deepcopy(told)
    entry = next(one for one in changed["laws"]["linear top1"] if one["scope"] == "objective")
    for law in entry["candidates"]:
        law["rmse"], law["r2"] = (0.0, 1.0) if law["law"] == "joint" else (1.0, -9.0)
    assert both(changed, made, Asked(TOP1), "mae", 0.9).trusted.name == THROUGH
    for law in entry["candidates"]:
        law["rmse_holdout"] = 0.01 if law["law"] == "joint" else 0.012
    found = both(changed, made, Asked(TOP1), "mae", 0.9)
    assert found.trusted.name == DIRECT
    assert found.verdict().endswith(
        " So few runs do not tell errors as near as these apart: either way may be the better one."
    )
    entry["baselines"]["nearest_run"] = 0.005
    found = both(changed, made, Asked(TOP1), "mae", 0.9)
    assert found.trusted is None
    assert found.verdict() == (
        "None is trusted. On the runs held out was off: the direct forecast by 0.010, the forecast through the loss by 0.012, nearest run, "
        "which is no law, by 0.0050."
    )


def test_a_way_that_was_not_judged_is_said():
    made, told = fitted(DIRECT)
    alone = copy.deepcopy(told)
    entry = next(one for one in alone["laws"]["linear top1"] if one["scope"] == "objective")
    entry["candidates"] = [law for law in entry["candidates"] if law["law"] == "joint"]
    found = both(alone, made, Asked(TOP1), "mae", 0.9)
    assert found.trusted.name == DIRECT
    assert found.lacking == (
        "The linear top1 of mae is not forecast through the loss: no such law was tried (the fit's option 'laws').",
    )
    assert both({"laws": {}}, made, Asked(TOP1), "mae", 0.9) == (
        "No law of model, data and length was tried on the linear top1 of mae (the fit's option 'laws')."
    )


def test_the_outlook_of_a_score_is_by_the_way_that_is_trusted():
    for truth, name in ((THROUGH, "joint, then task"), (DIRECT, "joint")):
        made, told = fitted(truth)
        laws, step = extrapolating(told, "mae", TOP1), through(told, "mae", TOP1)
        assert step == "joint"
        assert outlook(made, "mae", Asked(TOP1), 0.9, laws, step).fit.law.name == name
    assert outlook(made, "mae", Asked(TOP1), 0.9, ["task"]) == (
        "No law of model, data and length together could be fitted to the runs of mae: none of those that may be asked is in "
        "encoder_params and images_seen."
    )


def test_intervals_through_the_loss_hold_the_truth():
    """90 % intervals of 40 tables: fewer than 31 hits have a chance of 0.5 %."""
    at = {"encoder_params": np.array([2e9]), "images_seen": np.array([4e9])}
    truth = (0.3, 30.0, 0.35, 40.0, 0.3)
    law, held = law_of("chinchilla"), 0
    n, t = (grid.ravel() for grid in np.meshgrid(MODELS, (2e7, 8e7, 2.5e8, 5e8, 1e9)))
    true = error_of(law.predict(np.array([truth]), at)[0, 0])
    for seed in range(40):
        first, second = np.exp(0.005 * np.random.default_rng(seed).standard_normal((2, len(n))))
        loss = law.predict(np.array([truth]), {"encoder_params": n, "images_seen": t})[0] * first
        rows = Observations(
            {"encoder_params": n, "images_seen": t, "val_loss": loss}, error_of(loss) * second, tuple(map(str, n))
        )
        found = fit_in_two(law, law_of("task"), rows, {"bootstrap": 200, "confidence": 0.9}).predict(at)
        held += bool(found.low[0] <= true <= found.high[0])
    assert held >= 31


def test_a_chain_is_one_law_of_both():
    made, _ = fitted(THROUGH)
    variables = {
        name: np.array([float(getattr(run, name)) for run in made])
        for name in ("encoder_params", "images_seen", "unique_images")
    }
    variables["val_loss"] = np.array([run.values[LOSS.measure[:2]] for run in made])
    error = np.array([1 - run.values[TOP1[:2]] for run in made])
    names = tuple(run.name for run in made)
    loss = fit_law(law_of("joint"), Observations(variables, variables["val_loss"], names), {"bootstrap": 50})
    task = fit_law(law_of("task"), Observations(variables, error, names), {"bootstrap": 50, "seed": 1})
    found = chain(loss, task)
    assert {variable.name for variable in found.law.variables} == {"encoder_params", "unique_images", "images_seen"}
    told = found.predict(variables)
    for i in (0, 49):
        losses = loss.law.predict(loss.ensemble[i : i + 1], variables)[0]
        floor, a, k = task.ensemble[i]
        assert told.ensemble[i] == pytest.approx(floor + a * losses**k)
    expected = np.log(error / (told.mean))
    assert found.residuals == pytest.approx(expected)
    # What is left is the link's own noise, and the loss's by the slope of the link, which is below its exponent of 6.
    assert task.noise < found.noise < 6 * loss.noise + task.noise


def test_the_published_runs_are_forecast_directly_and_hardly_better_than_by_the_nearest_run():
    if not XIE.is_file():
        pytest.skip("the published table is not beside the checkout")
    imported = rows_of(runs_from(XIE, ROOT / "docs" / "examples" / "xie2023.import.yaml"), (), XIE)
    made = [
        replace(run, pool="in22k" if run.unique_images > 2e6 else "in1k") for run in runs_of(imported, imported=True)
    ]
    top1, guess = Measure("finetune", "top1", True), 0.001
    options = Config(bootstrap=100, laws=("repetition", "task"), guess={"finetune/top1": guess})
    told = {"laws": choose(made, (LOSS.measure, top1), {}, options)}
    found = both(told, made, Asked(top1, guess), "simmim", 0.95)
    assert [one.name for one in found.ways] == [DIRECT, THROUGH]
    assert found.verdict() == (
        "Trusted is the direct forecast. On the runs held out was off: the direct forecast by 0.0033, the forecast through the loss by "
        "0.0072, nearest run, which is no law, by 0.0034. That is hardly better than nearest run: trust it little."
    )
