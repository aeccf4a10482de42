"""The choice among laws: by forecasts of what was not fitted, whatever the order, the units and the copies of the rows."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_laws import law_of

from mimcore.errors import UserError
from mimcore.scaling.choose import choose, sentences
from mimcore.scaling.fit import fit
from mimcore.scaling.fit_options import Config
from mimcore.scaling.fit_table import fit_table
from mimcore.scaling.table import Measure, Run, Setting, read_results, write_results

LOSS, TOP1 = Measure("pretrain", "val_loss", False), Measure("linear", "top1", True)
TRUTHS = {
    "joint": (0.3, 30.0, 0.35, 3.0, 0.3, 30.0, 0.3),
    "repetition": (0.4, 20.0, 0.35, 300.0, 0.48, 2000.0, 0.07, 2.3e6, 2.0),
    "model_data": (0.3, 30.0, 0.35, 3.0, 0.3),
}
MODELS, IMAGES, SEEN = (5e7, 9e7, 2e8, 6e8), (1.28e5, 2.56e5, 6.4e5, 1.28e6, 1.4e7), (2.5e8, 5e8, 1e9)


def runs(truth="joint", models=MODELS, images=IMAGES, seen=SEEN, seeds=1, noise=0.002):
    """Runs of a known law; the task's error is a power of the loss."""
    random = np.random.default_rng(7)
    found = []
    for n in models:
        for u in images:
            for t in seen:
                for seed in range(seeds):
                    at = {"encoder_params": n, "unique_images": u, "images_seen": t}
                    columns = {name: np.array([value]) for name, value in at.items()}
                    value = law_of(truth).predict(np.array([TRUTHS[truth]]), columns)[0, 0]
                    loss = float(value * np.exp(noise * random.standard_normal()))
                    setting = Setting("mae", f"m{n:.0f}", f"t{t:.0f}")
                    values = {LOSS[:2]: loss, TOP1[:2]: 1 - (0.05 + loss**2 / 2)}
                    name = f"mae-m{n:.0f}-n{u:.0f}-t{t:.0f}-s{seed}"
                    whole = {key: int(value) for key, value in at.items()}
                    found.append(
                        Run(name, setting, f"n{u:.0f}", f"s{seed}", **whole, flops=1.0, values=values, errors={})
                    )
    return found


def chosen(made, measures=(LOSS,), **options):
    found = choose(
        made, measures, {}, Config(**{"bootstrap": 100, "laws": ("joint", "repetition", "model_data"), **options})
    )
    return next(one for one in found[f"{measures[-1].task} {measures[-1].metric}"] if one["scope"] == "objective")


def candidate(entry, law):
    return next(one for one in entry["candidates"] if one["law"] == law)


@pytest.mark.parametrize("truth", ["joint", "repetition"])
def test_the_law_behind_the_runs_is_chosen(truth):
    entry = chosen(runs(truth))
    assert entry["chosen"] == truth
    best = entry["candidates"][0]
    assert best["rmse_holdout"] < 0.5 * min(entry["baselines"].values())
    assert [one["axis"] for one in entry["holdouts"]] == ["unique_images", "encoder_params", "images_seen"]
    assert best["r2"] > 0.98
    exact = candidate(chosen(runs(truth, noise=1e-7), laws=(truth,)), truth)["parameters"]
    assert [one["value"] for one in exact.values()] == pytest.approx(list(TRUTHS[truth]), rel=0.01)


def test_the_choice_is_by_the_forecast_and_not_by_the_fit(whole_study):
    (entry,) = (
        one
        for one in json.loads((whole_study / "fit" / "fit.json").read_text())["laws"]["pretrain val_loss"]
        if one["scope"] == "objective"
    )
    judged = [one for one in entry["candidates"] if one["rmse_holdout"] is not None]
    assert entry["chosen"] == min(judged, key=lambda one: one["rmse_holdout"])["law"]
    assert entry["chosen"] != min(judged, key=lambda one: one["rmse"])["law"]


def test_errors_are_those_of_the_forecasts():
    entry = chosen(runs())
    observed = np.array(entry["rows"]["observed"])
    squares = []
    for part, ahead in zip(entry["holdouts"], entry["candidates"][0]["holdouts"], strict=True):
        largest = np.array(entry["rows"][part["axis"]])
        assert part["rows"] == np.flatnonzero(largest == largest.max()).tolist()
        errors = observed[part["rows"]] - np.array(ahead["forecast"])
        assert ahead["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)
        squares += [*(errors**2)]
    assert entry["candidates"][0]["rmse_holdout"] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)
    largest_run = max(i for i in range(len(observed)) if i not in part["rows"])
    last = observed[part["rows"]] - observed[largest_run]
    assert part["baselines"]["last_value"] == pytest.approx(np.sqrt(np.mean(last**2)), rel=1e-5)


def test_what_is_held_out_is_not_looked_at():
    """Other values of the runs held out leave every forecast of them as it was, that of a task from the loss as well."""
    made = runs(seen=SEEN[:1])
    laws = ("model_data", "task")
    others = [
        replace(run, values={LOSS[:2]: 2 * run.values[LOSS[:2]], TOP1[:2]: 0.5})
        if run.unique_images == max(IMAGES)
        else run
        for run in made
    ]
    holdout = f"unique_images == {max(IMAGES):.0f}"
    one, two = (chosen(of, (LOSS, TOP1), laws=laws, holdout=holdout) for of in (made, others))
    for law in laws:
        assert candidate(one, law)["holdouts"][0]["forecast"] == candidate(two, law)["holdouts"][0]["forecast"]
    assert candidate(one, "task")["through"] == "model_data"
    assert candidate(one, "task")["rmse_holdout"] < min(one["baselines"].values())


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(random):
    made = runs(images=IMAGES[:4], seen=SEEN[:1])
    turned = list(made)
    random.shuffle(turned)
    one, two = chosen(made, laws=("model_data",)), chosen(turned, laws=("model_data",))
    assert one["chosen"] == two["chosen"]
    assert candidate(one, "model_data")["parameters"] == candidate(two, "model_data")["parameters"]
    assert one["candidates"][0]["rmse_holdout"] == pytest.approx(two["candidates"][0]["rmse_holdout"], rel=1e-7)
    ahead = [dict(zip(e["rows"]["run"], e["candidates"][0]["predictions"]["value"], strict=True)) for e in (one, two)]
    assert ahead[0] == ahead[1]


@settings(max_examples=8, deadline=None)
@given(st.tuples(*[st.sampled_from([1, 10, 1000, 7])] * 3))
def test_units_change_nothing_but_the_numbers_of_the_parameters(factors):
    made = runs(images=IMAGES[:4], noise=0.004)
    axes = ("encoder_params", "unique_images", "images_seen")
    scaled = [
        replace(run, **{axis: int(factor) * getattr(run, axis) for axis, factor in zip(axes, factors, strict=True)})
        for run in made
    ]
    one, two = chosen(made, laws=("joint", "model_data")), chosen(scaled, laws=("joint", "model_data"))
    assert one["chosen"] == two["chosen"]
    for law in ("joint", "model_data"):
        a, b = candidate(one, law), candidate(two, law)
        assert a["rmse_holdout"] == pytest.approx(b["rmse_holdout"], rel=1e-2)
        assert a["r2"] == pytest.approx(b["r2"], abs=1e-4)
        assert a["parameters"]["alpha"]["value"] == pytest.approx(b["parameters"]["alpha"]["value"], rel=1e-2)
    assert one["baselines"] == pytest.approx(two["baselines"])


def test_copies_of_seeds_are_no_new_points():
    made = runs(models=MODELS[:2], images=IMAGES[:2], seen=SEEN[:1])
    copies = [replace(run, name=f"{run.name}{i}", seed=f"s{i}") for run in made for i in range(5)]
    for few in (made, copies):
        entry = chosen(few, laws=("model_data",))
        assert entry["candidates"] == []
        (skipped,) = entry["skipped"]
        assert skipped["reason"].startswith(
            "4 different points cannot pin down the 5 parameters of the law 'model_data'"
        )
    enough = runs(images=IMAGES[:4], seen=SEEN[:1])
    twice = [replace(run, name=f"{run.name}{i}", seed=f"s{i}") for run in enough for i in range(2)]
    one, two = chosen(enough, laws=("model_data",)), chosen(twice, laws=("model_data",))
    assert one["candidates"][0]["r2"] == pytest.approx(two["candidates"][0]["r2"], abs=1e-3)
    assert one["baselines"] == pytest.approx(two["baselines"])


def test_what_a_study_cannot_tell_is_a_sentence_and_no_error():
    one_model = chosen(runs(models=MODELS[:1]))
    assert {one["law"] for one in one_model["skipped"]} == {"joint", "repetition", "model_data"}
    assert all("encoder_params is 5e+07 in every row" in one["reason"] for one in one_model["skipped"])
    one_length = chosen(runs("model_data", seen=SEEN[:1]))
    assert one_length["chosen"] == "model_data"
    assert all("images_seen is 2.5e+08 in every row" in one["reason"] for one in one_length["skipped"])
    constant = chosen([replace(run, values={LOSS[:2]: 0.5}) for run in runs()])
    assert all("val_loss is the same in all 60 rows" in one["reason"] for one in constant["skipped"])
    assert constant["chosen"] is None
    two = chosen(runs(models=MODELS[:2], images=IMAGES[:2], seen=SEEN[:2]), laws=("model_data", "joint"))
    assert two["chosen"] is None
    assert two["note"].startswith("nothing was forecast: no 3 different values of unique_images or encoder_params")
    assert [one["note"] for one in two["candidates"]] == ["there was nothing to forecast."]
    few = chosen(runs(models=MODELS[:3], images=IMAGES[:3], seen=SEEN[:1], truth="model_data"), laws=("model_data",))
    assert few["chosen"] == "model_data"
    left = chosen(runs(models=MODELS[:2], images=IMAGES[:3], seen=SEEN[:1], truth="model_data"), laws=("model_data",))
    assert left["chosen"] is None
    assert left["candidates"][0]["rmse_holdout"] is None
    assert left["candidates"][0]["note"].startswith(
        "without unique_images = 640,000: 4 different points cannot pin down"
    )


def test_a_holdout_of_nothing_is_said_and_a_wrong_one_refused():
    entry = chosen(runs(seen=SEEN[:1], truth="model_data"), laws=("model_data",), holdout="unique_images > 1e12")
    assert entry["note"] == "nothing was forecast: fit.holdout holds out none of these 20 runs."
    for wrong, sentence in (
        ("unique_image > 3", "did you mean 'unique_images'"),
        ("unique_images >", "is no condition"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Config(holdout=wrong)
    with pytest.raises(ValueError, match="there is no law called 'powr'; did you mean 'power'"):
        Config(laws=("powr",))


def test_laws_of_images_alone_are_of_a_setting():
    images = tuple(float(n) for n in np.geomspace(1e4, 1e7, 9))
    made = runs("model_data", images=images, models=MODELS[:2], seen=SEEN[:1])
    found = choose(made, (LOSS,), {}, Config(bootstrap=100, laws=("power", "m4", "broken")))["pretrain val_loss"]
    assert [(one["scope"], one["model"]) for one in found] == [("setting", "m50000000"), ("setting", "m90000000")]
    for one in found:
        assert {law["law"] for law in one["candidates"]} == {"power", "m4", "broken"}
        assert one["chosen"] == min(one["candidates"], key=lambda law: law["rmse_holdout"])["law"]
    few = choose(made[:4], (LOSS,), {}, Config(bootstrap=100, laws=("power", "m4")))["pretrain val_loss"]
    assert [law["law"] for law in few[0]["candidates"]] == ["power"]
    assert few[0]["skipped"][0]["reason"].startswith(
        "4 different points cannot pin down the 5 parameters of the law 'm4'"
    )


def test_sizes_that_rose_are_left_out_of_a_setting_if_enough_remain():
    made = runs("model_data", models=MODELS[:1], seen=SEEN[:1])
    found = choose(made, (LOSS,), {made[0].setting: frozenset({(None, int(IMAGES[0]))})}, Config(bootstrap=100))[
        "pretrain val_loss"
    ]
    entry = next(one for one in found if one["scope"] == "setting")
    assert entry["left_out"] == [128000]
    assert entry["rows"]["unique_images"] == [int(n) for n in IMAGES[1:]]
    gone = frozenset((None, int(n)) for n in IMAGES[:3])
    found = choose(made, (LOSS,), {made[0].setting: gone}, Config(bootstrap=100))["pretrain val_loss"]
    assert next(one for one in found if one["scope"] == "setting")["left_out"] == []


def test_what_was_chosen_is_told():
    found = choose(runs("model_data", seen=SEEN[:1]), (LOSS,), {}, Config(bootstrap=100, laws=("model_data",)))
    (told,) = sentences(found)
    assert told.startswith("mae, pretrain val_loss: model_data, off by 0.0")
    (told,) = sentences(choose(runs(models=MODELS[:1]), (LOSS,), {}, Config(bootstrap=100, laws=("joint",))))
    assert told == "mae, pretrain val_loss: no law was chosen. See 'laws' in fit.json for why."


@pytest.mark.parametrize(("value", "said"), [(None, "is None"), (float("nan"), "is nan"), (float("inf"), "is inf")])
def test_the_stage_refuses_a_missing_or_infinite_value(whole_study, tmp_path, value, said):
    rows = read_results(whole_study / "results" / "results.parquet")
    wrong = next(i for i, row in enumerate(rows) if row.metric == "val_loss")
    rows[wrong] = replace(rows[wrong], value=value)
    write_results(tmp_path / "results.parquet", rows)
    with pytest.raises(UserError, match=f"pretrain val_loss of mae-.* {said}; run 'dvc repro collect'"):
        fit(tmp_path / "results.parquet", {"bootstrap": 100}, tmp_path / "fit")


@pytest.mark.parametrize(
    ("change", "law", "said"),
    [
        ({"loss": None}, "model_data", "val_loss of 'row 1' is missing; it must be a finite number"),
        ({"loss": float("inf")}, "model_data", "val_loss of 'row 1' is inf; it must be a finite number"),
        ({"loss": -1.0}, "model_data", "val_loss of 'row 1' is -1; it must be above 0"),
        ({"images": None}, "model_data", "unique_images of 'row 1' is missing; it must be a positive, finite number"),
        ({"images": 0}, "model_data", "unique_images of 'row 1' is 0; it must be a positive, finite number"),
        ({"every": {"loss": 0.5}}, "model_data", "val_loss is the same in all 8 rows"),
        (
            {"every": {"params": 7}},
            "model_data",
            "encoder_params is 7 in every row, so that the law 'model_data' cannot tell",
        ),
        ({}, "joint", "the law 'joint' is in images_seen, which the table does not give"),
        ({}, "broken", "4 different points cannot pin down the 6 parameters of the law 'broken'"),
    ],
)
def test_the_verb_refuses_what_cannot_be_fitted(tmp_path, change, law, said):
    table = {
        "params": [1e6] * 4 + [4e6] * 4,
        "images": [100, 200, 400, 800] * 2,
        "loss": [0.9, 0.8, 0.72, 0.66, 0.85, 0.74, 0.65, 0.58],
    }
    for column, value in change.get("every", {}).items():
        table[column] = [value] * 8
    for column, value in change.items():
        if column != "every":
            table[column][0] = value
    pyarrow.csv.write_csv(pa.table(table), tmp_path / "t.csv")
    (tmp_path / "map.yaml").write_text(
        "metric: {column: loss, name: val_loss}\nvariables: {encoder_params: {column: params}, unique_images: {column: images}}\n"
    )
    with pytest.raises(UserError) as refused:
        fit_table(tmp_path / "t.csv", law, tmp_path / "f.json", mapping=tmp_path / "map.yaml", holdout=None, options={})
    assert said in str(refused.value)
