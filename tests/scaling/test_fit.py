import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scaling_study import LOSS, TASKS, Plan, Truth

from mimcore.errors import UserError
from mimcore.scaling.fit import fit
from mimcore.scaling.fit_options import Config
from mimcore.scaling.table import read_results, write_results


def one(found, task="pretrain", model="tiny", schedule="long"):
    (entry,) = (f for f in found["fits"] if (f["task"], f["model"], f["schedule"]) == (task, model, schedule))
    return entry


def test_the_laws_behind_the_study_are_within_their_intervals(whole_study):
    found = json.loads((whole_study / "fit" / "fit.json").read_text())
    assert len(found["fits"]) == 2 * 2 * 4
    for model in ("tiny", "small"):
        for task in ("finetune", "linear", "detection"):
            truth: Truth = TASKS[task][1][model]
            entry = one(found, task, model)
            for name, value in (("exponent", truth.exponent), ("floor", truth.floor)):
                assert entry["parameters"][name]["low"] <= value <= entry["parameters"][name]["high"], (
                    model,
                    task,
                    name,
                )
            ahead = entry["forecast"]
            for n, low, high in zip(ahead["unique_images"], ahead["low"], ahead["high"], strict=True):
                # The interval of a metric of which more is better is that of its error, turned over.
                assert min(low, high) <= 1 - truth(n) <= max(low, high), (model, task, n)
    loss = one(found, "pretrain", "tiny", "short")
    shifted = LOSS["tiny"].floor + 0.03
    assert loss["parameters"]["floor"]["low"] <= shifted <= loss["parameters"]["floor"]["high"]


def test_the_overfitted_size_is_left_out_and_said(whole_study):
    found = json.loads((whole_study / "fit" / "fit.json").read_text())
    entry = one(found, "pretrain", "small")
    assert entry["left_out"] == [1024]
    assert "fitted without 1,024 images" in entry["note"]
    assert entry["curve"]["unique_images"][0] == 2048
    assert entry["points"][0]["unique_images"] == 1024
    assert one(found, "pretrain", "small", "short")["left_out"] == []


def test_it_is_kept_and_said_where_asked_or_where_too_few_sizes_would_remain(whole_study, tmp_path, build_study):
    found = fit(whole_study / "results" / "results.parquet", {"bootstrap": 100, "exclude_risen": False}, tmp_path / "f")
    assert "mixes two regimes" in one(found, "pretrain", "small")["note"]
    plan = Plan(models=("small",), sizes=(1024, 4096, 16384), schedules={"long": 65536}, tasks=())
    _, few = build_study(plan)
    assert few["fits"][0]["left_out"] == []
    assert few["fits"][0]["fitted"]
    assert "mixes two regimes" in few["fits"][0]["note"]


def test_the_check_forecasts_the_largest_size_from_the_others(whole_study):
    check = one(json.loads((whole_study / "fit" / "fit.json").read_text()), "finetune")["check"]
    assert check["unique_images"] == 32768
    for name in ("law", "log_linear", "last_value"):
        assert check[name]["error"] == pytest.approx(check[name]["forecast"] - check["observed"], abs=1e-7)
    # A saturating truth: the law must beat both naive forecasts.
    assert abs(check["law"]["error"]) < min(abs(check["log_linear"]["error"]), abs(check["last_value"]["error"]))


def test_the_naive_forecasts_are_what_they_say(build_study, small_plan):
    _, found = build_study(replace(small_plan, noise=0.0, overfit=0.0, seeds=("s0",)))
    entry = one(found)
    check, means = entry["check"], [point["mean"] for point in entry["points"]]
    assert check["last_value"]["forecast"] == pytest.approx(means[-2], rel=1e-6)
    line = np.polyfit(np.log([1024, 4096, 16384]), means[:3], 1)
    assert check["log_linear"]["forecast"] == pytest.approx(np.polyval(line, np.log(65536)), rel=1e-6)


def test_the_bytes_depend_on_the_table_alone(whole_study, tmp_path):
    rows = read_results(whole_study / "results" / "results.parquet")
    write_results(tmp_path / "turned.parquet", list(reversed(rows)))
    fit(tmp_path / "turned.parquet", {"bootstrap": 200}, tmp_path / "fit")
    assert (tmp_path / "fit" / "fit.json").read_bytes() == (whole_study / "fit" / "fit.json").read_bytes()


def change(whole_study, tmp_path, value):
    """Rewrite the validation losses (and minima) of the study by size."""
    rows = [
        replace(row, value=value(row.unique_images)) if row.metric in ("val_loss", "val_loss_minimum") else row
        for row in read_results(whole_study / "results" / "results.parquet")
    ]
    write_results(tmp_path / "changed.parquet", rows)
    return fit(tmp_path / "changed.parquet", {"bootstrap": 100}, tmp_path / "fit")


def test_a_loss_that_rises_is_not_fitted(whole_study, tmp_path):
    entry = one(change(whole_study, tmp_path, lambda n: 0.4 + 0.01 * np.log(n)))
    assert not entry["fitted"]
    assert entry["note"].startswith("not fitted: pretrain val_loss does not get better with more images (0.469")
    assert "parameters" not in entry


def test_a_constant_loss_is_not_fitted(whole_study, tmp_path):
    assert "is the same at every size" in one(change(whole_study, tmp_path, lambda n: 0.5))["note"]


def test_a_loss_that_is_not_positive_is_not_fitted(whole_study, tmp_path):
    assert "is not positive" in one(change(whole_study, tmp_path, lambda n: 1 - n / 32768))["note"]


def test_two_sizes_are_too_few(build_study, small_plan):
    _, found = build_study(replace(small_plan, sizes=(1024, 4096)))
    assert "2 subset size(s), and the law has 3 parameters" in one(found)["note"]


def test_a_metric_in_percent_is_no_error_rate(whole_study, tmp_path):
    rows = [
        replace(row, value=100 * row.value) if row.task == "linear" else row
        for row in read_results(whole_study / "results" / "results.parquet")
    ]
    write_results(tmp_path / "percent.parquet", rows)
    found = fit(tmp_path / "percent.parquet", {"bootstrap": 100}, tmp_path / "fit")
    assert "linear top1 leaves the range 0 to 1" in one(found, "linear")["note"]
    assert one(found, "finetune")["fitted"]


def test_one_seed_and_three_sizes_have_a_curve_without_a_band(build_study, small_plan):
    _, found = build_study(replace(small_plan, sizes=(1024, 4096, 16384), seeds=("s0",)))
    entry = one(found)
    assert entry["fitted"]
    assert entry["vague"]
    assert "no intervals" in entry["note"]
    assert entry["check"] is None
    assert set(entry["curve"]["low"]) == {None}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lw": "power"}, "fit.lw: unknown option; did you mean 'law' or 'laws'?"),
        ({"law": "powre"}, "there is no law called 'powre'; did you mean 'power'?"),
        ({"confidence": 1.2}, "fit.confidence"),
    ],
)
def test_a_wrong_option_is_refused(whole_study, tmp_path, options, named):
    with pytest.raises(UserError, match=r"fit|law") as refused:
        fit(whole_study / "results" / "results.parquet", options, tmp_path / "fit")
    assert named in str(refused.value)


def test_no_option_has_a_name_that_dvc_overlooks():
    assert not {"size", "nfiles"} & set(Config.model_fields)


def test_nothing_here_imports_torch_and_fitting_draws_nothing(whole_study, tmp_path):
    table, output = str(whole_study / "results" / "results.parquet"), str(tmp_path / "fit")
    code = (
        "import sys; from pathlib import Path; from mimcore.scaling.collect import collect;"
        "from mimcore.scaling.fit import fit;"
        f"fit(Path({table!r}), {{'bootstrap': 100}}, Path({output!r}));"
        "print(*sorted({'torch', 'altair', 'vl_convert', 'polars'} & set(sys.modules)));"
        "import mimcore.scaling.report, mimcore.scaling.headline; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "\nFalse\n"
