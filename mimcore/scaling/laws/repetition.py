"""Repetition and over-fitting in masked image modeling: unique images, model size and images seen interact."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.additive import FLOOR, power_term, term_parameters
from mimcore.scaling.law import Numbers, Parameter, ScalingLaw, Variable, Variables, project
from mimcore.scaling.table import Array

#: What starts are made of: exponents of model and data, the worth of repetitions, the steepness of memorising, and which
#: of the runs (by rank of their load, as a fraction) has memorised half of what it could.
ALPHAS, BETAS = np.array([0.2, 0.6]), np.array([0.2, 0.5, 1.0])
WORTHS, STEEPNESSES, HALVES = np.array([30.0, 300.0, 3000.0]), np.array([0.8, 1.5, 3.0]), np.array([0.5, 0.8, 0.95])


class Law(ScalingLaw):
    """``base + rise * memorised``: a law that falls with data and length, and rises where a model memorises its images.

    ``base = floor + A * encoder_params ** -alpha + B * effective ** -beta`` is the additive law (Hoffmann et al. 2022, equation
    2) in effective data, ``1 / effective = 1 / images_seen + 1 / (R * unique_images)``: new images count whole, and
    repetitions are worth at most R epochs, as in Muennighoff et al. 2023 (section 3.1), who let the worth decay exponentially.
    ``memorised = 1 / (1 + load ** -k)`` goes from 0 to 1 with ``load = encoder_params * images_seen / unique_images ** 2 / memory``:
    parameters for each image, times the epochs for which it was shown. This term is ours; docs/laws.md tells how it was chosen.

    Limits: for endless new images the additive law in images seen; for endless training on given images
    ``floor + A * encoder_params ** -alpha + B * (R * unique_images) ** -beta + rise``. At ``load = 1`` half of ``rise`` has come.
    """

    name = "repetition"
    formula = (
        "floor + A * encoder_params ** -alpha + B * effective ** -beta + rise / (1 + load ** -k), "
        "1 / effective = 1 / images_seen + 1 / (R * unique_images), "
        "load = encoder_params * images_seen / unique_images ** 2 / memory"
    )
    source = "Hoffmann et al. 2022, equation 2; Muennighoff et al. 2023, section 3.1; the rise: docs/laws.md"
    variables = (
        Variable("encoder_params", "parameters"),
        Variable("unique_images", "images"),
        Variable("images_seen", "images"),
    )
    parameters = (
        FLOOR,
        *term_parameters("A", "alpha", "parameters"),
        *term_parameters("B", "beta", "images"),
        Parameter("R", "epochs", 1e-1, 1e5),
        Parameter("rise", "value", 1e-5, 1e2, of_value=True),
        Parameter("memory", "parameters / image", 1e-8, 1e8),
        Parameter("k", "1", 1e-1, 10),
    )
    together = frozenset({"unique_images", "images_seen"})

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        floor, a, alpha, b, beta, worth, rise, memory, k = (parameters[:, i, None] for i in range(9))
        base = floor + power_term(a, alpha, variables["encoder_params"])
        base = base + power_term(b, -beta, _scarcity(worth, variables))
        memorised = 1 / (1 + np.exp(-k * (_load(variables) - np.log(memory))))
        return np.asarray(base + rise * memorised)

    def slopes(self, parameters: Array, variables: Variables) -> tuple[Array, Array]:
        """See ``ScalingLaw``; in closed form."""
        floor, a, alpha, b, beta, worth, rise, memory, k = (parameters[:, i, None] for i in range(9))
        n = np.log(variables["encoder_params"])
        scarcity = _scarcity(worth, variables)
        logarithm = np.log(scarcity)
        model, data = power_term(a, alpha, variables["encoder_params"]), power_term(b, -beta, scarcity)
        distance = k * (_load(variables) - np.log(memory))
        memorised = 1 / (1 + np.exp(-np.clip(distance, -500, 500)))
        risen = rise * memorised
        value = floor + model + data + risen
        turning = risen * (1 - memorised)
        parts = (
            np.broadcast_to(floor, value.shape),
            model,
            -alpha * n * model,
            data,
            beta * logarithm * data,
            -beta * data / (worth * variables["unique_images"] * scarcity),
            risen,
            -k * turning,
            distance * turning,
        )
        return value, np.stack(parts) / value

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        grids = np.meshgrid(ALPHAS, BETAS, WORTHS, STEEPNESSES, HALVES)
        alpha, beta, worth, k, half = (grid.ravel()[:, None] for grid in grids)
        load = _load(variables)
        memory = np.quantile(load, half)
        terms = [
            np.ones((len(alpha), len(y))),
            np.exp(-alpha * np.log(variables["encoder_params"])),
            _scarcity(worth, variables) ** beta,
            1 / (1 + np.exp(-k * (load - memory))),
        ]
        floor, a, b, rise = (column[:, None] for column in project(np.stack(terms, axis=2), y, 1e-3).T)
        return np.hstack([floor, a, alpha, b, beta, worth, rise, np.exp(memory), k])

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


def _scarcity(worth: Numbers, variables: Variables) -> Numbers:
    """One over the images that the images seen are worth, ``(R, N)``."""
    return np.asarray(1 / variables["images_seen"] + 1 / (worth * variables["unique_images"]))
