"""The forms of ``benchmarks/forms.py`` are what their names say, and the table in the docs is what it makes."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mimcore import registry
from mimcore.scaling.mapping import observe, read_map

ROOT = Path(__file__).resolve().parents[2]
XIE = ROOT.parent / "shared" / "reference" / "xie2023_simmim_swinv2_data_scaling.csv"
VALUES = {
    "floor": 0.4, "A": 30.0, "B": 5.0, "rise": 0.06, "alpha": 0.35, "beta": 0.3, "gamma": -0.1, "ratio": 0.7, "c": 0.6, "R": 300.0,
    "r": 0.2, "memory": 2e6, "k": 1.7, "q": 1.3, "s": 2.2,
}  # fmt: skip
#: The law of the package that a form is.
SAME = {"add/harm/hill-one": "repetition", "add/exp/none": "effective", "add/none/none": "chinchilla"}


@pytest.fixture(scope="module")
def forms():
    spec = importlib.util.spec_from_file_location("forms_benchmark", ROOT / "benchmarks" / "forms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variables():
    grid = np.meshgrid([5e7, 1e9], [1e5, 1.4e7], [2.5e7, 1e9])
    return dict(zip(("encoder_params", "unique_images", "images_seen"), (one.ravel() for one in grid), strict=True))


def values_of(law):
    return np.array([[VALUES[one.name] for one in law.parameters]])


@pytest.mark.parametrize(("name", "law"), SAME.items())
def test_a_form_that_the_package_has_is_its_law(forms, name, law):
    form, ours = forms.Form(name), registry.load("law", law).Law()
    assert {one.name for one in form.parameters} == {one.name for one in ours.parameters}
    at = variables()
    np.testing.assert_allclose(form.predict(values_of(form), at), ours.predict(values_of(ours), at), rtol=1e-12)
    slopes = {one.name: slope for one, slope in zip(form.parameters, form.slopes(values_of(form), at)[1], strict=True)}
    for one, slope in zip(ours.parameters, ours.slopes(values_of(ours), at)[1], strict=True):
        np.testing.assert_allclose(slopes[one.name], slope, rtol=1e-9, atol=1e-12)


def test_kaplans_base_with_an_outer_exponent_of_one_is_a_sum(forms):
    kaplan, added = forms.Form("kap/none/none"), forms.Form("add/none/none")
    one = np.array([[{**VALUES, "c": 1.0}[name] for name in kaplan.names]])
    two = np.array([[{**VALUES, "B": VALUES["A"] * VALUES["ratio"]}[name] for name in added.names]])
    np.testing.assert_allclose(kaplan.predict(one, variables()), added.predict(two, variables()), rtol=1e-12)


@pytest.mark.parametrize("base", ["add", "mul", "int", "lin", "kap", "kap1"])
@pytest.mark.parametrize("load", ["one", "oneq", "tied", "nU", "pre", "free"])
def test_units_change_no_form(forms, base, load):
    at = variables()
    factors = {"encoder_params": 1e-6, "images_seen": 1e-5, "unique_images": 1e-5}
    smaller = {key: value * factors[key] for key, value in at.items()}
    for name in (f"{base}/harmn/hill-{load}", f"{base}/exp/weibcap-{load}", f"{base}/none/pow-{load}"):
        form = forms.Form(name)
        there = form.predict(form.rescaled(values_of(form), factors), smaller)
        np.testing.assert_allclose(there, form.predict(values_of(form), at), rtol=1e-9)


def test_a_rise_to_a_ceiling_ends_at_it(forms):
    form = forms.Form("add/none/hillcap-one")
    far = {"encoder_params": np.array([1e15]), "unique_images": np.array([1e3]), "images_seen": np.array([1e12])}
    assert form.predict(values_of(form), far)[0, 0] == pytest.approx(VALUES["rise"])


def test_the_rule_takes_the_best_explained_among_near_scores(forms):
    rows = [
        {"form": name, "score": s, "r2_small": r}
        for name, s, r in [("a", 1.0, 0.5), ("b", 1.04, 0.9), ("c", 1.06, 1.0)]
    ]
    assert forms.chosen(rows, lambda row: row["score"]) == "b"


@pytest.mark.skipif(not XIE.is_file(), reason="the table of 63 runs is not beside this checkout")
def test_the_table_in_the_docs_has_what_the_command_makes(forms):
    with forms.FORMS.open(newline="") as file:
        stored = next(row for row in csv.DictReader(file) if row["form"] == "add/harm/hill-one")
    found = forms.outcomes("add/harm/hill-one", observe(XIE, read_map(forms.MAP)))
    assert list(found) == list(stored)
    for name in ("r2_small", "r2_63"):
        assert found[name] == pytest.approx(float(stored[name]), abs=2e-4)
    for name in ("large_500k", "base_large_500k", "cells_left_out", "giant", "huge_giant_500k"):
        assert found[name] == pytest.approx(float(stored[name]), rel=0.02)
    assert found["all_large_least"] <= float(stored["all_large"]) <= found["all_large_most"]
