"""Laws that are a floor and a power of each variable, added; and the one term of it that other laws have too."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mimcore.scaling.law import LEAST_EXPONENT, Numbers, Parameter, ScalingLaw, Variables, project
from mimcore.scaling.table import Array

#: Of every law with a floor.
FLOOR = Parameter("floor", "value", 1e-6, 10, of_value=True)


def term_parameters(amplitude: str, exponent: str, unit: str, high: float = 1e6) -> tuple[Parameter, Parameter]:
    """The two parameters of a term ``amplitude * x ** -exponent``, with x in ``unit``."""
    scale = Parameter(amplitude, f"value * {unit} ** {exponent}", 1e-9, high, of_value=True)
    return scale, Parameter(exponent, "1", LEAST_EXPONENT, 5)


def power_term(amplitude: Numbers, exponent: Numbers, x: Array) -> Numbers:
    """``amplitude * x ** -exponent``, ``(R, N)``, of ``(R, 1)`` parameters and ``(N,)`` values."""
    return np.asarray(amplitude * np.exp(-exponent * np.log(x)))


class AdditiveLaw(ScalingLaw):
    """``floor + sum of amplitude * x ** -exponent`` over its variables: ``parameters`` are the floor, then two for each.

    Hoffmann et al. 2022 (equation 2) and Rosenfeld et al. 2020 (equation 5) build their laws so. It falls in every variable.
    """

    #: Exponents that starts are made of.
    exponents: ClassVar[tuple[float, ...]]

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
        width = len(self.variables)
        exponents = np.stack([grid.ravel() for grid in np.meshgrid(*[np.array(self.exponents)] * width)], axis=1)
        terms = [np.ones((len(exponents), len(y)))]
        for i, variable in enumerate(self.variables):
            terms.append(np.exp(-exponents[:, i, None] * np.log(variables[variable.name])))
        found = project(np.stack(terms, axis=2), y)
        pairs = [column for i in range(width) for column in (found[:, 1 + i], exponents[:, i])]
        return np.column_stack([found[:, 0], *pairs])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        found = parameters.copy()
        for i, variable in enumerate(self.variables):
            found[:, 1 + 2 * i] *= factors[variable.name] ** found[:, 2 + 2 * i]
        return found

    def _terms(self, parameters: Numbers, variables: Variables) -> list[Numbers]:
        return [
            parameters[:, 0, None],
            *(
                power_term(parameters[:, 1 + 2 * i, None], parameters[:, 2 + 2 * i, None], variables[variable.name])
                for i, variable in enumerate(self.variables)
            ),
        ]
