"""From the validation loss to a task's error: the second step of a forecast in two."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.law import Numbers, Parameter, ScalingLaw, Variable, Variables, project
from mimcore.scaling.table import Array

#: Exponents that starts are made of.
EXPONENTS = np.geomspace(0.5, 20, 12)


class Law(ScalingLaw):
    """``floor + A * val_loss ** k``: the error of a task that a validation loss foretells.

    With a metric's floor and ceiling given, the error is in odds, and this is a sigmoid in the logarithm of the loss that
    saturates: the second of two steps as in Dubey et al. 2024, section 3.2.1, whose sigmoid is in the loss itself.
    """

    name = "task"
    formula = "floor + A * val_loss ** k"
    source = "Dubey et al. 2024, section 3.2.1"
    variables = (Variable("val_loss", "loss"),)
    parameters = (
        Parameter("floor", "value", 1e-6, 10, of_value=True),
        Parameter("A", "value * loss ** -k", 1e-9, 1e3, of_value=True),
        Parameter("k", "1", 1e-2, 100),
    )

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        floor, a, k = (parameters[:, i, None] for i in range(3))
        return np.asarray(floor + a * np.exp(k * np.log(variables["val_loss"])))

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        rising = np.exp(EXPONENTS[:, None] * np.log(variables["val_loss"]))
        floor, a = project(np.stack([np.ones_like(rising), rising], axis=2), y).T
        return np.column_stack([floor, a, EXPONENTS])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        found = parameters.copy()
        found[:, 1] *= factors["val_loss"] ** -found[:, 2]
        return found
