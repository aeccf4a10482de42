"""A power law whose exponent changes once."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.law import Numbers, Parameter, ScalingLaw, Variable, Variables, project, softplus
from mimcore.scaling.table import Array

#: What starts are made of: exponents before and after the break, and the place of the break (log of scaled images).
BEFORE, CHANGE, PLACES = np.array([0.1, 0.4, 1.0]), np.array([-0.3, 0.3, 0.8]), np.array([-1.5, 0.0, 1.5])


class Law(ScalingLaw):
    """``floor + A * n ** -c0 * (1 + (n / d) ** (1 / f)) ** (-c1 * f)``, with n the unique images.

    Caballero et al. 2023, equation 1, with one break: the exponent goes from c0 to c0 + c1 about ``n = d``, the more sharply
    the smaller f is.
    """

    name = "broken"
    formula = "floor + A * unique_images ** -c0 * (1 + (unique_images / d) ** (1 / f)) ** (-c1 * f)"
    source = "Caballero et al. 2023, equation 1"
    variables = (Variable("unique_images", "images"),)
    parameters = (
        Parameter("floor", "value", 1e-6, 10, of_value=True),
        Parameter("A", "value * images ** c0", 1e-9, 1e6, of_value=True),
        Parameter("c0", "1", 1e-3, 5),
        Parameter("c1", "1", -3, 5, log=False),
        Parameter("d", "images", 1e-4, 1e4),
        Parameter("f", "1", 5e-2, 3),
    )

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        floor, a, c0, c1, d, f = (parameters[:, i, None] for i in range(6))
        n = np.log(variables["unique_images"])
        return np.asarray(floor + a * np.exp(-c0 * n - c1 * f * softplus((n - np.log(d)) / f)))

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        c0, c1, place = (grid.ravel() for grid in np.meshgrid(BEFORE, CHANGE, PLACES))
        n, f = np.log(variables["unique_images"]), 0.3
        falling = np.exp(-c0[:, None] * n - c1[:, None] * f * softplus((n - place[:, None]) / f))
        floor, a = project(np.stack([np.ones_like(falling), falling], axis=2), y).T
        return np.column_stack([floor, a, c0, c1, np.exp(place), np.full_like(c0, f)])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        found = parameters.copy()
        found[:, 1] *= factors["unique_images"] ** found[:, 2]
        found[:, 4] *= factors["unique_images"]
        return found
