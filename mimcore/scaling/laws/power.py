"""The saturating power law; for one curve, by variable projection over a grid of exponents."""

from collections.abc import Mapping

import numpy as np

from mimcore.scaling.law import Numbers, Parameter, ScalingLaw, Variable, Variables, project
from mimcore.scaling.table import Array

#: Exponents that are tried.
EXPONENTS = np.geomspace(0.005, 3.0, 40)
#: Huber's constant: 95 % efficiency for normal residuals (Huber 1964).
HUBER = 1.345
#: Passes over the grid, and refinements of the exponent after them.
PASSES, REFINEMENTS = 2, 13


class Law(ScalingLaw):
    """``floor + amplitude * unique_images ** -exponent``, with floor and amplitude at least 0 and exponent in (0, 3].

    A power law in the number of training examples: Hestness et al. 2017, Kaplan et al. 2020 (equation 1.2).
    With a constant that more data cannot remove: Rosenfeld et al. 2020, Hoffmann et al. 2022 (equation 2), in one
    variable.
    """

    name = "power"
    formula = "floor + amplitude * unique_images ** -exponent"
    source = "Rosenfeld et al. 2020; Hoffmann et al. 2022, equation 2"
    variables = (Variable("unique_images", "images"),)
    parameters = (
        Parameter("floor", "value", 1e-6, 10, of_value=True),
        Parameter("amplitude", "value * images ** exponent", 1e-9, 1e6, of_value=True),
        Parameter("exponent", "1", EXPONENTS[0], EXPONENTS[-1]),
    )

    def fit(self, n: Array, y: Array) -> Array:
        """Minimise Huber's loss of log y - log law (as Hoffmann et al. 2022, section 3.3), for many data sets at once.

        For a fixed exponent the law is linear in floor and amplitude, so that they are solved for and the search is
        over the exponent alone (variable projection; Golub & Pereyra 1973): every exponent of a grid is a start, and
        the best is refined. The logarithm is linearised about the last pass, whose fixed point is the optimum. Huber's
        threshold follows the spread of the residuals, unlike the fixed 1e-3 of Hoffmann et al., which at a handful
        of points is a fit of absolute values.

        Args:
            n: unique images, positive, float64 ``(P,)``.
            y: what falls with n (a loss, an error rate), positive, float64 ``(P,)`` or ``(R, P)``.

        Returns:
            float64 ``(3,)`` or ``(R, 3)``, in the order of ``parameters``. An amplitude of 0 says that y does not fall.
        """
        data = np.atleast_2d(y)
        centre = np.exp(np.mean(np.log(n)))
        x = np.log(n / centre)
        fitted, robust = data, np.ones_like(data)
        exponent = np.ones(len(data))
        floor = amplitude = exponent
        step = np.log(EXPONENTS[1] / EXPONENTS[0])
        rows = np.arange(len(data))
        for turn in range(PASSES + REFINEMENTS):
            # log y - log f is (z - f) / fitted to first order about the last fit, with this z
            # (clipped, so that an outlier far below the law leaves z positive).
            z = fitted * (1 + np.clip(np.log(data / fitted), -0.9, 0.9))
            weights = robust / fitted**2
            if turn < PASSES:
                candidates = EXPONENTS
            else:
                around = exponent[:, None] * np.exp(step * np.array([-1.0, 0.0, 1.0]))
                candidates = np.clip(around, EXPONENTS[0], EXPONENTS[-1])
                step *= 0.5
            basis = np.exp(-candidates[..., None] * x)  # (G, P) or (R, 3, P)
            floors, amplitudes, costs = _project(basis, weights, z)
            best = np.argmin(costs, axis=1)
            floor, amplitude = floors[rows, best], amplitudes[rows, best]
            exponent = candidates[best] if turn < PASSES else candidates[rows, best]
            fitted = floor[:, None] + amplitude[:, None] * np.exp(-exponent[:, None] * x)
            robust = _huber_weights(np.log(data / fitted), len(self.parameters))
        parameters = np.stack([floor, amplitude * centre**exponent, exponent], axis=1)
        return parameters[0] if np.ndim(y) == 1 else parameters

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        floor, amplitude, exponent = (parameters[..., i, None] for i in range(3))
        return np.asarray(floor + amplitude * variables["unique_images"] ** -exponent)

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        falling = np.exp(-EXPONENTS[:, None] * np.log(variables["unique_images"]))
        floor, amplitude = project(np.stack([np.ones_like(falling), falling], axis=2), y).T
        return np.column_stack([floor, amplitude, EXPONENTS])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        found = parameters.copy()
        found[:, 1] *= factors["unique_images"] ** found[:, 2]
        return found


def _project(basis: Array, weights: Array, z: Array) -> tuple[Array, Array, Array]:
    """Weighted least squares of ``z = floor + amplitude * basis``, both at least 0, for each replicate and exponent.

    Args:
        basis: float64 ``(G, P)`` shared, or ``(R, G, P)``.
        weights: float64 ``(R, P)``.
        z: float64 ``(R, P)``.

    Returns:
        floors, amplitudes and costs, each float64 ``(R, G)``.
    """

    def total(values: Array, factors: Array) -> Array:
        summed = factors @ values.T if values.ndim == 2 else np.einsum("rgp,rp->rg", values, factors)
        return np.asarray(summed)

    mass = weights.sum(axis=1, keepdims=True)
    mean_z = (weights * z).sum(axis=1, keepdims=True) / mass
    centred = weights * (z - mean_z)
    sum_x = total(basis, weights)
    sum_xx = total(basis * basis, weights)
    sum_xz = total(basis, centred)
    spread = (centred * (z - mean_z)).sum(axis=1, keepdims=True)
    mean_x = sum_x / mass
    variance = np.maximum(sum_xx - mass * mean_x**2, 1e-300)
    slope = sum_xz / variance
    floors = mean_z - slope * mean_x
    costs = spread - slope * sum_xz
    # The optimum of a convex problem in two unknowns: where one is negative, it is 0 and the other is solved for alone.
    through_zero = (sum_xz + mean_z * sum_x) / sum_xx
    cost_zero = spread + mass * mean_z**2 - through_zero * (sum_xz + mean_z * sum_x)
    negative = floors < 0
    flat = slope < 0
    floors = np.where(flat, mean_z, np.where(negative, 0.0, floors))
    slope = np.where(flat, 0.0, np.where(negative, through_zero, slope))
    costs = np.where(flat, spread, np.where(negative, cost_zero, costs))
    return floors, slope, costs


def _huber_weights(residuals: Array, parameters: int) -> Array:
    """Weights ``(R, P)`` of iteratively reweighted least squares; the scale is the median absolute residual."""
    points = residuals.shape[1]
    absolute = np.abs(residuals)
    freedom = np.sqrt(points / max(points - parameters, 1))
    scale = 1.4826 * np.median(absolute, axis=1, keepdims=True) * freedom
    limit = HUBER * np.maximum(scale, 1e-12)
    return np.asarray(np.minimum(1.0, limit / np.maximum(absolute, 1e-300)))
