"""Every law: its slopes, its units, and its parameters found again."""

from dataclasses import replace

import numpy as np
import pytest
from known_laws import KNOWN, beyond, law_of, runs

from mimcore import registry
from mimcore.scaling.estimate import fit_law
from mimcore.scaling.law import ScalingLaw
from mimcore.scaling.one_variable import of_table

NAMES = sorted(KNOWN)


def test_every_law_is_known_here():
    assert registry.names("law") == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("covariates", [(), ("other",)])
def test_slopes_are_those_of_the_complex_step(name, covariates):
    law = law_of(name, covariates)
    rows = runs(name, 0.0, 0)
    variables = {**rows.variables, "other": np.arange(len(rows)) % 2.0}
    truth = np.array(KNOWN[name].parameters + (0.02,) * len(covariates))
    parameters = truth * np.exp(0.1 * np.random.default_rng(0).standard_normal((3, len(truth))))
    value, slopes = law.slopes(parameters, variables)
    expected_value, expected = ScalingLaw.slopes(law, parameters, variables)
    np.testing.assert_allclose(value, expected_value, rtol=1e-13)
    np.testing.assert_allclose(slopes, expected, rtol=1e-9, atol=1e-13)


def test_a_formula_has_its_shift_where_it_is_added():
    assert law_of("power", ("other",)).formula.endswith("** -exponent + shift_other * other")
    formula = law_of("repetition", ("other",)).formula
    assert " + rise / (1 + load ** -k) + shift_other * other, 1 / effective = " in formula
    assert formula.endswith(" / memory")


@pytest.mark.parametrize("name", ["power", "m4", "broken"])
def test_a_law_of_images_is_the_same_of_another_number(name):
    own = runs(name, 0.003, 0)
    moved = replace(own, variables={"encoder_params": own.variables["unique_images"]})
    law = of_table(law_of(name), moved, ())
    assert "encoder_params" in law.formula
    assert "images" not in law.formula + "".join(one.unit for one in law.parameters)
    first, second = fit_law(law_of(name), own, {"bootstrap": 50}), fit_law(law, moved, {"bootstrap": 50})
    assert first.parameters.tolist() == second.parameters.tolist()
    assert first.ensemble.tolist() == second.ensemble.tolist()


def test_a_law_stays_one_of_images_where_there_are_images_or_a_choice():
    rows = runs("power", 0.003, 0)
    n = rows.variables["unique_images"]
    for variables in ({"unique_images": n, "encoder_params": n}, {"images_seen": n, "encoder_params": n}):
        assert of_table(law_of("power"), replace(rows, variables=variables), ()).variables[0].name == "unique_images"
    apart = replace(rows, variables={"encoder_params": n, "other": n > 1, "pool_far": n > 2})
    assert of_table(law_of("power"), apart, ["other"]).variables[0].name == "encoder_params"
    assert of_table(law_of("task"), apart, ["other"]).variables[0].name == "val_loss"


@pytest.mark.parametrize("name", NAMES)
def test_values_without_noise_give_back_the_law(name):
    law = law_of(name)
    fit = fit_law(law, runs(name, 0.0, 0), {"bootstrap": 0})
    truth = law.predict(np.array([KNOWN[name].parameters]), beyond(name))[0]
    np.testing.assert_allclose(fit.predict(beyond(name)).mean, truth, rtol=3e-3)
    assert fit.rmse < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_rescaled_parameters_are_the_same_curve_in_other_units(name):
    law = law_of(name)
    rows = runs(name, 0.0, 0)
    factors = {v.name: 1000.0 if v.name in law.together else 0.7 + i for i, v in enumerate(law.variables)}
    truth = np.array([KNOWN[name].parameters])
    moved = {key: values * factors[key] for key, values in rows.variables.items()}
    np.testing.assert_allclose(
        law.predict(law.rescaled(truth, factors), moved), law.predict(truth, rows.variables), rtol=1e-10
    )


def test_chinchilla_as_replicated():
    """The values of Besiroglu et al. 2024 (abstract: E 1.82, A 482, alpha 0.348, B 2085, beta 0.366) at two places, by hand."""
    law = law_of("chinchilla")
    parameters = np.array([[1.8172, 482.01, 0.3478, 2085.43, 0.3658]])
    places = {"encoder_params": np.array([7e10, 1e9]), "images_seen": np.array([1.4e12, 2e10])}
    by_hand = [
        1.8172 + 482.01 / 7e10**0.3478 + 2085.43 / 1.4e12**0.3658,
        1.8172 + 482.01 / 1e9**0.3478 + 2085.43 / 2e10**0.3658,
    ]
    np.testing.assert_allclose(law.predict(parameters, places)[0], by_hand, rtol=1e-12)
    assert law.huber == 1e-3


def test_effective_data_as_published():
    """Muennighoff et al. 2023, section 6: with R* of about 15, up to 4 epochs are almost as good as new data."""
    from mimcore.scaling.laws.effective import effective

    unique = np.full(3, 1e6)
    seen = np.array([1.0, 4.0, 400.0]) * unique
    worth = effective(np.array([[15.39]]), {"unique_images": unique, "images_seen": seen})[0] / unique
    np.testing.assert_allclose(worth, [1, 1 + 15.39 * (1 - np.exp(-3 / 15.39)), 1 + 15.39], rtol=1e-9)
    assert worth[1] > 0.9 * 4


def test_the_limits_of_repetition():
    law = law_of("repetition")
    floor, a, alpha, b, beta, worth, rise, _, _ = KNOWN["repetition"].parameters
    truth = np.array([KNOWN["repetition"].parameters])

    def at(params, unique, seen):
        one = {"encoder_params": params, "unique_images": unique, "images_seen": seen}
        return law.predict(truth, {key: np.array([value]) for key, value in one.items()})[0, 0]

    endless = floor + a * 1e8**-alpha + b * (worth * 1e6) ** -beta + rise
    assert at(1e8, 1e6, 1e30) == pytest.approx(endless, rel=1e-6)
    assert at(1e8, 1e30, 1e9) == pytest.approx(floor + a * 1e8**-alpha + b * 1e9**-beta, rel=1e-9)
    # On few images it falls and then rises with length, and the larger model turns sooner.
    lengths = np.geomspace(1e7, 1e11, 200)
    turns = [lengths[np.argmin([at(params, 2e5, seen) for seen in lengths])] for params in (5e7, 6e8)]
    assert 1e7 < turns[1] < turns[0] < 1e11


def test_m4_solves_its_equation():
    floor, span, b, c, a = KNOWN["m4"].parameters
    n = np.geomspace(10, 1e8, 50)
    y = law_of("m4").predict(np.array([KNOWN["m4"].parameters]), {"unique_images": n})[0]
    share = (y - floor) / span
    np.testing.assert_allclose(share / (1 - share) ** a, b * n**-c, rtol=1e-6)
