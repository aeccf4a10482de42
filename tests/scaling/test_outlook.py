"""What the report says of scores: where more images stop paying and what to run next, or that no law extrapolates."""

import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_laws import KNOWN, law_of
from scipy.optimize import brentq

from mimcore.errors import UserError
from mimcore.scaling.choose import choose
from mimcore.scaling.chosen import extrapolating
from mimcore.scaling.estimate import fit_law
from mimcore.scaling.fit import fit
from mimcore.scaling.fit_options import Config
from mimcore.scaling.frontier import frontier
from mimcore.scaling.next_runs import asked, next_runs, rows
from mimcore.scaling.outlook import Asked, divide, fit_one, outlook
from mimcore.scaling.report import report
from mimcore.scaling.rows import observations
from mimcore.scaling.saturation import saturated
from mimcore.scaling.table import Measure, Run, Setting

TOP1 = Measure("linear", "top1", True)
#: Of the error, or of the odds: floor, A and its exponent in the model's size, B and its exponent in images.
TRUTH = (0.05, 40.0, 0.35, 12.0, 0.4)
MODELS, IMAGES, SEEN = (5e7, 9e7, 2e8, 6e8), (1e4, 4e4, 1.6e5, 6.4e5), (2.5e8, 5e8, 1e9)


def score(quantity, guess):
    """The score of an error, or of odds."""
    return 1 - quantity if guess is None else guess + (1 - guess) / (1 + quantity)


def gain_of_twice(images, n, guess):
    floor, a, alpha, b, beta = TRUTH
    before, after = (score(floor + a * n**-alpha + b * u**-beta, guess) for u in (images, 2 * images))
    return after - before


def runs(guess=None, noise=0.0, seen=SEEN[:1], length=0.0, seed=0):
    """Runs whose score follows the law of model and data; ``length`` is what a factor of two in length adds to its logarithm."""
    random = np.random.default_rng(seed)
    found = []
    for n, u, t in ((n, u, t) for n in MODELS for u in IMAGES for t in seen):
        at = {"encoder_params": np.array([n]), "unique_images": np.array([u])}
        quantity = float(law_of("model_data").predict(np.array([TRUTH]), at)[0, 0])
        quantity *= float(np.exp(noise * random.standard_normal() - length * np.log2(t / SEEN[0])))
        values = {("pretrain", "val_loss"): 0.3 + quantity, TOP1[:2]: score(quantity, guess)}
        facts = {"unique_images": int(u), "images_seen": int(t), "encoder_params": int(n), "flops": n * t}
        name = f"mae-m{n:.0f}-n{u:.0f}-t{t:.0f}-s0"
        found.append(
            Run(name, Setting("mae", f"m{n:.0f}", f"t{t:.0f}"), f"n{u:.0f}", "s0", **facts, values=values, errors={})
        )
    return found


def fitted_of(made, measure=TOP1, **options):
    return {"laws": choose(made, (measure,), {}, Config(bootstrap=100, **options))}


@pytest.mark.parametrize("guess", [None, 0.1])
def test_more_images_stop_paying_where_the_truth_says(guess):
    made = runs(guess, noise=1e-5)
    one = fit_one(made, Asked(TOP1, guess), 0.9, ["model_data"], {"unique_images"})
    found = saturated(one, made, 0.01)
    best = max(run.values[TOP1[:2]] for run in made)
    for part, n in zip(found, MODELS, strict=True):
        assert part.gain == pytest.approx(0.01 * best)
        true = brentq(lambda images, n=n, gain=part.gain: gain_of_twice(images, n, guess) - gain, 1e4, 1e9)
        assert part.images.estimate == pytest.approx(true, rel=0.03)  # 48 points for each doubling are looked at
        assert part.images.low <= true * 1.02
        assert part.images.high >= true * 0.98


@cache
def fitted_once():
    made = runs(noise=0.003)
    return made, fit_one(made, Asked(TOP1), 0.9, ["model_data"], {"unique_images"})


@settings(max_examples=10, deadline=None)
@given(st.floats(0.005, 0.05), st.floats(1.1, 3.0))
def test_a_greater_gain_is_worth_it_for_less_long(margin, factor):
    made, one = fitted_once()
    for less, more in zip(saturated(one, made, margin), saturated(one, made, margin * factor), strict=True):
        assert more.images.estimate <= less.images.estimate
        assert more.images.low <= less.images.low


@pytest.mark.parametrize("guess", [0.1, 0.4])
def test_no_forecast_of_odds_leaves_the_range_of_a_score(guess):
    made = runs(guess, noise=0.01)
    one = fit_one(made, Asked(TOP1, guess), 0.9, ["model_data"], {"unique_images"})
    ahead = one.predict({"encoder_params": np.array([1e5, 1e12]), "unique_images": np.array([1.0, 1e12])}, run=True)
    assert np.all((ahead.ensemble >= guess) & (ahead.ensemble <= 1))
    with pytest.raises(
        UserError, match=rf"top1 of 'mae-.*' is 0\.05; it must be between {guess:g} and 1, ends excluded"
    ):
        low = observations(
            [*made, replace(made[0], name="mae-low", values={**made[0].values, TOP1[:2]: 0.05})], TOP1, guess
        )
        fit_law(law_of("model_data"), low)


def test_the_runs_that_are_named_raise_the_score():
    made = runs(noise=0.003, seen=SEEN, length=0.15)
    one = outlook(made, "mae", Asked(TOP1), 0.9, ["joint"])
    advice = next_runs(one)
    best = max(run.values[TOP1[:2]] for run in made)
    assert advice.bettering
    for run in advice.bettering:
        assert run.value[0] > best
        assert run.better == pytest.approx(run.value[0] - best)
        assert run.value[1] <= run.value[0] <= run.value[2]
    worth = [run.better / run.flops for run in advice.bettering]
    assert worth == sorted(worth, reverse=True)
    head, told = rows(advice, None, False)
    assert "expected linear top1" in head
    assert "above the highest so far" in head
    assert len(told) == len(advice.bettering)


def test_runs_that_a_law_cannot_tell_apart_are_named_apart():
    """By their seed, and by the subset where there is another of as many images; imported runs are evidence, and no models at hand."""
    made = runs(noise=0.003, seen=SEEN, length=0.15)
    made += [replace(run, name=f"{run.name}b", subset="best") for run in made if run.unique_images == 4e4]
    made += [replace(run, name=f"{run.name}c", seed="s1") for run in made if run.unique_images > 4e4][:-4]
    theirs = [
        replace(run, name=f"{run.name}d", setting=run.setting._replace(model="theirs"), source="imported", flops=0.0)
        for run in made[:9]
    ]
    advice = next_runs(outlook(made, "mae", Asked(TOP1), 0.9, ["joint"]))
    there = {(run.setting.model, run.unique_images, run.images_seen, run.subset, run.seed) for run in made}
    for run in advice.telling:
        known = (run.model, run.unique_images, run.images_seen)
        subsets = [run.apart["subset"]] if run.unique_images == 4e4 else [f"n{run.unique_images:.0f}"]
        assert (*known, subsets[0], run.apart["seed"]) not in there
        assert run.images_seen >= run.unique_images
    assert {"seed"} <= {name for run in advice.telling for name in run.apart} <= {"seed", "subset"}
    assert not any("seed" in run.apart for run in advice.bettering)
    places = [(run.model, run.unique_images, run.images_seen) for run in advice.bettering]
    assert len(set(places)) == len(places)
    assert "seed" in rows(advice, None, True)[0]
    fitted = {"laws": {}, "options": {"confidence": 0.9}}
    of_all = next_runs(asked([*made, *theirs], "mae", fitted))
    assert {run.model for run in of_all.telling} <= {run.setting.model for run in made}
    assert of_all.spent == pytest.approx(sum(run.flops for run in made))


#: Of the error, or of the odds, of runs that differ in all three: floor, A, alpha, B, beta, C, gamma.
OF_THREE = (0.05, 40.0, 0.35, 3.0, 0.3, 60.0, 0.35)
#: Operations for an image and a parameter.
PER_PARAMETER = 300.0


def of_three(n, u, t):
    floor, a, alpha, b, beta, c, gamma = OF_THREE
    return floor + a * n**-alpha + b * u**-beta + c * t**-gamma


def best_size(budget):
    """Hoffmann et al. 2022, equation 4: no number of images moves it, as their term stands alone."""
    _, a, alpha, _, _, c, gamma = OF_THREE
    scale = (alpha * a / (gamma * c)) ** (1 / (alpha + gamma))
    return scale * (budget / PER_PARAMETER) ** (gamma / (alpha + gamma))


def runs_of_three(guess=None, noise=1e-5, of_loss=None):
    """Runs whose score follows the sum of three terms, or ``of_loss`` of it, which is then their loss."""
    random = np.random.default_rng(0)
    found = []
    for n, u, t in ((n, u, t) for n in MODELS for u in IMAGES for t in SEEN):
        loss = of_three(n, u, t) * float(np.exp(noise * random.standard_normal()))
        quantity = (loss if of_loss is None else of_loss(loss)) * float(np.exp(noise * random.standard_normal()))
        values = {("pretrain", "val_loss"): loss, TOP1[:2]: score(quantity, guess)}
        facts = {
            "unique_images": int(u),
            "images_seen": int(t),
            "encoder_params": int(n),
            "flops": PER_PARAMETER * n * t,
        }
        setting = Setting("mae", f"m{n:.0f}", f"t{t:.0f}")
        found.append(Run(f"{setting} {u:.0f}", setting, f"n{u:.0f}", "s0", **facts, values=values, errors={}))
    return found


def below_its_cube(loss):
    return 0.02 + 0.5 * loss**3


@pytest.mark.parametrize(
    ("guess", "laws", "of_loss"), [(None, ["joint"], None), (0.1, ["joint"], None), (None, ["task"], below_its_cube)]
)
def test_the_best_score_of_a_budget_is_that_of_the_closed_form(guess, laws, of_loss):
    """Whatever falls with the sum of the three terms, by itself, in odds or through the loss, is best where the sum is least."""
    made = runs_of_three(guess, of_loss=of_loss)
    one = outlook(made, "mae", Asked(TOP1, guess), 0.9, laws, "joint")
    assert one.fit.law.name == ("joint" if of_loss is None else "joint, then task")

    def true(budget, images):
        least = of_three(best_size(budget), images, budget / PER_PARAMETER / best_size(budget))
        return score(least if of_loss is None else of_loss(least), guess)

    (part,) = divide(one)
    assert part.unique_images == max(IMAGES)
    for found in part.frontier:
        assert not found.at_edge
        assert found.encoder_params.value == pytest.approx(best_size(found.budget), rel=0.01)
        assert found.images_seen.value == pytest.approx(found.budget / PER_PARAMETER / found.encoder_params.value)
        assert found.metric.value == pytest.approx(true(found.budget, max(IMAGES)), abs=2e-4)
        assert found.metric.low - 1e-4 <= true(found.budget, max(IMAGES)) <= found.metric.high + 1e-4
    for budget, sizes, values in part.curves:  # no run of that budget does better, and all score less than the best
        best = next(found for found in part.frontier if found.budget == pytest.approx(budget))
        assert values.max() <= best.metric.value + 1e-9
        assert sizes[np.argmax(values)] == pytest.approx(best_size(budget), rel=0.1)
    images = [number for number, _ in part.data]
    assert (images[0], images[-1]) == pytest.approx((min(IMAGES), 2 * max(IMAGES)))
    for number, found in part.data:
        for each in found:
            assert each.metric.value == pytest.approx(true(each.budget, number), abs=2e-4)


def test_intervals_of_the_best_score_hold_the_truth():
    """90 % intervals at one budget beyond all runs, of 20 tables: fewer than 14 hits have a chance of 0.2 %."""
    held = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        made = [
            replace(
                run,
                values={
                    **run.values,
                    TOP1[:2]: 1 - (1 - run.values[TOP1[:2]]) * np.exp(0.005 * random.standard_normal()),
                },
            )
            for run in runs_of_three(noise=0.0)
        ]
        one = outlook(made, "mae", Asked(TOP1), 0.9, ["joint"])
        budget = 5 * max(run.flops for run in made)
        others = {"unique_images": max(IMAGES)}
        (found,) = frontier(one.fit, [budget], one.price, others, lower_is_better=False)
        size = best_size(budget)
        true = 1 - of_three(size, max(IMAGES), budget / PER_PARAMETER / size)
        held += found.metric.low <= true <= found.metric.high
    assert held >= 14


@pytest.mark.parametrize("law", ["joint", "effective", "repetition"])
def test_more_images_never_lower_what_a_budget_reaches(law):
    """The report takes the largest subset for the best data, which holds for every law that a budget is divided by."""
    known = KNOWN[law]
    sizes = np.geomspace(1e4, 1e8, 9)
    grid = np.meshgrid(MODELS, SEEN, sizes, indexing="ij")
    variables = dict(
        zip(("encoder_params", "images_seen", "unique_images"), (axis.ravel() for axis in grid), strict=True)
    )
    values = law_of(law).predict(np.array([known.parameters]), variables)[0].reshape(grid[0].shape)
    assert np.all(np.diff(values, axis=2) < 0)


def test_a_law_extrapolates_where_it_is_ahead_of_what_needs_none():
    laws = extrapolating(fitted_of(runs(noise=0.003), laws=("model_data", "joint")), "mae", TOP1)
    assert laws == ["model_data"]
    flat = [replace(run, values={**run.values, TOP1[:2]: 0.5 + 0.02 * np.sin(7.0 * i)}) for i, run in enumerate(runs())]
    fitted = fitted_of(flat, laws=("model_data",))
    (entry,) = (one for one in fitted["laws"]["linear top1"] if one["scope"] == "objective")
    assert entry["candidates"][0]["rmse_holdout"] >= min(entry["baselines"].values())
    assert re.fullmatch(
        r"No law of the linear top1 of mae extrapolates: the best, 'model_data', is off by 0\.0\d+ on the runs held out, and "
        r"(nearest run|last value|log linear), which is no law, by 0\.0\d+\.",
        extrapolating(fitted, "mae", TOP1),
    )
    few = [run for run in runs() if run.unique_images < 1e5 and run.encoder_params < 1e8]
    assert extrapolating(fitted_of(few, laws=("power", "model_data")), "mae", TOP1).startswith(
        "No law of the linear top1 of mae could be chosen by what it forecasts. Nothing was forecast: no 3 different values"
    )
    assert "was tried on the linear top1 of mae" in extrapolating(fitted_of(few, laws=("power",)), "mae", TOP1)


@pytest.fixture(scope="module")
def asked_of_scores(whole_study, tmp_path_factory):
    """The report of a study that asks for two scores; one of them does not follow the runs at all."""
    root = tmp_path_factory.mktemp("scores")
    options = {
        "bootstrap": 200,
        "outlook": ["linear/top1", "finetune/top1"],
        "guess": {"linear/top1": 0.01},
        "laws": ["model_data", "joint", "task"],
    }
    found = fit(whole_study / "results" / "results.parquet", options, root / "fit")
    told = json.loads((root / "fit" / "fit.json").read_text())
    for entry in told["laws"]["finetune top1"]:
        entry["baselines"] = dict.fromkeys(entry["baselines"] or {}, 1e-9)  # as if the nearest run knew all
    (root / "fit" / "fit.json").write_text(json.dumps(told))
    report(
        whole_study / "results",
        root / "fit" / "fit.json",
        whole_study / "runs",
        root / "none",
        root / "report",
        root / "no.json",
    )
    return found, root / "report"


def test_the_report_speaks_of_the_scores_that_are_named(asked_of_scores):
    found, folder = asked_of_scores
    assert found["options"]["outlook"] == ["linear/top1", "finetune/top1"]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert (folder / "saturation-linear.png").is_file()
    assert "The rise of the linear top1 that doubling the images buys by one law for all runs" in text
    assert "The dashed line is 1 % of the highest score (the fit's option 'margin')" in text
    assert re.search(
        r"Runs that narrow the forecast of the linear top1 of small on 66k images, 524k images seen most for", text
    )
    assert "Runs that raise the linear top1 most for their cost" in text
    assert "Runs that lower the validation loss most for their cost" in text


def test_a_score_without_a_law_that_extrapolates_is_answered_by_a_sentence(asked_of_scores):
    _, folder = asked_of_scores
    assert not (folder / "saturation-finetune.png").exists()
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text(encoding="utf-8").replace("&#39;", "'")
        assert (
            text.count("No law of the finetune top1 of mae extrapolates: the best, '") == 3
        )  # advice, and where data stop paying and budgets in the task's section
        assert not (folder / "budget-finetune.png").exists()
        assert "None is trusted. On the runs held out was off: the " in text


def test_both_ways_and_the_budget_of_a_score_are_in_the_report(asked_of_scores):
    _, folder = asked_of_scores
    assert {path.stem for path in folder.glob("ways-*.svg")} == {"ways-linear", "ways-finetune"}
    assert {path.stem for path in folder.glob("budget-*.png")} == {"budget-linear"}
    text = (folder / "report.md").read_text(encoding="utf-8")
    section = text[text.index("## Linear top1") : text.index("## Does it come")]
    assert re.search(
        r"Trusted is the (direct forecast|forecast through the loss)\. On the runs held out was off: the ", section
    )
    assert re.search(r"\| law \| (joint|model_data) \| joint, then task \|", section)
    assert len(re.findall(r"\| off by, all held out \| [\d.]+(, trusted)? \| [\d.]+(, trusted)? \|", section)) == 1
    assert re.search(r"\| 4 × all three \| 0\.\d+ \[0\.\d+, 0\.\d+\] \| 0\.\d+ \[0\.\d+, 0\.\d+\] \|", section)
    assert (
        "| FLOPs | of the dearest run | encoder parameters | unique images | images seen | epochs | highest linear top1 |"
        in section
    )
    assert (
        "expects of runs that cost the same, on the largest subset, 33k unique images: a larger model sees fewer."
        in section
    )
    html = (folder / "report.html").read_text(encoding="utf-8")
    for place in ("ways-linear-0", "ways-linear-1", "budget-linear-4"):
        assert f'id="{place}"' in html
        assert f'"{place}": {{' in html  # what can be pointed at


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"outlook": ["linear/top5"]},
            "fit.outlook: no task of the results has the headline 'linear/top5'; did you mean 'linear/top1'",
        ),
        (
            {"guess": {"pretrain/val_loss": 0.1}},
            "fit.guess: less of pretrain/val_loss is better, so that no guess limits it",
        ),
        ({"outlook": ["top1"]}, "fit.outlook: 'top1' is no task/metric, such as linear/top1"),
        (
            {"guess": {"linear/top1": 1.0}},
            "fit.guess: the score of a guess is at least 0 and below 1, and linear/top1 has 1",
        ),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(whole_study, tmp_path, options, said):
    with pytest.raises(UserError) as refused:
        fit(whole_study / "results" / "results.parquet", options, tmp_path / "fit")
    assert said in str(refused.value)


def test_numbers_on_an_axis_are_those_of_its_ticks(asked_of_scores):
    """Coordinates are rounded in a drawing, and what is written is not."""
    _, folder = asked_of_scores
    ticks = re.findall(r"<text[^>]*>(0\.\d+)</text>", (folder / "saturation-linear.svg").read_text(encoding="utf-8"))
    assert len(ticks) > 3
    assert len(set(ticks)) == len(ticks)
    steps = np.diff(sorted(map(float, ticks)))
    assert steps == pytest.approx(np.full(len(steps), steps[0]), rel=1e-6)
