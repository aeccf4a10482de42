"""The additive law in model size and data."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.law import LEAST_EXPONENT, Numbers, Parameter, ScalingLaw, Variable, Variables, project
from mimcore.scaling.table import Array

#: Exponents that starts are made of.
EXPONENTS = np.array([0.1, 0.2, 0.35, 0.5, 0.8, 1.2, 2.0])


class Law(ScalingLaw):
    """``floor + A * encoder_params ** -alpha + B * images_seen ** -beta``.

    Hoffmann et al. 2022, equation 2 (form) and appendix D.2 (fit: Huber's loss with threshold 1e-3 on the residuals of
    log loss, minimised by L-BFGS over a grid of starts). The residuals' losses are summed, as the errata of Besiroglu
    et al. 2024 ask: averaged, their optimiser stopped early. ``images_seen`` may count tokens.
    """

    name = "chinchilla"
    formula = "floor + A * encoder_params ** -alpha + B * images_seen ** -beta"
    source = "Hoffmann et al. 2022, equation 2 and appendix D.2; Besiroglu et al. 2024"
    variables = (Variable("encoder_params", "parameters"), Variable("images_seen", "images"))
    parameters = (
        Parameter("floor", "value", 1e-6, 10, of_value=True),
        Parameter("A", "value * parameters ** alpha", 1e-9, 1e6, of_value=True),
        Parameter("alpha", "1", LEAST_EXPONENT, 5),
        Parameter("B", "value * images ** beta", 1e-9, 1e6, of_value=True),
        Parameter("beta", "1", LEAST_EXPONENT, 5),
    )
    huber = 1e-3

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        floor, a, alpha, b, beta = (parameters[:, i, None] for i in range(5))
        n, d = np.log(variables["encoder_params"]), np.log(variables["images_seen"])
        return np.asarray(floor + a * np.exp(-alpha * n) + b * np.exp(-beta * d))

    def slopes(self, parameters: Array, variables: Variables) -> tuple[Array, Array]:
        """See ``ScalingLaw``; in closed form."""
        floor, a, alpha, b, beta = (parameters[:, i, None] for i in range(5))
        n, d = np.log(variables["encoder_params"]), np.log(variables["images_seen"])
        first, second = a * np.exp(-alpha * n), b * np.exp(-beta * d)
        value = floor + first + second
        parts = (np.broadcast_to(floor, value.shape), first, -alpha * n * first, second, -beta * d * second)
        return value, np.stack(parts) / value

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        alpha, beta = (grid.ravel() for grid in np.meshgrid(EXPONENTS, EXPONENTS))
        n, d = np.log(variables["encoder_params"]), np.log(variables["images_seen"])
        terms = [np.ones((len(alpha), len(y))), np.exp(-alpha[:, None] * n), np.exp(-beta[:, None] * d)]
        floor, a, b = project(np.stack(terms, axis=2), y).T
        return np.column_stack([floor, a, alpha, b, beta])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        found = parameters.copy()
        found[:, 1] *= factors["encoder_params"] ** found[:, 2]
        found[:, 3] *= factors["images_seen"] ** found[:, 4]
        return found
