"""Laws with known parameters, and the runs that are made of them: what tests and benchmarks/coverage.py hold fits against."""

from typing import NamedTuple

import numpy as np

from mimcore import registry
from mimcore.scaling.covariate import with_covariates
from mimcore.scaling.law import ScalingLaw
from mimcore.scaling.observations import Observations
from mimcore.scaling.table import Array


class Known(NamedTuple):
    """A law, its true parameters, and where it is measured: each variable's values, of which the grid is the product."""

    parameters: tuple[float, ...]
    grid: dict[str, tuple[float, ...]]
    seeds: int = 1


MODELS = (5e7, 9e7, 2e8, 6e8)
IMAGES = (1e5, 4e5, 1.6e6, 6.4e6, 2.56e7)
SEEN = (2.5e8, 5e8, 1e9)
SIZES = tuple(float(n) for n in np.geomspace(1e3, 1e6, 12))

KNOWN = {
    "power": Known((0.3, 8.0, 0.4), {"unique_images": SIZES}, seeds=2),
    "chinchilla": Known((0.3, 30.0, 0.35, 40.0, 0.3), {"encoder_params": MODELS, "images_seen": (2e7, 8e7, *SEEN)}),
    "model_data": Known((0.3, 30.0, 0.35, 3.0, 0.3), {"encoder_params": MODELS, "unique_images": IMAGES}),
    "joint": Known(
        (0.3, 30.0, 0.35, 3.0, 0.3, 30.0, 0.3),
        {"encoder_params": MODELS, "unique_images": IMAGES, "images_seen": (6e7, *SEEN)},
    ),
    "effective": Known(
        (0.3, 30.0, 0.35, 30.0, 0.3, 50.0),
        {"encoder_params": MODELS, "unique_images": IMAGES, "images_seen": SEEN},
    ),
    "repetition": Known(
        (0.4, 20.0, 0.35, 300.0, 0.48, 2000.0, 0.07, 2.3e6, 2.0),
        {"encoder_params": MODELS, "unique_images": (1.28e5, 2.56e5, 6.4e5, 1.28e6, 1.4e7), "images_seen": SEEN},
    ),
    "m4": Known((0.2, 0.6, 100.0, 0.55, 0.7), {"unique_images": SIZES}, seeds=2),
    "broken": Known((0.15, 2.0, 0.15, 0.45, 3e4, 0.3), {"unique_images": SIZES}, seeds=2),
    "task": Known((0.05, 10.0, 5.0), {"val_loss": tuple(float(x) for x in np.linspace(0.4, 0.6, 12))}, seeds=2),
}


def law_of(name: str, covariates: tuple[str, ...] = ()) -> ScalingLaw:
    return with_covariates(registry.load("law", name).Law(), covariates)


def runs(name: str, noise: float, seed: int) -> Observations:
    """Runs on the law's grid with normal noise of the logarithm."""
    law, known = law_of(name), KNOWN[name]
    axes = np.meshgrid(*known.grid.values(), np.arange(known.seeds), indexing="ij")
    variables = {key: axis.ravel().astype(np.float64) for key, axis in zip(known.grid, axes, strict=False)}
    value = law.predict(np.array([known.parameters]), variables)[0]
    value = value * np.exp(noise * np.random.default_rng([seed, len(name)]).standard_normal(len(value)))
    return Observations(variables, value, tuple(f"run {i}" for i in range(len(value))))


def beyond(name: str) -> dict[str, Array]:
    """One run at four times the largest value of every variable that scales; of a loss, at a quarter below its least."""
    grid = KNOWN[name].grid
    return {key: np.array([0.75 * min(v) if key == "val_loss" else 4 * max(v)]) for key, v in grid.items()}
