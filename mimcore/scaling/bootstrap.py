"""Uncertainty of a fitted law: a hierarchical bootstrap over subsets' sizes and seeds."""

from typing import ClassVar, Protocol

import numpy as np

from mimcore.scaling.law import Numbers, Parameter, Variables
from mimcore.scaling.table import Array

#: No deviate moves a point by more than this on the log scale; beyond it every law is lost anyway.
LIMIT = 2.0


class Curve(Protocol):
    """A law in one variable, ``unique_images``, that fits many data sets at once by itself."""

    name: ClassVar[str]
    formula: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]

    def fit(self, n: Array, y: Array) -> Array:
        """Fit ``(P,)`` or ``(R, P)`` values at ``(P,)`` sizes; return ``(K,)`` or ``(R, K)`` parameters."""
        ...

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """Evaluate ``(..., K)`` parameters at ``(N,)`` sizes; return ``(..., N)`` values."""
        ...


def along(n: Array) -> dict[str, Array]:
    """Return the variables of a curve in unique images."""
    return {"unique_images": n}


def replicate_fits(law: Curve, n: Array, y: Array, count: int, rng: np.random.Generator) -> Array | None:
    """Fit the law again to ``count`` studies that might have come out instead.

    A parametric bootstrap in two levels (Davison & Hinkley 1997, section 3.8), on the log scale, where noise is
    even: runs of one size scatter about the size's mean (seeds), and the means scatter about the law by more than
    their seeds explain (the law is not exact). Both variances are pooled over the sizes, by the analysis of variance,
    because two or three seeds of one size say little. Each replicate draws the variances from their own sampling
    distribution (scaled inverse chi-squared), so that intervals widen as Student's t does when there are few runs.
    Seeds of different sizes are taken as independent.

    Args:
        law: the law.
        n: unique images, float64 ``(P,)``; runs that differ only in their seed share a value.
        y: what falls with n, positive, float64 ``(P,)``.
        count: R, the number of replicates.
        rng: source of the draws.

    Returns:
        float64 ``(R, K)`` parameters, or None where nothing is left to judge the noise by: one run per size and
        no more sizes than the law has parameters.
    """
    sizes, group = np.unique(n, return_inverse=True)
    runs = np.bincount(group).astype(np.float64)
    freedom_seeds = len(n) - len(sizes)
    freedom_sizes = len(sizes) - len(law.parameters)
    if freedom_seeds == 0 and freedom_sizes <= 0:
        return None
    fitted = law.predict(law.fit(n, y), along(n))
    residuals = np.log(y / fitted)
    means = np.bincount(group, residuals) / runs
    within = float(np.sum((residuals - means[group]) ** 2)) / max(freedom_seeds, 1)
    between = float(np.sum(runs * means**2)) / max(freedom_sizes, 1) if freedom_sizes > 0 else within
    # Expected mean squares: between = within + (runs per size) * variance of the misfit.
    misfit = max(0.0, between - within) / float(np.mean(runs))
    noise = np.zeros((count, len(n)))
    if freedom_seeds:
        noise += _deviates(within, freedom_seeds, count, len(n), rng)
    if freedom_sizes > 0 and misfit > 0:
        noise += _deviates(misfit, freedom_sizes, count, len(sizes), rng)[:, group]
    return law.fit(n, fitted * np.exp(np.clip(noise, -LIMIT, LIMIT)))


def _deviates(variance: float, freedom: int, count: int, points: int, rng: np.random.Generator) -> Array:
    """Normal deviates ``(count, points)``; each replicate has a variance as uncertain as ``freedom`` makes it."""
    spread = np.sqrt(variance * freedom / np.maximum(rng.chisquare(freedom, size=(count, 1)), 1e-12))
    return np.asarray(spread * rng.standard_normal((count, points)))
