"""What is new between two nights, on tables whose law is known."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("prefect", reason="needs the extra 'flows'")

from scratch_study import write_night

from flows.difference import Curve, Point, compare, markdown

SIZES = (64, 128, 256, 512)
CURVE = Curve("mae tiny short", "validation loss")


def test_new_points_moved_fits_and_forecasts(tmp_path: Path) -> None:
    write_night(tmp_path / "before", SIZES)
    write_night(tmp_path / "now", (*SIZES, 1024, 2048), {2048: 0.2})
    found = compare(tmp_path / "before", tmp_path / "now")
    assert set(found.new) == {
        Point(f"mae-tiny-n{size}-short-s{seed}", "validation loss") for size in (1024, 2048) for seed in (0, 1)
    }
    assert found.changed == {}
    assert found.gone == []
    assert (CURVE, "exponent") in found.moved
    # The law of the tables is 0.4 + 2 n^-0.5: the forecast for 1024 holds, and 2048 was written 0.2 off.
    assert {one.unique_images: one.verdict for one in found.forecasts} == {1024: "hit", 2048: "missed"}
    assert found.forecasts[0].value == pytest.approx(0.4 + 2 * 1024**-0.5, abs=0.01)
    said = markdown(found, "Monday")
    assert "New points since Monday" in said
    assert "| mae tiny short | validation loss | exponent |" in said
    assert "missed" in said


def test_the_same_results_are_no_difference(tmp_path: Path) -> None:
    write_night(tmp_path / "before", SIZES)
    shutil.copytree(tmp_path / "before", tmp_path / "now")
    found = compare(tmp_path / "before", tmp_path / "now")
    assert found.nothing
    said = markdown(found, "Monday")
    assert said.startswith("Nothing has changed since Monday.")
    assert "No forecast came due" in said


def test_a_point_that_changed_and_one_that_went(tmp_path: Path) -> None:
    write_night(tmp_path / "before", SIZES)
    write_night(tmp_path / "now", SIZES[1:], {512: 0.1})
    found = compare(tmp_path / "before", tmp_path / "now")
    assert {point.run for point in found.changed} == {"mae-tiny-n512-short-s0", "mae-tiny-n512-short-s1"}
    before, now = found.changed[Point("mae-tiny-n512-short-s0", "validation loss")]
    assert now - before == pytest.approx(0.1)
    assert {point.run for point in found.gone} == {"mae-tiny-n64-short-s0", "mae-tiny-n64-short-s1"}
