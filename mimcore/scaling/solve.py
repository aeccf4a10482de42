"""Many fits at once: Levenberg and Marquardt's method on Huber's loss of log residuals, over a batch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimcore.scaling.law import ScalingLaw, Variables
from mimcore.scaling.table import Array

#: A fit has converged when a step lowers its loss by less than this fraction.
TOLERANCE = 1e-8
#: Damping at the first step, and beyond which a fit can go no further.
DAMPING, STUCK = 1e-3, 1e12
#: Curvature given to a row beyond Huber's threshold, so that few rows within it still define a step.
BEYOND = 0.1


class Solution(NamedTuple):
    """``parameters`` ``(R, P)``, ``loss`` ``(R,)`` and whether each has ``converged`` ``(R,)``."""

    parameters: Array
    loss: Array
    converged: NDArray[np.bool_]


def huber_loss(residuals: Array, delta: float, weights: Array | None = None) -> Array:
    """Huber's loss (Huber 1964) of ``residuals`` ``(R, N)``, summed: r**2 / 2 within ``delta``, a line beyond."""
    size = np.abs(residuals)
    within = np.minimum(size, delta)
    loss = within * (size - 0.5 * within)
    return np.asarray((loss if weights is None else weights * loss).sum(axis=1))


# A start or a step may leave the law without a value; its loss is then no number, and it is refused.
@np.errstate(all="ignore")
def solve(
    law: ScalingLaw,
    variables: Variables,
    log_y: Array,
    starts: Array,
    *,
    delta: float,
    weights: Array | None = None,
    frozen: NDArray[np.bool_] | None = None,
    steps: int = 400,
) -> Solution:
    """Minimise the sum of Huber's losses of log y - log law, for every start or data set of a batch.

    Each step solves the damped normal equations with the loss's own curvature (Marquardt 1963; Madsen & Nielsen 1990 for
    Huber's loss) for all fits that have not converged; one that would raise its loss is refused and its damping raised. A
    coordinate at a bound of its parameter that would leave it stays. All of it is array arithmetic over the batch.

    Args:
        law: the law.
        variables: each float64 ``(N,)``, with geometric mean 1 where it scales.
        log_y: logarithms of the quantity, float64 ``(N,)`` or ``(R, N)``.
        starts: float64 ``(R, P)``.
        delta: Huber's threshold on the log residuals; infinite for least squares.
        weights: how often each row counts, float64 ``(R, N)``; once if not given.
        frozen: parameters that keep their start, bool ``(R, P)``.
        steps: the most steps.
    """
    count, width = starts.shape
    log_y = np.broadcast_to(log_y, (count, log_y.shape[-1]))
    is_log = np.array([p.log for p in law.parameters])
    low, high = _bounds(law)
    u = np.clip(_searched(starts, is_log), low, high)
    damping = np.full(count, DAMPING)
    converged = np.zeros(count, dtype=bool)
    rows = np.arange(count)
    fixed = np.zeros((count, width), dtype=bool) if frozen is None else frozen
    value, slope = law.slopes(_natural(u, is_log), variables)
    residual = log_y - np.log(value)
    loss = huber_loss(residual, delta, weights)
    for _ in range(steps):
        # The curvature of Huber's loss: that of squares within the threshold, next to none beyond.
        pull = np.clip(residual, -delta, delta)
        curved = np.where(np.abs(residual) <= delta, 1.0, BEYOND)
        if weights is not None:
            pull, curved = pull * weights[rows], curved * weights[rows]
        jacobian = np.ascontiguousarray(np.moveaxis(slope, 0, 1))  # (R, P, N)
        gradient = (jacobian @ pull[..., None])[..., 0]
        hessian = (jacobian * curved[:, None, :]) @ np.swapaxes(jacobian, 1, 2)
        here = u[rows]
        held = fixed[rows] | ((here <= low) & (gradient < 0)) | ((here >= high) & (gradient > 0))
        gradient[held] = 0.0
        step = _damped(hessian, gradient, held, damping[rows])
        tried = np.clip(here + step, low, high)
        new_value, new_slope = law.slopes(_natural(tried, is_log), variables)
        new_residual = log_y[rows] - np.log(new_value)
        new_loss = huber_loss(new_residual, delta, None if weights is None else weights[rows])
        better = new_loss <= loss[rows]
        gained = loss[rows] - new_loss
        done = better & (gained <= TOLERANCE * loss[rows] + 1e-300)
        u[rows[better]] = tried[better]
        loss[rows[better]] = new_loss[better]
        damping[rows] = np.where(better, damping[rows] * 0.3, damping[rows] * 3.0)
        stuck = damping[rows] > STUCK
        converged[rows[done | stuck]] = True
        keep = ~(done | stuck)
        if not keep.any():
            break
        took = better[:, None]
        residual = np.where(took, new_residual, residual)[keep]
        slope = np.where(better[None, :, None], new_slope, slope)[:, keep]
        rows = rows[keep]
    return Solution(_natural(u, is_log), loss, converged)


def _damped(hessian: Array, gradient: Array, held: NDArray[np.bool_], damping: Array) -> Array:
    """Solve (H + damping * diag H) step = gradient for each of the batch; a held coordinate does not move."""
    width = gradient.shape[1]
    index = np.arange(width)
    diagonal = hessian[:, index, index]
    scale = np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
    system = hessian / (scale[:, :, None] * scale[:, None, :])
    free = ~held
    system *= free[:, :, None] & free[:, None, :]
    system[:, index, index] += np.where(held, 1.0, damping[:, None] + 1e-13)
    step = np.linalg.solve(system, (gradient / scale)[..., None])[..., 0] / scale
    # A step of many factors of e in a logarithm is a leap in the dark.
    return np.asarray(np.clip(step, -2.0, 2.0))


def _bounds(law: ScalingLaw) -> tuple[Array, Array]:
    limits = np.array([(np.log(p.low), np.log(p.high)) if p.log else (p.low, p.high) for p in law.parameters])
    return limits[:, 0], limits[:, 1]


def _searched(parameters: Array, is_log: Array) -> Array:
    return np.where(is_log, np.log(np.where(is_log, parameters, 1.0)), parameters)


def _natural(u: Array, is_log: Array) -> Array:
    return np.where(is_log, np.exp(np.where(is_log, u, 0.0)), u)
