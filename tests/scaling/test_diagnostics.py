import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scaling_study import Plan
from scipy import stats

from mimcore.scaling.diagnostics import diagnose
from mimcore.scaling.summary import lines
from mimcore.scaling.table import Row, read_results, runs_of

XIE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "xie2023_simmim_swinv2_data_scaling.csv"
ARGUMENTS = {"confidence": 0.95, "margin": 0.01, "bootstrap": 200, "seed": 0}


@pytest.fixture(scope="module")
def diagnosed(whole_study):
    return json.loads((whole_study / "fit" / "fit.json").read_text())["diagnostics"]


@pytest.fixture(scope="module")
def runs(whole_study):
    return {run.name: run for run in runs_of(read_results(whole_study / "results" / "results.parquet"))}


def claim(found, name):
    (one,) = (c for c in found["claims"] if c["id"] == name)
    return one


def test_only_the_overfitted_cell_is_flagged(diagnosed):
    flagged = [c for c in diagnosed["overfitting"]["cells"] if c["val_loss_rose"]]
    assert [(c["model"], c["schedule"], c["unique_images"]) for c in flagged] == [("small", "long", 1024)]
    assert flagged[0]["rise"]["estimate"] == pytest.approx(0.07, rel=0.2)
    rose = {run["run"] for run in diagnosed["overfitting"]["runs"] if run["val_loss_rose"]}
    assert rose == {"mae-small-n1024-long-s0", "mae-small-n1024-long-s1"}


def test_the_gap_of_a_cell_is_a_students_interval(diagnosed, runs):
    (cell,) = (
        c
        for c in diagnosed["overfitting"]["cells"]
        if (c["model"], c["schedule"], c["unique_images"]) == ("tiny", "long", 4096)
    )
    gaps = [runs[f"mae-tiny-n4096-long-s{i}"].gap for i in (0, 1)]
    low, high = stats.t.interval(0.95, 1, loc=np.mean(gaps), scale=stats.sem(gaps))
    assert [cell["gap"][k] for k in ("estimate", "low", "high")] == pytest.approx([np.mean(gaps), low, high], rel=1e-6)


def test_seed_noise_is_pooled_over_cells(diagnosed, runs):
    """Independent truth: the residual mean square of a one-way analysis of variance."""
    cells: dict = {}
    for run in runs.values():
        cells.setdefault((run.setting, run.unique_images), []).append(run.values["linear", "top1"])
    (noise,) = (one for one in diagnosed["seed_noise"] if one["task"] == "linear")
    assert noise["sd"] == pytest.approx(np.sqrt(np.mean([np.var(v, ddof=1) for v in cells.values()])), rel=1e-6)
    assert noise["degrees_of_freedom"] == 24
    # Fisher's least significant difference of two means of two.
    assert noise["least_difference"] == pytest.approx(stats.t.ppf(0.975, 24) * noise["sd"], rel=1e-6)


def test_two_draws_of_one_size_are_two_cells_and_one_line(whole_study):
    """Each counts, their difference is no seed noise, and the table of ends has the mean of all."""
    rows = read_results(whole_study / "results" / "results.parquet")
    setting = {"model": "tiny", "schedule": "long"}
    largest = [row for row in rows if row.kind == "run" and row.model == "tiny" and row.schedule == "long"]
    size = max(row.unique_images for row in largest)
    drawn = [
        replace(row, run=f"{row.run}-even", subset="even", value=row.value + 0.5)
        for row in largest
        if row.unique_images == size
    ]
    before, after = (diagnose(found, claimed={}, **ARGUMENTS) for found in (rows, [*rows, *drawn]))
    cells = [
        cell
        for cell in after["overfitting"]["cells"]
        if cell.items() >= setting.items() and cell["unique_images"] == size
    ]
    assert len(cells) == 2
    noise = {found["task"]: found["sd"] for found in before["seed_noise"]}
    assert {found["task"]: found["sd"] for found in after["seed_noise"]} == pytest.approx(noise, rel=0.2)
    (line,) = (
        line for line in lines([*rows, *drawn]) if line.setting.model == "tiny" and line.setting.schedule == "long"
    )
    (loss,) = (ends for measure, ends in line.ends.items() if measure.task == "pretrain")
    losses = [row.value for row in [*largest, *drawn] if (row.unique_images, row.metric) == (size, "val_loss")]
    assert len(losses) == 4
    assert loss[1].value == pytest.approx(np.mean(losses))
    assert loss[1].error == pytest.approx(stats.sem(losses))


def test_correlation_is_scipys_with_and_without_the_overfitted(diagnosed, runs):
    for entry in diagnosed["correlation"]:
        for part, skip in (("all", ""), ("without_risen", "mae-small-n1024-long")):
            kept = [run for name, run in runs.items() if not skip or not name.startswith(skip)]
            loss = [run.values["pretrain", "val_loss"] for run in kept]
            task = [run.values[entry["task"], entry["metric"]] for run in kept]
            assert entry[part]["estimate"] == pytest.approx(stats.spearmanr(loss, task).statistic, abs=1e-7)
            assert entry[part]["low"] <= entry[part]["estimate"] <= entry[part]["high"]
            assert entry[part]["count"] == len(kept)


def test_the_claims_that_were_built_in_are_supported(diagnosed):
    assert {c["id"]: c["verdict"] for c in diagnosed["claims"]} == dict.fromkeys(
        ("more_data", "overfitting_gap", "overfitting_rise", "longer_training"), "supported"
    )
    rise = claim(diagnosed, "overfitting_rise")
    assert [(one["setting"], one["verdict"]) for one in rise["settings"]] == [
        ("small short", "cannot tell"),
        ("small long", "supported"),
    ]
    assert "of which 1 support it alone" in rise["sentence"]


def test_a_claim_is_a_paired_t_interval(diagnosed, runs):
    (alone,) = (one for one in claim(diagnosed, "more_data")["settings"] if one["setting"] == "tiny long")
    falls = [
        runs[f"mae-tiny-n1024-long-s{i}"].values["pretrain", "val_loss"]
        - runs[f"mae-tiny-n32768-long-s{i}"].values["pretrain", "val_loss"]
        for i in (0, 1)
    ]
    interval = stats.ttest_1samp(falls, 0).confidence_interval(0.95)
    assert [alone["low"], alone["high"]] == pytest.approx(list(interval), rel=1e-6)


def test_a_claim_that_the_runs_contradict(whole_study):
    """Exchange the smallest and the largest subset: more data now raises the loss."""
    swap = {1024: 32768, 32768: 1024}
    rows = [
        replace(row, unique_images=swap.get(row.unique_images, row.unique_images))
        for row in read_results(whole_study / "results" / "results.parquet")
    ]
    found = claim(diagnose(rows, **ARGUMENTS), "more_data")
    assert found["verdict"] == "not supported"
    assert found["high"] < 0


def test_one_seed_shows_nothing(build_study):
    _, found = build_study(Plan(seeds=("s0",), sizes=(1024, 4096, 16384), tasks=("linear",)))
    for one in found["diagnostics"]["claims"]:
        assert one["verdict"] == "cannot tell"
        assert "(one seed: no interval)" in one["sentence"]
        assert one["estimate"] is not None
    assert found["diagnostics"]["seed_noise"] == []


def test_one_schedule_leaves_a_claim_open(build_study, small_plan):
    _, found = build_study(small_plan)
    assert claim(found["diagnostics"], "more_data")["verdict"] == "supported"
    one = claim(found["diagnostics"], "longer_training")
    assert (one["estimate"], one["verdict"]) == (None, "cannot tell")
    assert "no runs that could show it" in one["sentence"]


# -- the published table of Xie et al. 2023 ---------------------------------------------------------------------------

FRACTIONS = {
    "ImageNet-1K 10%": 128_117,
    "ImageNet-1K 20%": 256_233,
    "ImageNet-1K 50%": 640_584,
    "ImageNet-1K": 1_281_167,
}
MODELS = {"SwinV2-Small": "S", "SwinV2-Base": "B", "SwinV2-Large": "L", "SwinV2-Huge": "H", "SwinV2-giant": "g"}


@pytest.fixture(scope="module")
def published():
    """The published runs as rows; the minimum of a run's curve is taken from the shorter runs of its cell."""
    if not XIE.is_file():
        pytest.skip(f"{XIE.name} is not here: the published table is not part of the package")
    table: dict = {}
    with XIE.open(encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            if line["data"] in FRACTIONS:
                key = (line["model"], line["data"], int(line["iterations"]))
                table.setdefault(key, {"params": line["params_m"]})[line["metric"]] = float(line["value"])
    rows = []
    for (model, data, iterations), values in table.items():
        shorter = [
            v["val_loss_in1k_val"] for (m, d, i), v in table.items() if (m, d) == (model, data) and i <= iterations
        ]
        rows += published_rows(model, data, iterations, values, min(shorter))
    return rows


def published_rows(model, data, iterations, values, minimum):
    name = next((short for long, short in MODELS.items() if long.lower() == model.lower()), model)
    loss = values["val_loss_in1k_val"]
    for task, metric, value in (
        ("pretrain", "val_loss", loss),
        ("pretrain", "seen_loss", loss),
        ("pretrain", "val_loss_minimum", minimum),
        ("finetune", "top1", values["in1k_ft_top1"] / 100),
    ):
        yield Row(
            kind="run",
            run=f"{name} {data} {iterations}",
            objective="simmim",
            model=name,
            subset=data,
            schedule=f"{iterations // 1000}k",
            seed="s0",
            unique_images=FRACTIONS[data],
            images_seen=iterations * 2048,
            encoder_params=int(1e6 * float(values["params"])),
            flops=1.0,
            task=task,
            metric=metric,
            value=value,
            standard_error=None,
            higher_is_better=task != "pretrain",
            headline=metric in ("val_loss", "top1"),
        )


def test_the_published_overfitting_is_found(published):
    """Cells whose loss after 500K iterations is above that after 125K; Swin-S on 20 % rises by only 0.3 %."""
    found = diagnose(published, **ARGUMENTS)
    rose = {
        (c["model"], c["unique_images"])
        for c in found["overfitting"]["cells"]
        if c["val_loss_rose"] and c["schedule"] == "500k"
    }
    losses = {
        (r.model, r.unique_images, r.schedule): r.value
        for r in published
        if (r.task, r.metric) == ("pretrain", "val_loss")
    }
    rising = {(m, n) for m, n, s in losses if s == "500k" and losses[m, n, s] > 1.01 * losses[m, n, "125k"]}
    assert rising <= rose
    assert {("B", 128_117), ("L", 128_117), ("H", 256_233), ("g", 640_584)} <= rose
    assert ("S", 256_233) not in rose
    assert not any(n == 1_281_167 for _, n in rose)


def test_the_published_correlation_is_stronger_without_overfitting(published):
    (found,) = diagnose(published, **ARGUMENTS)["correlation"]
    assert found["without_risen"]["estimate"] < found["all"]["estimate"] < -0.7


def test_longer_training_gained_more_with_more_data_in_every_published_model(published):
    settings = claim(diagnose(published, **ARGUMENTS), "longer_training")["settings"]
    assert len(settings) == 5
    assert all(one["estimate"] > 0 for one in settings)
