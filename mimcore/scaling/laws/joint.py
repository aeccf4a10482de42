"""The additive law in model size, unique images and training length."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.law import LEAST_EXPONENT, Numbers, Parameter, ScalingLaw, Variable, Variables, project
from mimcore.scaling.table import Array

#: Exponents that starts are made of.
EXPONENTS = np.array([0.15, 0.4, 0.9])


class Law(ScalingLaw):
    """``floor + A * encoder_params ** -alpha + B * unique_images ** -beta + C * images_seen ** -gamma``.

    The separable form of Hoffmann et al. 2022 (equation 2) with a term for each axis, as Rosenfeld et al. 2020
    (equation 5) build theirs for model and data. It falls in every variable: it cannot follow a run that over-fits.
    """

    name = "joint"
    formula = "floor + A * encoder_params ** -alpha + B * unique_images ** -beta + C * images_seen ** -gamma"
    source = "Hoffmann et al. 2022, equation 2; Rosenfeld et al. 2020, equation 5"
    variables = (
        Variable("encoder_params", "parameters"),
        Variable("unique_images", "images"),
        Variable("images_seen", "images"),
    )
    parameters = (
        Parameter("floor", "value", 1e-6, 10, of_value=True),
        Parameter("A", "value * parameters ** alpha", 1e-9, 1e6, of_value=True),
        Parameter("alpha", "1", LEAST_EXPONENT, 5),
        Parameter("B", "value * images ** beta", 1e-9, 1e6, of_value=True),
        Parameter("beta", "1", LEAST_EXPONENT, 5),
        Parameter("C", "value * images ** gamma", 1e-9, 1e6, of_value=True),
        Parameter("gamma", "1", LEAST_EXPONENT, 5),
    )

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        return np.asarray(sum(self._terms(parameters, variables)))

    def slopes(self, parameters: Array, variables: Variables) -> tuple[Array, Array]:
        """See ``ScalingLaw``; in closed form."""
        terms = self._terms(parameters, variables)
        value = sum(terms)
        parts = [np.broadcast_to(terms[0], np.shape(value))]
        for i, variable in enumerate(self.variables):
            exponent = parameters[:, 2 + 2 * i, None]
            parts += [terms[1 + i], -exponent * np.log(variables[variable.name]) * terms[1 + i]]
        return np.asarray(value), np.stack(parts) / value

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        exponents = np.stack([grid.ravel() for grid in np.meshgrid(*[EXPONENTS] * 3)], axis=1)
        terms = [np.ones((len(exponents), len(y)))]
        for i, variable in enumerate(self.variables):
            terms.append(np.exp(-exponents[:, i, None] * np.log(variables[variable.name])))
        found = project(np.stack(terms, axis=2), y)
        pairs = [column for i in range(3) for column in (found[:, 1 + i], exponents[:, i])]
        return np.column_stack([found[:, 0], *pairs])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        found = parameters.copy()
        for i, variable in enumerate(self.variables):
            found[:, 1 + 2 * i] *= factors[variable.name] ** found[:, 2 + 2 * i]
        return found

    def _terms(self, parameters: Numbers, variables: Variables) -> list[Numbers]:
        terms = [parameters[:, 0, None]]
        for i, variable in enumerate(self.variables):
            logarithm = np.log(variables[variable.name])
            terms.append(parameters[:, 1 + 2 * i, None] * np.exp(-parameters[:, 2 + 2 * i, None] * logarithm))
        return terms
