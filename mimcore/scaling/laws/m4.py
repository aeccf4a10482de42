"""M4: a sigmoid between the error of a guess and a floor, with a power law between them."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.law import Numbers, Parameter, ScalingLaw, Variable, Variables, project, softplus
from mimcore.scaling.table import Array

#: Newton's steps for the implicit equation, whose logarithm is monotone and bends one way: they converge from anywhere.
NEWTON = 12
#: What starts are made of: the exponents, and the share of the way down at which the data lie.
EXPONENTS, SHAPES, PLACES = np.array([0.2, 0.5, 1.0]), np.array([0.1, 1.0, 3.0]), np.array([-2.0, 0.0, 1.5])


class Law(ScalingLaw):
    """``share / (1 - share) ** a = B * unique_images ** -c``, solved for the share, of ``y = floor + span * share``.

    Alabdulmohsin, Neyshabur & Zhai 2022, equation 5 (the estimator M4), with ``share = (y - floor) / span`` and
    ``span`` the way from the error of a guess to the floor. Few images give the former, many the latter; ``a = 0`` is a
    saturating power law.
    """

    name = "m4"
    formula = "floor + span * share, where share / (1 - share) ** a = B * unique_images ** -c"
    source = "Alabdulmohsin et al. 2022, equation 5"
    variables = (Variable("unique_images", "images"),)
    parameters = (
        Parameter("floor", "value", 1e-6, 10, of_value=True),
        Parameter("span", "value", 1e-4, 1e3, of_value=True),
        Parameter("B", "images ** c", 1e-6, 1e6),
        Parameter("c", "1", 1e-2, 5),
        Parameter("a", "1", 2e-2, 20),
    )

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        floor, span, b, c, a = (parameters[:, i, None] for i in range(5))
        return np.asarray(floor + span * _share(np.log(b) - c * np.log(variables["unique_images"]), a))

    def slopes(self, parameters: Array, variables: Variables) -> tuple[Array, Array]:
        """See ``ScalingLaw``; the share's slopes are those of the equation that defines it."""
        floor, span, b, c, a = (parameters[:, i, None] for i in range(5))
        n = np.log(variables["unique_images"])
        share = _share(np.log(b) - c * n, a)
        value = floor + span * share
        left = 1 - share
        along = span * share * left / (left + a * share)  # along the logarithm of B
        parts = (
            np.broadcast_to(floor, value.shape),
            span * share,
            along,
            -c * n * along,
            a * np.log(np.maximum(left, 1e-300)) * along,
        )
        return value, np.stack(parts) / value

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        c, a, place = (grid.ravel() for grid in np.meshgrid(EXPONENTS, SHAPES, PLACES))
        b = np.exp(place)
        share = _share(place[:, None] - c[:, None] * np.log(variables["unique_images"]), a[:, None])
        floor, span = project(np.stack([np.ones_like(share), share], axis=2), y).T
        return np.column_stack([floor, span, b, c, a])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        found = parameters.copy()
        found[:, 2] *= factors["unique_images"] ** found[:, 3]
        return found


def _share(level: Numbers, a: Numbers) -> Numbers:
    """Solve ``log(share) - a * log(1 - share) = level`` for the share, ``(R, N)``, by Newton on its log odds."""
    odds = np.where(level.real < 0, level, level / np.maximum(a.real, 1.0))
    for _ in range(NEWTON):
        share = 1 / (1 + np.exp(-odds))
        odds = odds - (a * softplus(odds) - softplus(-odds) - level) / (1 - share + a * share)
    return np.asarray(1 / (1 + np.exp(-odds)))
