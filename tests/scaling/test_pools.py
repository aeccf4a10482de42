"""Runs of several pools: each has a level of its own in every law, which comes out with its interval, or is refused."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from known_laws import law_of
from test_fit_table import MAP
from test_import_runs import XIE

from mimcore.definition import resolve
from mimcore.errors import UserError
from mimcore.scaling.choose import choose
from mimcore.scaling.fit import fit
from mimcore.scaling.fit_options import Config
from mimcore.scaling.fit_table import fit_table
from mimcore.scaling.import_runs import runs_from
from mimcore.scaling.imported import rows_of as rows_of_imported
from mimcore.scaling.judge import splits
from mimcore.scaling.mapping import read_candidates, read_map
from mimcore.scaling.next_runs import next_runs
from mimcore.scaling.outlook import LOSS as ASKED
from mimcore.scaling.outlook import Asked, divide, outlook
from mimcore.scaling.pools import at_pool, fit_levels, levelled, levels, shifts
from mimcore.scaling.rows import AXES, observations
from mimcore.scaling.table import Measure, Row, Run, Setting, read_results, runs_of, write_results
from mimcore.scaling.words import levels_of

LOSS, TOP1 = Measure("pretrain", "val_loss", False), Measure("linear", "top1", True)
TRUTHS = {"joint": (0.3, 30.0, 0.35, 3.0, 0.3, 30.0, 0.3), "model_data": (0.3, 30.0, 0.35, 3.0, 0.3)}
MODELS, SEEN = (5e7, 9e7, 2e8), (2.5e8, 5e8, 1e9)
#: The sizes of each pool: the further one has two, of which one lies between those of the first and one beyond.
SIZES = {"near": (1e5, 2e5, 4e5, 1.6e6), "far": (8e5, 6.4e6)}


def runs(shift=0.05, sizes=None, truth="model_data", seen=SEEN[:1], models=MODELS, noise=0.001, seed=0, names=None):
    """Runs of a known law whose further pools lie ``shift`` higher; the task's error is a third of the loss."""
    random = np.random.default_rng(seed)
    found = []
    for pool, images in (sizes or SIZES).items():
        for n, u, t in ((n, u, t) for n in models for u in images for t in seen):
            at = {"encoder_params": n, "unique_images": u, "images_seen": t}
            columns = {name: np.array([value]) for name, value in at.items()}
            value = float(law_of(truth).predict(np.array([TRUTHS[truth]]), columns)[0, 0])
            value = (value + shift * (pool != "near")) * float(np.exp(noise * random.standard_normal()))
            whole = {key: int(value) for key, value in at.items()}
            name = f"mae-m{n:.0f}-{pool}{u:.0f}-t{t:.0f}-s0"
            values = {LOSS[:2]: value, TOP1[:2]: 1 - value / 3}
            setting, called = Setting("mae", f"m{n:.0f}", f"t{t:.0f}"), (names or {}).get(pool, pool)
            run = Run(
                name, setting, f"{pool}{u:.0f}", "s0", **whole, flops=n * t, values=values, errors={}, pool=called
            )
            found.append(run)
    return found


def chosen(made, measure=LOSS, laws=("model_data",), **options):
    found = choose(made, (measure,), {}, Config(**{"bootstrap": 200, "laws": laws, **options}))
    return next(one for one in found[f"{measure.task} {measure.metric}"] if one["scope"] == "objective")


def without_pools(made):
    return [replace(run, pool=None) for run in made]


def test_a_known_shift_comes_back_with_an_interval_that_holds_it():
    entry = chosen(runs(0.05, seed=1))
    assert entry["pools"] == ["near", "far"]
    assert entry["rows"]["pool"] == ["near"] * 12 + ["far"] * 6
    found = entry["candidates"][0]
    assert found["formula"].endswith(" + shift_pool_far * pool_far")
    parameter, by = found["parameters"]["shift_pool_far"], found["shifts"]["far"]
    assert [parameter[part] for part in ("value", "low", "high")] == [by[part] for part in ("value", "low", "high")]
    assert by["low"] < 0.05 < by["high"]
    assert 0.045 < by["value"] < 0.055
    assert by["high"] - by["low"] < 0.03


def test_how_often_the_interval_holds_the_shift():
    held = []
    for seed in range(12):
        rows = levelled(observations(runs(0.03, noise=0.004, seed=seed), LOSS))
        (_, low, high) = shifts(fit_levels(law_of("model_data"), rows, {"bootstrap": 200, "confidence": 0.9}))["far"]
        held.append(low <= 0.03 <= high)
    assert sum(held) >= 8  # of 12 at 90 %: a count of 7 or fewer has a chance of 0.4 %


def test_forecasts_of_each_pool_are_better_than_of_all_as_one():
    made = runs(0.05)
    largest = {pool: max(images) for pool, images in SIZES.items()}
    kept = [run for run in made if run.unique_images != largest[run.pool]]
    apart, together = (
        fit_levels(law_of("model_data"), levelled(observations(part, LOSS)), {"bootstrap": 200})
        for part in (kept, without_pools(kept))
    )
    errors = []
    for pool, images in largest.items():
        held = [run for run in made if run.pool == pool and run.unique_images == images]
        observed = np.array([run.values[LOSS[:2]] for run in held])
        variables = observations(held, LOSS).variables
        ahead = apart.predict({**variables, **at_pool(apart, pool, len(held))}, run=True)
        assert np.all((ahead.low < observed) & (observed < ahead.high))
        errors.append([of - observed for of in (ahead.mean, together.predict(variables).mean)])
    error, without = np.sqrt(np.mean(np.square(errors), axis=(0, 2)))
    assert error < 0.003
    assert without > 5 * error
    assert (
        chosen(made)["candidates"][0]["rmse_holdout"]
        < 0.2 * chosen(without_pools(made))["candidates"][0]["rmse_holdout"]
    )


@pytest.mark.parametrize("known", ["digits", None])
def test_one_pool_changes_nothing_at_all(known):
    one = [replace(run, pool=known) for run in runs(0.0)]
    laws = ("power", "model_data")
    before = choose(without_pools(one), (LOSS, TOP1), {}, Config(bootstrap=100, laws=laws))
    now = choose(one, (LOSS, TOP1), {}, Config(bootstrap=100, laws=laws))
    assert json.dumps(now) == json.dumps(before)
    assert "shift" not in json.dumps(now)
    assert "pool" not in json.dumps(now)


@settings(max_examples=15, deadline=None)
@given(shift=st.floats(-0.1, 0.3), seed=st.integers(0, 100))
def test_without_noise_the_shift_is_exact(shift, seed):
    assume(abs(shift) > 1e-3)
    rows = levelled(observations(runs(shift, noise=1e-7, seed=seed), LOSS))
    found = fit_levels(law_of("model_data"), rows, {"bootstrap": 0})
    assert shifts(found)["far"][0] == pytest.approx(shift, rel=2e-3, abs=1e-5)
    assert found.parameters[:5] == pytest.approx(np.array(TRUTHS["model_data"]), rel=0.02)


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["a", "zoo", "in22k", "val_loss", "unique_images"]))
def test_neither_the_order_of_runs_nor_the_name_of_a_pool_matters(random, name):
    made = runs(0.05)
    turned = runs(0.05, names={"far": name})
    random.shuffle(turned)
    one, two = (
        fit_levels(law_of("model_data"), levelled(observations(of, LOSS)), {"bootstrap": 100}) for of in (made, turned)
    )
    assert shifts(one)["far"] == shifts(two)[name]
    assert one.parameters.tolist() == two.parameters.tolist()


@settings(max_examples=8, deadline=None)
@given(st.floats(0.01, 0.2))
def test_which_pool_comes_first_turns_the_sign_and_no_forecast(shift):
    sizes = {"near": SIZES["near"], "far": (8e5, 3.2e6, 6.4e6, 1.28e7)}
    one = levelled(observations(runs(shift, sizes, names={"near": "a", "far": "b"}), LOSS))
    two = levelled(observations(runs(shift, sizes, names={"near": "b", "far": "a"}), LOSS))
    first, second = (fit_levels(law_of("model_data"), rows, {"bootstrap": 0}) for rows in (one, two))
    assert levels(one.columns["pool"].tolist()) == levels(two.columns["pool"].tolist()) == ("a", "b")
    assert shifts(first)["b"][0] == pytest.approx(-shifts(second)["b"][0], rel=1e-3, abs=1e-5)
    assert first.fitted == pytest.approx(second.fitted, rel=1e-5)


def test_more_of_a_score_is_less_of_its_error():
    by = chosen(runs(0.06, seed=1), TOP1)["candidates"][0]["shifts"]["far"]
    assert by["low"] < -0.02 < by["high"]  # a third of what the loss is higher by
    (said,) = levels_of(
        {"laws": choose(runs(0.06, seed=1), (TOP1,), {}, Config(bootstrap=100, laws=("model_data",)))}, TOP1
    )
    assert said.startswith("The linear top1 of runs on pool far lies 0.0199")
    assert " below that of runs on near of the same model, images and length (law 'model_data', mae)." in said


def test_a_shift_that_may_be_none_is_said_to_be():
    found = {"laws": choose(runs(0.0, noise=0.01, seed=1), (LOSS,), {}, Config(bootstrap=100, laws=("model_data",)))}
    (said,) = levels_of(found)
    assert said.endswith("The interval covers 0, so that there may be no difference.")


def test_a_law_without_images_cannot_part_the_pool_from_its_size():
    made = runs(0.05, truth="joint", seen=SEEN)
    found = {"laws": choose(made, (LOSS,), {}, Config(bootstrap=100, laws=("chinchilla",)))}
    (said,) = levels_of(found)
    assert "That law is not in unique images, so that this holds what their number does as well." in said


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (
            {"near": (1e5, 4e5), "far": (1.6e6,)},
            False,
        ),  # three numbers of images, and three things that say what each gives
        ({"near": (1e5,), "far": (4e5,), "third": (1.6e6, 6.4e6)}, False),
        ({"near": (1e5, 4e5, 1.6e6), "far": (6.4e6,)}, True),
        ({"near": (1e5, 4e5, 8e5), "far": (4e5,)}, True),
        ({"near": (1e5, 4e5), "far": (1e5, 4e5)}, True),
    ],
)
def test_a_pool_whose_size_would_say_the_same_is_refused(sizes, told):
    rows = levelled(observations(runs(0.05, sizes, models=(*MODELS, 4e8, 8e8)), LOSS))
    if told:
        assert abs(fit_levels(law_of("model_data"), rows, {"bootstrap": 0}).parameters[-1]) == pytest.approx(
            0.05, abs=0.02
        )
        return
    with pytest.raises(
        UserError, match=r"cannot tell its level from what the law 'model_data' says of scale.*'pools: alike'"
    ):
        fit_levels(law_of("model_data"), rows, {"bootstrap": 0})


def test_a_law_that_cannot_tell_a_level_is_left_out_and_said():
    made = runs(0.05, {"near": (1e5, 4e5), "far": (1.6e6,)}, models=(*MODELS, 4e8, 8e8), truth="joint", seen=SEEN)
    entry = chosen(made, laws=("joint", "chinchilla"))
    assert entry["chosen"] == "chinchilla"
    (skipped,) = entry["skipped"]
    assert skipped["law"] == "joint"
    assert skipped["reason"].startswith(
        "the 15 runs of pool 'far' cannot tell its level from what the law 'joint' says"
    )
    assert chosen(without_pools(made), laws=("joint",))["skipped"] == []


def test_what_is_held_out_leaves_runs_that_tell_each_level():
    rows = observations(runs(sizes={"near": SIZES["near"], "far": (6.4e6,)}), LOSS)
    parts, _ = splits(rows, AXES, None)
    assert [part.rule for part in parts] == ["unique_images = 1,600,000 of pool near", "encoder_params = 200,000,000"]
    assert set(rows.columns["pool"][~parts[0].held_out]) == {"near", "far"}
    assert set(rows.columns["pool"][parts[1].held_out]) == {"near", "far"}
    entry = chosen(runs(), holdout="pool == 'far'")
    assert entry["chosen"] is None
    assert entry["candidates"][0]["note"].startswith(
        "without pool == 'far': no run of pool 'far' is among these 12, so that"
    )


def test_runs_of_no_known_pool_are_taken_for_the_first():
    made = runs(0.05)
    some = [replace(run, pool=None) if run.pool == "near" and i % 3 == 0 else run for i, run in enumerate(made)]
    assert chosen(some)["candidates"][0]["shifts"] == chosen(made)["candidates"][0]["shifts"]


def test_advice_and_budgets_are_of_a_pool():
    one = outlook(runs(0.05, truth="joint", seen=SEEN), "mae", ASKED, 0.9, ["joint"])
    divisions = divide(one)
    assert [part.pool for part in divisions] == ["near", "far"]
    assert [part.unique_images for part in divisions] == [1.6e6, 6.4e6]
    ends = [part.frontier[-1] for part in divisions]
    truth = law_of("joint")
    for part, end, shift in zip(divisions, ends, (0.0, 0.05), strict=True):
        at = {"encoder_params": end.encoder_params.value, "images_seen": end.images_seen.value}
        at["unique_images"] = part.unique_images
        true = truth.predict(np.array([TRUTHS["joint"]]), {name: np.array([value]) for name, value in at.items()})
        assert end.metric.value == pytest.approx(true[0, 0] + shift, rel=0.02)
    advice = next_runs(one)
    assert advice.target == "m200000000 on 13M images of far, 1B images seen"
    lowest = {pool: min(run.values[LOSS[:2]] for run in one.runs if run.pool == pool) for pool in SIZES}
    for run in (*advice.telling, *advice.bettering):
        assert run.unique_images in (*SIZES[run.pool], 2 * max(SIZES[run.pool]))
        assert run.better == pytest.approx(lowest[run.pool] - run.value[0])


def test_two_steps_have_the_levels_of_the_loss():
    """The truth's score is a third of the loss away from 1, so that a pool's level is in the loss, and none is left in the link."""
    one = outlook(runs(0.05, truth="joint", seen=SEEN), "mae", Asked(TOP1), 0.9, ["task"], "joint")
    assert set(at_pool(one.fit, "far", 1)) == {"pool_far"}
    for part, shift in zip(divide(one), (0.0, 0.05), strict=True):
        end = part.frontier[-1]
        at = {"encoder_params": end.encoder_params.value, "images_seen": end.images_seen.value}
        at["unique_images"] = part.unique_images
        true = law_of("joint").predict(
            np.array([TRUTHS["joint"]]), {name: np.array([value]) for name, value in at.items()}
        )
        assert end.metric.value == pytest.approx(
            1 - (true[0, 0] + shift) / 3, abs=0.003
        )  # a third of the shift is 0.017


def rows_of(made):
    for run in made:
        about = {"kind": "run", "run": run.name, **run.setting._asdict(), "subset": run.subset, "seed": run.seed}
        about |= {
            name: getattr(run, name) for name in ("unique_images", "images_seen", "encoder_params", "flops", "pool")
        }
        about |= {"standard_error": None}
        for metric in ("val_loss", "seen_loss", "val_loss_minimum"):
            value, headline = run.values[LOSS[:2]], metric == "val_loss"
            yield Row(**about, task="pretrain", metric=metric, value=value, higher_is_better=False, headline=headline)
        yield Row(
            **about, task="linear", metric="top1", value=run.values[TOP1[:2]], higher_is_better=True, headline=True
        )


def test_the_stage_fits_curves_of_one_pool_and_can_be_told_that_all_are_alike(tmp_path):
    table = tmp_path / "results.parquet"
    write_results(table, rows_of(runs(0.05, {"near": SIZES["near"], "far": (8e5,)})))
    assert {row.pool for row in read_results(table)} == {"near", "far"}
    options = {"bootstrap": 100, "laws": ["model_data"], "claims": {}}
    found = fit(table, options, tmp_path / "fit")
    assert found["options"]["pools"] == "shifted"
    curves = [one for one in found["fits"] if one["task"] == "pretrain"]
    assert [(one["model"], one["pool"]) for one in curves] == [(f"m{n:.0f}", "near") for n in MODELS]
    assert [point["unique_images"] for point in curves[0]["points"]] == [int(n) for n in SIZES["near"]]
    assert "of pool near alone: the runs of far are of another level" in curves[0]["note"]
    alike = fit(table, {**options, "pools": "alike"}, tmp_path / "alike")
    assert alike["options"]["pools"] == "alike"
    assert "shifts" not in json.dumps(alike)
    assert "pool" not in alike["fits"][0]
    assert len(alike["fits"][0]["points"]) == 5
    write_results(table, rows_of(runs(0.05, {"near": SIZES["near"], "far": (1e5, 2e5, 8e5, 6.4e6)})))
    curves = [one for one in fit(table, options, tmp_path / "both")["fits"] if one["task"] == "pretrain"]
    assert [(one["model"], one["pool"]) for one in curves[:2]] == [("m50000000", "far"), ("m50000000", "near")]


def test_a_wrong_option_is_a_sentence():
    with pytest.raises(UserError, match=r"fit\.pools: input should be 'shifted' or 'alike' \(got 'apart'\)\."):
        resolve(Config, {"pools": "apart"}, "fit")


IMPORT = """
coordinates: {objective: {value: mae}, model: {column: model}, subset: {column: subset}, schedule: {value: long}, seed: {value: s0}}
variables: {encoder_params: {column: params}, unique_images: {column: images}, images_seen: {column: seen}}
metrics: {pretrain: {val_loss: {column: loss}}}
"""
TABLE = """
metric: {column: loss, name: val_loss}
variables: {encoder_params: {column: params}, unique_images: {column: images}, further: {column: at, values: {web: 1}, otherwise: 0}}
"""
#: Pools as somebody else's table has them.
AT = {"near": "photos", "far": "web"}


@pytest.fixture
def theirs(tmp_path):
    """Somebody's table of the runs of a known law, whose further pool lies 0.05 higher."""
    made = runs(0.05, seed=1)
    columns = {
        "model": [run.setting.model for run in made],
        "subset": [run.subset for run in made],
        "params": [run.encoder_params for run in made],
        "images": [run.unique_images for run in made],
        "seen": [run.images_seen for run in made],
        "loss": [run.values[LOSS[:2]] for run in made],
        "at": [AT[run.pool] for run in made],
    }
    pyarrow.csv.write_csv(pa.table(columns), tmp_path / "theirs.csv")
    return tmp_path / "theirs.csv"


def test_imported_runs_are_told_apart_by_their_pool(theirs):
    path = theirs.parent / "map.yaml"
    path.write_text(IMPORT + "pool: {column: at, values: {photos: near, web: far}}\n")
    imported = runs_of(rows_of_imported(runs_from(theirs, path), (), path), imported=True)
    entry = chosen(imported)
    by = entry["candidates"][0]["shifts"]["far"]
    assert entry["pools"] == ["near", "far"]
    assert by["low"] < 0.05 < by["high"]
    assert by["value"] == pytest.approx(chosen(runs(0.05, seed=1))["candidates"][0]["shifts"]["far"]["value"], rel=1e-4)
    path.write_text(IMPORT)
    as_one = chosen(runs_of(rows_of_imported(runs_from(theirs, path), (), path), imported=True))["candidates"][0]
    assert "shifts" not in as_one
    assert as_one["rmse"] > 5 * entry["candidates"][0]["rmse"]


def test_a_table_has_the_level_that_the_study_has(theirs, tmp_path):
    """A pool in the mapping, a covariate of 0 and 1 and the runs of a study come to one law; a score moves the other way."""
    options = {"bootstrap": 200, "confidence": 0.95}
    ways = {"pool": "pool: {column: at}\n", "covariate": "covariates: [further]\n", "neither": ""}
    found = {}
    for way, text in ways.items():
        (tmp_path / "map.yaml").write_text(TABLE + text)
        found[way] = fit_table(
            theirs, "model_data", tmp_path / "f.json", mapping=tmp_path / "map.yaml", holdout=None, options=options
        )
    by = found["pool"]["shifts"]["web"]
    assert by["low"] < 0.05 < by["high"]
    in_study = chosen(runs(0.05, seed=1))["candidates"][0]
    assert by["value"] == pytest.approx(in_study["shifts"]["far"]["value"], rel=1e-4)
    assert found["pool"]["r2"] == pytest.approx(in_study["r2"], rel=1e-6)
    assert found["pool"]["parameters"]["shift_pool_web"]["value"] == by["value"]
    assert found["pool"]["law"]["formula"].endswith(" + shift_pool_web * pool_web")
    assert found["covariate"]["parameters"]["shift_further"]["value"] == pytest.approx(by["value"], rel=1e-6)
    assert found["covariate"]["rmse"] == pytest.approx(found["pool"]["rmse"], rel=1e-6)
    assert found["neither"]["rmse"] > 5 * found["pool"]["rmse"]
    assert not {"shifts"} & {*found["covariate"], *found["neither"]}
    score = "metric: {column: loss, name: score, higher_is_better: true, ceiling: 1}"
    (tmp_path / "map.yaml").write_text(TABLE.replace("metric: {column: loss, name: val_loss}", score) + ways["pool"])
    pyarrow.csv.write_csv(turned(theirs), theirs)
    moved = fit_table(
        theirs, "model_data", tmp_path / "f.json", mapping=tmp_path / "map.yaml", holdout=None, options=options
    )
    assert moved["shifts"]["web"]["value"] == pytest.approx(-by["value"], rel=1e-4)


def turned(path):
    """The table with a score in the place of its loss."""
    table = pyarrow.csv.read_csv(path)
    scores = pa.array([1 - value for value in table["loss"].to_pylist()])
    return table.set_column(table.column_names.index("loss"), "loss", scores)


def test_results_of_a_study_have_levels_without_a_mapping(tmp_path):
    table = tmp_path / "results.parquet"
    made = runs(0.05, seed=1)
    write_results(table, rows_of(made))
    holdout = "unique_images == 1600000 or unique_images == 6400000"
    found = fit_table(
        table, "model_data", tmp_path / "f.json", mapping=None, holdout=holdout, options={"bootstrap": 100}
    )
    assert found["shifts"].keys() == {"far"}
    assert found["shifts"]["far"]["value"] == pytest.approx(0.05, abs=0.02)
    assert found["comparison"][0]["rmse_holdout"] == pytest.approx(
        min(one["rmse_holdout"] for one in found["comparison"] if "rmse_holdout" in one)
    )
    (own,) = (one for one in found["comparison"] if one["law"] == "model_data")
    assert own["rmse_holdout"] == pytest.approx(found["rmse_holdout"], rel=1e-4)
    write_results(table, rows_of(without_pools(made)))
    as_one = fit_table(
        table, "model_data", tmp_path / "f.json", mapping=None, holdout=holdout, options={"bootstrap": 0}
    )
    assert "shifts" not in as_one
    assert as_one["rmse_holdout"] > 2 * found["rmse_holdout"]
    write_results(table, rows_of(made))
    with pytest.raises(UserError, match=r"no run of pool 'far' is among these 12, so that its level cannot be told"):
        fit_table(
            table, "model_data", tmp_path / "f.json", mapping=None, holdout="pool == 'far'", options={"bootstrap": 0}
        )


def test_what_is_wrong_with_the_pool_of_a_table_is_said(theirs, tmp_path):
    (tmp_path / "map.yaml").write_text(TABLE + "pool: {column: att}\n")
    with pytest.raises(UserError, match=r"has no column 'att', which the mapping names; did you mean 'at'"):
        fit_table(theirs, "model_data", tmp_path / "f.json", mapping=tmp_path / "map.yaml", holdout=None, options={})
    (tmp_path / "map.yaml").write_text(TABLE + "pool: at\n")
    with pytest.raises(UserError, match=r"map\.yaml\.pool: "):
        fit_table(theirs, "model_data", tmp_path / "f.json", mapping=tmp_path / "map.yaml", holdout=None, options={})


def test_candidates_of_a_table_may_name_their_pool(theirs, tmp_path):
    (tmp_path / "map.yaml").write_text(TABLE + "labels: [model, subset]\npool: {column: at}\ncovariates: [further]\n")
    variables, labels = read_candidates(theirs, read_map(tmp_path / "map.yaml"))
    assert variables["pool_web"].tolist() == ["far" in label for label in labels]
    assert variables["pool_photos"].tolist() == ["near" in label for label in labels]


@pytest.mark.skipif(not XIE.is_file(), reason="the published table is not part of the package")
def test_a_pool_and_a_covariate_say_the_same_of_the_published_runs(tmp_path):
    text = MAP.read_text(encoding="utf-8")
    assert "covariates: [shifted]" in text
    pool = "pool: {column: data, values: {ImageNet-22K: in22k}, otherwise: in1k}"
    (tmp_path / "map.yaml").write_text(text.replace("covariates: [shifted]", pool))
    one, two = (
        fit_table(XIE, "repetition", tmp_path / "f.json", mapping=of, holdout=None, options={"bootstrap": 0})
        for of in (MAP, tmp_path / "map.yaml")
    )
    assert two["shifts"]["in22k"]["value"] == pytest.approx(0.0048, abs=0.0001)
    assert two["shifts"]["in22k"]["value"] == pytest.approx(one["parameters"]["shift_shifted"]["value"], rel=1e-3)
    assert two["r2"] == pytest.approx(one["r2"], abs=1e-6)


@pytest.mark.skipif(not XIE.is_file(), reason="the published table is not part of the package")
def test_the_published_runs_have_the_shift_that_a_covariate_finds():
    """ImageNet-22K's runs in a study lie as far off as ``mimcore fit TABLE --map`` says with its covariate."""
    fractions = {
        "ImageNet-1K 10%": 128117,
        "ImageNet-1K 20%": 256233,
        "ImageNet-1K 50%": 640584,
        "ImageNet-1K": 1281167,
    }
    images = fractions | {"ImageNet-22K": 14197122}
    made = []
    with XIE.open(encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            if line["metric"] == "val_loss_in1k_val" and line["data"] in images:
                name, params = f"simmim-{line['model']}-{line['data']}-{line['iterations']}-s0", float(line["params_m"])
                facts = {"encoder_params": int(1e6 * params), "unique_images": images[line["data"]], "flops": 1.0}
                facts["images_seen"] = 2048 * int(line["iterations"])
                setting = Setting("simmim", line["model"], line["iterations"])
                values = {LOSS[:2]: float(line["value"])}
                pool = "in22k" if line["data"] == "ImageNet-22K" else "in1k"
                made.append(Run(name, setting, line["data"], "s0", **facts, values=values, errors={}, pool=pool))
    assert len(made) == 63
    entry = chosen(made, laws=("repetition",), confidence=0.9, bootstrap=300)
    by = entry["candidates"][0]["shifts"]["in22k"]
    assert by["value"] == pytest.approx(0.0048, abs=0.0002)
    assert 0.0025 < by["low"] < by["value"] < by["high"] < 0.0070
    assert entry["candidates"][0]["rmse_holdout"] < min(entry["baselines"].values())
