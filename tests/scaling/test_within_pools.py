"""What the report compares is of one pool: what a pool lies higher by is neither a gain nor a loss of its images."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from known_laws import law_of
from rich.console import Console
from test_alike import TOP1
from test_alike import runs as runs_alike
from test_pools import LOSS, SIZES, TRUTHS, without_pools
from test_pools import runs as runs_of_two

from mimcore.scaling.alike import alike
from mimcore.scaling.diagnostics import diagnose
from mimcore.scaling.export import scaling_points
from mimcore.scaling.fit import fit
from mimcore.scaling.headline import headline_table
from mimcore.scaling.numbers import number
from mimcore.scaling.plots import Figures
from mimcore.scaling.pools import by_pool, fit_levels, levelled
from mimcore.scaling.rows import observations
from mimcore.scaling.saturation import saturated
from mimcore.scaling.summary import lines
from mimcore.scaling.table import read_results, runs_of, write_results
from mimcore.scaling.words import answers, flags

ARGUMENTS = {"confidence": 0.95, "margin": 0.01, "bootstrap": 200, "seed": 0}
WIDE = ("n8192", "n16384", "n32768")
#: Far more than any number of images changes a loss by.
ABOVE = 1.0


@pytest.fixture(scope="module")
def rows(whole_study):
    """The study's three larger subsets are of another pool, whose losses lie higher and whose seen images lie apart."""
    found = []
    for row in read_results(whole_study / "results" / "results.parquet"):
        wide = row.subset in WIDE
        above = (
            {"val_loss": ABOVE, "val_loss_minimum": ABOVE, "seen_loss": ABOVE / 2}.get(row.metric, 0.0) if wide else 0.0
        )
        pool = ("wide" if wide else "home") if row.kind == "run" else None
        found.append(replace(row, pool=pool, value=row.value + above))
    return found


@pytest.fixture(scope="module")
def two_pools(rows, whole_study, tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    shutil.copytree(whole_study / "results", root / "results")
    write_results(root / "results" / "results.parquet", rows)
    for pools in ("shifted", "alike"):
        options = {"bootstrap": 100, "laws": ["joint"], "pools": pools}
        fit(root / "results" / "results.parquet", options, root / pools)
    return root


def alone(rows, pool):
    return [replace(row, pool=None) for row in rows if row.pool in (pool, None)]


def as_one(rows):
    return [replace(row, pool=None) for row in rows]


def test_the_table_of_ends_has_a_line_for_each_pool(rows):
    found = lines(rows)
    assert [(line.pool, line.smallest, line.largest) for line in found[:2]] == [
        ("home", 1024, 4096),
        ("wide", 8192, 32768),
    ]
    assert len(found) == 2 * len(lines(as_one(rows)))
    for pool in ("home", "wide"):
        assert [replace(line, pool=None) for line in found if line.pool == pool] == lines(alone(rows, pool))
    for line in found:
        first, last = line.ends[LOSS]
        ends = [
            [run.values[LOSS[:2]] for run in runs_of(rows) if run.setting == line.setting and run.unique_images == size]
            for size in (line.smallest, line.largest)
        ]
        assert [first.value, last.value] == pytest.approx([np.mean(end) for end in ends])
        assert last.value < first.value


def test_the_opening_says_what_more_images_of_a_pool_do(rows, two_pools):
    wrong, right = (
        answers(of, json.loads((two_pools / pools / "fit.json").read_text()))
        for of, pools in ((as_one(rows), "alike"), (rows, "shifted"))
    )
    assert wrong[0].endswith("the validation loss falls in 0 of 4 settings.")
    assert right[0].startswith(
        "From the smallest to the largest subset of each pool, at the same number of images seen, the validation loss falls in 8 of 8 "
        "settings, most for small long (home): "
    )
    (longer,) = (one for one in right if "schedule instead of the" in one)
    short, long = (
        np.mean(
            [
                run.values[LOSS[:2]]
                for run in runs_of(rows)
                if run.subset == "n4096" and run.setting[1:] == ("small", at)
            ]
        )
        for at in ("short", "long")
    )
    assert longer == (
        "On 4,096 images of pool home, the long schedule instead of the short one lowered the validation loss of small by "
        f"{number(short - long)}."
    )


def test_the_printed_table_keeps_pools_apart_unless_they_are_alike(two_pools):
    console = Console(width=200, record=True, file=io.StringIO())
    printed = []
    for pools in ("shifted", "alike"):
        console.print(headline_table(two_pools / "results" / "results.parquet", two_pools / pools / "fit.json"))
        printed.append(console.export_text())
    assert "tiny short (home)" in printed[0]
    assert "1,024 → 4,096" in printed[0]
    assert "8,192 → 32,768" in printed[0]
    assert "More data lowers the validation loss at a fixed number of images seen. (wide)" in printed[0]
    assert "(home)" not in printed[1]
    assert "1,024 → 32,768" in printed[1]


def test_diagnostics_of_a_pool_are_those_of_its_runs_alone(rows):
    """Cells, gaps between the ends, and the correlation of the loss with tasks."""
    found = diagnose(rows, **ARGUMENTS)
    parts = {pool: diagnose(alone(rows, pool), **ARGUMENTS) for pool in ("home", "wide")}
    for pool, part in parts.items():
        for block, key in (("overfitting", "settings"), ("overfitting", "cells"), ("correlation", None)):
            own, other = (of[block][key] if key else of[block] for of in (found, part))
            own = [{k: v for k, v in one.items() if k != "pool"} for one in own if one["pool"] == pool]
            assert own == other
            assert own
    # Half a loss lies between the gaps of the two pools: taken together, the smallest subset's is far the narrower.
    mixed = diagnose(as_one(rows), **ARGUMENTS)
    assert not any(one["gap_wider"] for one in mixed["overfitting"]["settings"])
    assert any(one["gap_wider"] for one in parts["home"]["overfitting"]["settings"])
    # On either pool the lower loss is the better encoder; together the pool with the higher losses has the better ones.
    linear = {(one["task"], one.get("pool")): one["all"]["estimate"] for one in found["correlation"]}
    (both,) = (one["all"]["estimate"] for one in mixed["correlation"] if one["task"] == "linear")
    assert both > 0.3
    assert max(linear["linear", "home"], linear["linear", "wide"]) < -0.3


def test_what_rose_is_said_with_its_pool(rows, two_pools):
    told = flags(rows, json.loads((two_pools / "shifted" / "fit.json").read_text()), {}, [])
    assert any(one.startswith("Over-fitting: the validation loss of small long (home) on 1,024 images") for one in told)
    (memorising,) = (one for one in told if one.startswith("Memorising"))
    assert "small long (home)" in memorising


def test_a_size_that_rose_on_one_pool_stays_in_the_curves_of_another(whole_study, tmp_path):
    """The further pool has as many images, a level of its own, and losses that never rise."""
    found = []
    for row in read_results(whole_study / "results" / "results.parquet"):
        found.append(replace(row, pool="home") if row.kind == "run" else row)
        if row.kind == "run":
            twin = {"subset": row.subset.replace("n", "w"), "run": row.run.replace("-n", "-w"), "pool": "wide"}
            if row.task == "pretrain":
                twin["value"] = 1.2 + row.unique_images**-0.3 - (0.1 if row.metric == "seen_loss" else 0.0)
            found.append(replace(row, **twin))
    table = tmp_path / "results.parquet"
    write_results(table, found)
    fitted = fit(table, {"bootstrap": 100, "laws": ["power"], "claims": {}}, tmp_path / "fit")
    curves = {
        one["pool"]: one
        for one in fitted["fits"]
        if (one["model"], one["schedule"], one["task"]) == ("small", "long", "pretrain")
    }
    assert (curves["home"]["left_out"], curves["wide"]["left_out"]) == ([1024], [])
    (law,) = (
        one
        for one in fitted["laws"]["pretrain val_loss"]
        if (one["scope"], one["model"], one["schedule"]) == ("setting", "small", "long")
    )
    smallest = {run for run, size in zip(law["rows"]["run"], law["rows"]["unique_images"], strict=True) if size == 1024}
    assert smallest == {"mae-small-w1024-long-s0", "mae-small-w1024-long-s1"}


def test_subsets_of_as_many_images_are_compared_by_their_losses_within_a_pool_alone():
    made = [
        replace(run, pool="b" if run.subset == "b1" else "a", values={**run.values, TOP1[:2]: run.values[LOSS[:2]] / 2})
        for run in runs_alike({"a1": [0.50, 0.51, 0.52], "a2": [0.51, 0.52, 0.53], "b1": [0.70, 0.72, 0.71]})
    ]
    found = [(pair.first, pair.second, pair.measure.task) for pair in alike(made, [LOSS, TOP1], 0.01)]
    assert found == [
        ("a1", "a2", "pretrain"),
        ("a1", "a2", "linear"),
        ("a1", "b1", "linear"),
        ("a2", "b1", "linear"),
    ]
    assert len(alike(without_pools(made), [LOSS], 0.01)) == 3


def test_what_a_doubling_must_buy_is_a_part_of_the_lowest_loss_of_its_own_pool():
    made = runs_of_two(-0.1, noise=1e-7)
    fitted = fit_levels(law_of("model_data"), levelled(observations(made, LOSS)), {"bootstrap": 0})
    pool, mine = next(iter(by_pool(made).items()))
    found = saturated(fitted, mine, 0.01)
    assert pool == "near"
    lowest = min(run.values[LOSS[:2]] for run in made if run.pool == "near")
    assert lowest > min(run.values[LOSS[:2]] for run in made)
    assert {one.gain for one in found} == {0.01 * lowest}
    assert len(found) == 3
    # Where the derivative of the known law says so: B n^-beta (1 - 2^-beta) = gain.
    _, _, _, b, beta = TRUTHS["model_data"]
    exact = (b * (1 - 2**-beta) / found[0].gain) ** (1 / beta)
    assert found[0].images.estimate == pytest.approx(exact, rel=0.03)
    assert max(SIZES["near"]) < exact


def test_curves_and_correlations_have_a_panel_for_each_pool(rows, two_pools):
    fitted = json.loads((two_pools / "shifted" / "fit.json").read_text())
    curves = pq.read_table(two_pools / "results" / "curves.parquet").to_pylist()
    drawn = Figures(rows, fitted, curves)
    titles = [panel.spec["title"] for panel in drawn.losses()]
    assert titles[:2] == ["Tiny short (home)", "Tiny short (wide)"]
    assert len(titles) == 8
    said = [panel.spec["title"] for panel in drawn.correlation(TOP1)]
    assert [title["text"] for title in said] == ["Linear top1 (home)", "Linear top1 (wide)"]
    assert said[0]["subtitle"] != said[1]["subtitle"]
    points = [len(next(iter(panel.spec["datasets"].values()))) for panel in drawn.correlation(TOP1)]
    assert points == [24, 24]


def test_a_series_of_the_thin_table_is_of_one_pool(rows):
    series = {(point["series"], point["unique_images"] > 4096) for point in scaling_points(rows)}
    assert ("mae-tiny-short-home", False) in series
    assert {name.rsplit("-", 1)[1]: further for name, further in series} == {"home": False, "wide": True}
    assert {point["series"] for point in scaling_points(as_one(rows))} == {
        "-".join(run.setting) for run in runs_of(rows)
    }
