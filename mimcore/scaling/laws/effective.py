"""The additive law in model size and effective data: images that are shown again count for less and less."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.additive import FLOOR, power_term, term_parameters
from mimcore.scaling.law import Numbers, Parameter, ScalingLaw, Variable, Variables, project
from mimcore.scaling.table import Array

#: Exponents, and the repetitions that are worth something, that starts are made of.
EXPONENTS, REPETITIONS = np.array([0.15, 0.35, 0.8, 1.5]), np.array([2.0, 15.0, 100.0, 1000.0])


class Law(ScalingLaw):
    """``floor + A * encoder_params ** -alpha + B * effective ** -beta``.

    ``effective = unique_images * (1 + R * (1 - exp(-(images_seen / unique_images - 1) / R)))``, or the images seen where they
    are fewer than the unique ones: the first showing counts whole, and all later ones together are worth at most R more.
    Muennighoff et al. 2023, equations 5 and 6, for data; their like term for excess parameters is left out. The loss cannot
    rise with length, and its limit for endless training is that of ``(1 + R) * unique_images``.
    """

    name = "effective"
    formula = (
        "floor + A * encoder_params ** -alpha + B * (unique_images * (1 + R * (1 - exp(-(images_seen / unique_images - 1) / R)))) "
        "** -beta"
    )
    source = "Muennighoff et al. 2023, equations 5 and 6"
    variables = (
        Variable("encoder_params", "parameters"),
        Variable("unique_images", "images"),
        Variable("images_seen", "images"),
    )
    parameters = (
        FLOOR,
        *term_parameters("A", "alpha", "parameters"),
        *term_parameters("B", "beta", "images", high=1e9),
        Parameter("R", "epochs", 1e-1, 1e5),
    )
    together = frozenset({"unique_images", "images_seen"})

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        floor, a, alpha, b, beta, worth = (parameters[:, i, None] for i in range(6))
        first = power_term(a, alpha, variables["encoder_params"])
        return np.asarray(floor + first + power_term(b, beta, effective(worth, variables)))

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        alpha, beta, worth = (grid.ravel() for grid in np.meshgrid(EXPONENTS, EXPONENTS, REPETITIONS))
        terms = [
            np.ones((len(alpha), len(y))),
            np.exp(-alpha[:, None] * np.log(variables["encoder_params"])),
            np.exp(-beta[:, None] * np.log(effective(worth[:, None], variables))),
        ]
        floor, a, b = project(np.stack(terms, axis=2), y).T
        return np.column_stack([floor, a, alpha, b, beta, worth])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        found = parameters.copy()
        found[:, 1] *= factors["encoder_params"] ** found[:, 2]
        found[:, 3] *= factors["images_seen"] ** found[:, 4]
        return found


def effective(worth: Numbers, variables: Variables) -> Numbers:
    """Unique images that the images seen are worth, ``(R, N)``, where all repetitions are worth ``worth`` ``(R, 1)`` epochs."""
    unique = variables["unique_images"]
    repeated = np.maximum(variables["images_seen"] / unique - 1, 0)  # a run may end within its first epoch
    seen = np.minimum(variables["images_seen"], unique)
    return np.asarray(seen + unique * worth * (1 - np.exp(-repeated / worth)))
