"""Repetition and over-fitting in masked image modeling: unique images, model size and images seen interact."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.law import Numbers, Parameter, ScalingLaw, Variable, Variables, project
from mimcore.scaling.laws.effective import effective
from mimcore.scaling.table import Array

#: What starts are made of: exponents of model and data, the worth of repetitions, the steepness of memorising, and which
#: of the runs (by rank of their load, as a fraction) has memorised half of what it could.
ALPHAS, BETAS = np.array([0.2, 0.6]), np.array([0.2, 0.5, 1.0])
WORTHS, STEEPNESSES, HALVES = np.array([30.0, 300.0, 3000.0]), np.array([0.8, 1.5, 3.0]), np.array([0.5, 0.8, 0.95])


class Law(ScalingLaw):
    """``base + (ceiling - base) * memorised``: a law that falls with data and length, and rises where a model memorises.

    ``base = floor + A * encoder_params ** -alpha + B * effective ** -beta`` is the additive law in effective data (see
    ``effective``; Hoffmann et al. 2022, equation 2; Muennighoff et al. 2023, equation 5). ``memorised = 1 / (1 + load ** -k)``
    goes from 0 to 1 with ``load = encoder_params * images_seen / unique_images ** 2 / memory``: parameters for each image, times
    the epochs for which it was shown. This term is ours, chosen on the small models of Xie et al. 2023 (docs/laws.md).

    Limits: for endless new images the additive law in images seen; for endless training on given images, or an endlessly large model,
    the ceiling, which depends on neither. At ``load = 1`` half of the way to it is gone.
    """

    name = "repetition"
    formula = (
        "base + (ceiling - base) / (1 + load ** -k), base = floor + A * encoder_params ** -alpha + B * effective ** -beta, "
        "effective = unique_images * (1 + R * (1 - exp(-(images_seen / unique_images - 1) / R))), "
        "load = encoder_params * images_seen / unique_images ** 2 / memory"
    )
    source = "base: Hoffmann et al. 2022, Muennighoff et al. 2023; memorising: docs/laws.md"
    variables = (
        Variable("encoder_params", "parameters"),
        Variable("unique_images", "images"),
        Variable("images_seen", "images"),
    )
    parameters = (
        Parameter("floor", "value", 1e-6, 10, of_value=True),
        Parameter("A", "value * parameters ** alpha", 1e-9, 1e6, of_value=True),
        Parameter("alpha", "1", 1e-2, 5),
        Parameter("B", "value * images ** beta", 1e-9, 1e6, of_value=True),
        Parameter("beta", "1", 1e-2, 5),
        Parameter("R", "epochs", 1e-1, 1e5),
        Parameter("ceiling", "value", 1e-3, 1e2, of_value=True),
        Parameter("memory", "parameters / image", 1e-8, 1e8),
        Parameter("k", "1", 1e-1, 10),
    )
    together = frozenset({"unique_images", "images_seen"})

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        floor, a, alpha, b, beta, worth, ceiling, memory, k = (parameters[:, i, None] for i in range(9))
        base = floor + a * np.exp(-alpha * np.log(variables["encoder_params"]))
        base = base + b * np.exp(-beta * np.log(effective(worth, variables)))
        memorised = 1 / (1 + np.exp(-k * (_load(variables) - np.log(memory))))
        return np.asarray(base + (ceiling - base) * memorised)

    def slopes(self, parameters: Array, variables: Variables) -> tuple[Array, Array]:
        """See ``ScalingLaw``; in closed form."""
        floor, a, alpha, b, beta, worth, ceiling, memory, k = (parameters[:, i, None] for i in range(9))
        n = np.log(variables["encoder_params"])
        unique = variables["unique_images"]
        repeated = np.maximum(variables["images_seen"] / unique - 1, 0) / worth
        spent = np.exp(-repeated)
        seen = np.minimum(variables["images_seen"], unique) + unique * worth * (1 - spent)
        d = np.log(seen)
        model, data = a * np.exp(-alpha * n), b * np.exp(-beta * d)
        base = floor + model + data
        distance = k * (_load(variables) - np.log(memory))
        memorised = 1 / (1 + np.exp(-np.clip(distance, -500, 500)))
        left = 1 - memorised
        value = base * left + ceiling * memorised
        rise = memorised * left * (ceiling - base)
        data_left = data * left
        worth_of_r = unique * worth * (1 - spent - repeated * spent) / seen
        parts = (
            floor * left,
            model * left,
            -alpha * n * model * left,
            data_left,
            -beta * d * data_left,
            -beta * worth_of_r * data_left,
            ceiling * memorised,
            -k * rise,
            distance * rise,
        )
        return value, np.stack(parts) / value

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        grids = np.meshgrid(ALPHAS, BETAS, WORTHS, STEEPNESSES, HALVES)
        alpha, beta, worth, k, half = (grid.ravel()[:, None] for grid in grids)
        load = _load(variables)
        memory = np.quantile(load, half)
        memorised = 1 / (1 + np.exp(-k * (load - memory)))
        left = 1 - memorised
        terms = [
            left,
            left * np.exp(-alpha * np.log(variables["encoder_params"])),
            left * np.exp(-beta * np.log(effective(worth, variables))),
            memorised,
        ]
        floor, a, b, ceiling = (column[:, None] for column in project(np.stack(terms, axis=2), y, 1e-3).T)
        return np.hstack([floor, a, alpha, b, beta, worth, ceiling, np.exp(memory), k])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        found = parameters.copy()
        found[:, 1] *= factors["encoder_params"] ** found[:, 2]
        found[:, 3] *= factors["images_seen"] ** found[:, 4]
        found[:, 7] *= factors["encoder_params"] / factors["images_seen"]
        return found


def _load(variables: Variables) -> Array:
    """Logarithm of parameters for each image, times epochs, ``(N,)``."""
    n, u, t = (np.log(variables[name]) for name in ("encoder_params", "unique_images", "images_seen"))
    return np.asarray(n + t - 2 * u)
