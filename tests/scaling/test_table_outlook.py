"""`mimcore fit TABLE`: where more data stops paying and which model for a budget, against closed forms."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from typer.testing import CliRunner

from mimcore.cli import app
from mimcore.errors import UserError
from mimcore.scaling.fit_table import fit_table, summary
from mimcore.scaling.numbers import short

ROOT = Path(__file__).resolve().parents[2]
XIE = ROOT.parent / "shared" / "reference" / "xie2023_simmim_swinv2_data_scaling.csv"
#: Of the joint law: floor, A, alpha, B, beta, C, gamma; and operations for an image and a parameter.
FLOOR, A, ALPHA, B, BETA, C, GAMMA = 0.3, 40.0, 0.35, 3.0, 0.3, 60.0, 0.35
PER_PARAMETER = 300.0
MODELS, IMAGES, SEEN = (2e7, 8e7, 3.2e8), (1e4, 1e5, 1e6, 4e6), (1e8, 3e8, 1e9)
MAPPING = """
metric: {column: loss, name: val_loss}
labels: [name]
variables:
  encoder_params: {column: params_m, scale: 1.0e+6}
  unique_images: {column: images}
  images_seen: {column: seen}
  flops: {column: exaflops, scale: 1.0e+18}
"""


def value_of(n, u, t):
    return FLOOR + A * n**-ALPHA + B * u**-BETA + C * t**-GAMMA


def best_size(budget):
    """Hoffmann et al. 2022, equation 4: no number of images moves it, as their term stands alone."""
    scale = (ALPHA * A / (GAMMA * C)) ** (1 / (ALPHA + GAMMA))
    return scale * (budget / PER_PARAMETER) ** (GAMMA / (ALPHA + GAMMA))


def where_it_stops(gain):
    """A doubling of the images gains B u^-beta (1 - 2^-beta), whatever the model and the length."""
    return (B * (1 - 2**-BETA) / gain) ** (1 / BETA)


def grid(noise=1e-5, **more):
    random = np.random.default_rng(0)
    rows = []
    for n, u, t in ((n, u, t) for n in MODELS for u in IMAGES for t in SEEN):
        loss = value_of(n, u, t) * float(np.exp(noise * random.standard_normal()))
        about = {"name": f"m{n:.0f} n{u:.0f} t{t:.0f}", "params_m": n / 1e6, "images": u, "seen": t}
        rows.append({**about, "exaflops": PER_PARAMETER * n * t / 1e18, "loss": loss, **more})
    return rows


def fitted(folder, rows, law="joint", mapping=MAPPING, **options):
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), folder / "runs.csv")
    (folder / "map.yaml").write_text(mapping)
    return fit_table(
        folder / "runs.csv",
        law,
        folder / "f.json",
        mapping=folder / "map.yaml",
        holdout=None,
        options={"bootstrap": 100},
        report=folder / "report",
        **options,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outlook")
    fitted(folder, grid(), gain=0.005)
    return folder, json.loads((folder / "f.json").read_text())


def test_more_images_stop_paying_where_the_closed_form_says(whole):
    folder, found = whole
    assert found["saturation"]["gain"] == 0.005
    models = found["saturation"]["models"]
    assert [(one["encoder_params"], one["images_seen"]) for one in models] == [(n, max(SEEN)) for n in MODELS]
    for one in models:
        assert one["images"]["estimate"] == pytest.approx(where_it_stops(0.005), rel=0.03)
        assert one["images"]["low"] <= one["images"]["estimate"] <= one["images"]["high"]
        assert one["images"]["count"] == 100
    text = (folder / "report" / "report.md").read_text(encoding="utf-8")
    beyond = short(models[0]["images"]["estimate"])
    assert f"Doubling the images gains less than 0.0050 beyond {beyond} [" in text
    assert "The dashed line is 0.0050; right of the dotted line lie no runs" in text
    assert f"| 20M parameters | 1B | 0.0050 | {beyond} [" in text


def test_what_a_doubling_must_gain_is_a_part_of_the_lowest_loss_unless_it_is_said(tmp_path):
    rows = grid()
    found = fitted(tmp_path, rows)
    assert found["saturation"]["gain"] == pytest.approx(0.01 * min(row["loss"] for row in rows))
    assert f"is 1 % of the lowest val_loss, {0.01 * value_of(3.2e8, 4e6, 1e9):.4f} (--gain takes another)" in (
        tmp_path / "report" / "report.md"
    ).read_text(encoding="utf-8")


def test_where_it_still_pays_there_is_no_number(tmp_path):
    found = fitted(tmp_path, grid(), gain=1e-9)
    assert {one["images"]["estimate"] for one in found["saturation"]["models"]} == {None}
    assert "gains less than 1.0e−09 beyond more than was looked at [more than was looked at, more" in summary(found)


def test_the_best_use_of_a_budget_is_that_of_the_closed_form(whole):
    folder, found = whole
    (part,) = found["frontier"]
    assert (part["pool"], part["unique_images"]) == (None, max(IMAGES))
    spent = [PER_PARAMETER * n * t for n in MODELS for t in SEEN]
    of = [one["budget"] for one in part["budgets"]]
    assert (of[0], of[-1]) == pytest.approx((min(spent), 10 * max(spent)))
    for one in part["budgets"]:
        size = best_size(one["budget"])
        assert not one["at_edge"]
        assert one["encoder_params"]["value"] == pytest.approx(size, rel=0.02)
        assert one["images_seen"]["value"] == pytest.approx(one["budget"] / PER_PARAMETER / size, rel=0.02)
        reached = value_of(size, max(IMAGES), one["budget"] / PER_PARAMETER / size)
        assert one["metric"]["value"] == pytest.approx(reached, abs=2e-4)
        assert one["metric"]["low"] <= one["metric"]["value"] <= one["metric"]["high"]
    assert {path.stem for path in (folder / "report").glob("*.png")} >= {"saturation", "budget"}
    text = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert (
        "expects of runs that cost the same, on the largest subset, 4M unique images: a larger model sees fewer."
        in text
    )
    assert re.search(
        rf"By this law the best use of 9\.6e\+20 FLOPs on 4M images, 10 times those of the dearest row, is {short(best_size(of[-1]))} \["
        r"\S+, \S+\] parameters for \S+ \[\S+, \S+\] images seen: val_loss 0\.\d+ \[0",
        text,
    )
    html = (folder / "report" / "report.html").read_text(encoding="utf-8")
    for place in ("saturation-0", "budget-4"):
        assert f'id="{place}"' in html
        assert f'"{place}": {{' in html  # what can be pointed at


def test_what_a_row_cost_is_no_variable_of_the_table(tmp_path):
    """Cells are rows alike in all but their length, and a law of one variable is of the only one there is."""
    rows = grid()
    with_costs = fitted(tmp_path, rows, gain=0.005)
    without = fitted(
        tmp_path, rows, mapping=MAPPING.replace("  flops: {column: exaflops, scale: 1.0e+18}\n", ""), gain=0.005
    )
    assert len(with_costs["overfitting"]) == len(MODELS) * len(IMAGES)
    assert with_costs | {"frontier": None} == without
    assert without["frontier"] is None
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "Not in this report: no column says what a row cost; give FLOPs of training as a variable 'flops'" in text
    alone = MAPPING.replace("  encoder_params: {column: params_m, scale: 1.0e+6}\n", "").replace(
        "  images_seen: {column: seen}\n", ""
    )
    one = [row for row in rows if row["seen"] == 1e9 and row["params_m"] == 80]
    found = fitted(tmp_path, one, law="power", mapping=alone.replace("unique_images", "encoder_params"))
    assert found["parameters"]["exponent"]["value"] == pytest.approx(BETA, rel=0.2)


def test_a_law_of_model_and_length_has_a_budget_and_one_of_images_alone_has_none(tmp_path):
    two = MAPPING.replace("  unique_images: {column: images}\n", "")
    found = fitted(tmp_path, [row for row in grid() if row["images"] == 4e6], law="chinchilla", mapping=two)
    assert found["saturation"] is None
    (part,) = found["frontier"]
    assert part["unique_images"] is None
    assert part["budgets"][6]["encoder_params"]["value"] == pytest.approx(
        best_size(part["budgets"][6]["budget"]), rel=0.1
    )
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "expects of runs that cost the same: a larger model sees fewer. The mark" in text
    assert "| FLOPs | of the dearest run | encoder parameters | images seen | lowest validation loss |" in text
    power = fitted(
        tmp_path, [row for row in grid() if row["seen"] == 1e9 and row["params_m"] == 80], law="power", gain=0.005
    )
    assert power["frontier"] is None
    (only,) = power["saturation"]["models"]
    assert (only["encoder_params"], only["images_seen"]) == (None, None)
    assert only["images"]["estimate"] == pytest.approx(where_it_stops(0.005), rel=0.2)
    assert not (tmp_path / "report" / "budget.png").exists()


def test_rows_of_several_pools_have_budgets_of_their_own(tmp_path):
    rows = grid(of="near")
    far = [
        {**row, "of": "far", "loss": row["loss"] + 0.05, "images": row["images"] * 2}
        for row in grid()
        if row["images"] > 1e5
    ]
    for row in far:
        n, t = row["params_m"] * 1e6, row["seen"]
        row["loss"] = value_of(n, row["images"], t) + 0.05
    found = fitted(tmp_path, [*rows, *far], mapping=f"{MAPPING}pool: {{column: of}}\n")
    assert [(part["pool"], part["unique_images"]) for part in found["frontier"]] == [("near", 4e6), ("far", 8e6)]
    near, away = (part["budgets"][-1]["metric"]["value"] for part in found["frontier"])
    budget = found["frontier"][0]["budgets"][-1]["budget"]
    size = best_size(budget)
    for value, images, shift in ((near, 4e6, 0.0), (away, 8e6, 0.05)):
        assert value == pytest.approx(value_of(size, images, budget / PER_PARAMETER / size) + shift, abs=2e-3)
    assert {path.stem for path in (tmp_path / "report").glob("budget*.png")} == {"budget-near", "budget-far"}
    assert "of several pools: this is of images of near." in (tmp_path / "report" / "report.md").read_text(
        encoding="utf-8"
    )


def test_rows_of_a_covariate_are_no_evidence_of_the_best_without_it(tmp_path):
    """The lowest loss, of which a doubling must gain a part, and the largest subset are of rows without a shift."""
    rows = grid(moved=0)
    moved = [
        {**row, "moved": 1, "images": 9e6, "loss": value_of(row["params_m"] * 1e6, 9e6, row["seen"]) - 0.1}
        for row in rows[: len(SEEN)]
    ]
    mapping = f"{MAPPING}  moved: {{column: moved}}\ncovariates: [moved]\n"
    found = fitted(tmp_path, [*rows, *moved], mapping=mapping)
    assert found["saturation"]["gain"] == pytest.approx(0.01 * min(row["loss"] for row in rows))
    assert found["frontier"][0]["unique_images"] == max(IMAGES)
    assert "are of rows without a shift: moved 0." in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("law", "gain", "change", "sentence"),
    [
        ("joint", 0.0, {}, "--gain is 0, and doubling the images must gain more than 0"),
        ("chinchilla", 0.1, {}, "--gain is of doubling the images, and the law 'chinchilla' is not in unique_images"),
        (
            "joint",
            None,
            {"exaflops": -1.0},
            "flops of 'm20000000 n10000 t100000000' is -1e+18; it must be a positive, finite",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_in_a_sentence(tmp_path, law, gain, change, sentence):
    rows = grid()
    rows[0] |= change
    with pytest.raises(UserError) as refused:
        fitted(tmp_path, rows, law=law, gain=gain)
    assert sentence in str(refused.value)


def test_a_studys_results_say_what_their_runs_cost(whole_study, tmp_path):
    found = fit_table(
        whole_study / "results" / "results.parquet",
        "joint",
        tmp_path / "f.json",
        mapping=None,
        holdout=None,
        options={"bootstrap": 50},
    )
    assert len(found["frontier"][0]["budgets"]) > 1


@pytest.mark.skipif(not XIE.is_file(), reason="the published table is not beside the checkout")
def test_the_63_runs_say_where_more_data_stops_paying(tmp_path):
    arguments = ["fit", str(XIE), "--map", str(ROOT / "docs" / "examples" / "xie2023.map.yaml"), "--law", "repetition"]
    done = CliRunner().invoke(app, [*arguments, "--gain", "0.001", "--out", str(tmp_path / "f.json")])
    assert "1.9M [913k, 3.1M] (87M parameters, 1B images seen)" in done.output
    found = json.loads((tmp_path / "f.json").read_text())
    base = next(one for one in found["saturation"]["models"] if one["encoder_params"] == 87e6)
    assert base["images_seen"] == 500_000 * 2048
    low, high = (base["images"][end] / 1e6 for end in ("low", "high"))
    assert base["images"]["estimate"] / 1e6 == pytest.approx(1.9, abs=0.05)
    assert (low, high) == (pytest.approx(0.9, abs=0.05), pytest.approx(3.1, abs=0.05))
