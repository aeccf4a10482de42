"""The best use of a budget of operations: how large a model, and how long to train it, with what data there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mimcore.errors import UserError
from mimcore.scaling.estimate import Fit
from mimcore.scaling.law import Variables
from mimcore.scaling.table import Array

#: Model sizes that are tried within the span, in equal steps of their logarithm; the best is refined by a parabola.
SIZES = 201
#: How far beyond the models that were trained a best size is looked for, as a factor.
BEYOND = 4.0


@dataclass(frozen=True)
class Interval:
    """A value of the fitted law, and the ends of its interval over the ensemble (None without one)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Allocation:
    """The best model and length for a budget, and the metric that they reach.

    ``at_edge`` says that the best size is an end of the span that was looked through: the law says no more than that it
    lies there or beyond.
    """

    budget: float
    encoder_params: Interval
    images_seen: Interval
    metric: Interval
    at_edge: bool


@dataclass(frozen=True)
class Price:
    """Operations that an image costs in training, as ``factor * encoder_params ** power``.

    Counted operations of a masked autoencoder are no multiple of its encoder's parameters: few patches pass the encoder, and
    the decoder has a size of its own. A line through the logarithms of what was counted says what models between cost.
    """

    factor: float
    power: float

    @classmethod
    def of(cls, encoder_params: Sequence[float], flops_per_image: Sequence[float]) -> "Price":
        """Fit the line to models that were counted; one model alone is taken as a multiple of its parameters.

        Raises:
            UserError: a number is not positive.
        """
        points = sorted(set(zip(encoder_params, flops_per_image, strict=True)))
        if not points or min(min(pair) for pair in points) <= 0:
            raise UserError(
                "operations and parameters of every run must be positive; the table's column 'flops' is not."
            )
        x, y = (np.log([pair[i] for pair in points]) for i in (0, 1))
        if np.ptp(x) == 0:
            return cls(float(np.exp(np.mean(y - x))), 1.0)
        power, factor = np.polyfit(x, y, 1)
        return cls(float(np.exp(factor)), float(power))

    def __call__(self, encoder_params: Array) -> Array:
        """Operations for an image, float64 ``(N,)``."""
        return np.asarray(self.factor * encoder_params**self.power)


def iso_flop(fit: Fit, budget: float, price: Price, sizes: Array, others: Mapping[str, float]) -> Variables:
    """Variables of runs that all cost ``budget``: each of ``sizes`` ``(N,)``, trained for as long as that pays for.

    Args:
        fit: whose law is asked.
        budget: operations of one run.
        price: of an image.
        sizes: encoder parameters.
        others: values of the law's other variables, such as ``unique_images``.
    """
    fixed = {name: np.full(len(sizes), float(value)) for name, value in others.items()}
    return {**fixed, "encoder_params": sizes, "images_seen": budget / price(sizes)}


def frontier(
    fit: Fit, budgets: Sequence[float], price: Price, others: Mapping[str, float], lower_is_better: bool = True
) -> list[Allocation]:
    """Allocate each budget: the size with the best metric among those of ``iso_flop``, for the law and for every refit.

    Hoffmann et al. 2022, section 3.3 ('approach 3'), with counted operations and with intervals: each refit of the
    ensemble has a best size of its own.

    Args:
        fit: of a law in ``encoder_params`` and ``images_seen``.
        budgets: operations of one run.
        price: of an image.
        others: values of the law's other variables.
        lower_is_better: of the metric.

    Raises:
        UserError: the law is in neither, so that there is nothing to weigh.
    """
    names = {v.name for v in fit.law.variables}
    if not {"encoder_params", "images_seen"} <= names:
        raise UserError(
            f"the law '{fit.law.name}' is not in encoder_params and images_seen: it has no best allocation."
        )
    span = fit.observations.variables["encoder_params"]
    sizes = np.geomspace(span.min() / BEYOND, span.max() * BEYOND, SIZES)
    found = []
    for budget in budgets:
        prediction = fit.predict(iso_flop(fit, budget, price, sizes, others))
        sign = 1.0 if lower_is_better else -1.0
        curves = sign * np.vstack([prediction.mean[None], prediction.ensemble])
        best, value, edge = _lowest(np.log(sizes), curves)
        params = np.exp(best)
        found.append(
            Allocation(
                float(budget),
                _interval(params, fit.confidence),
                _interval(budget / price(params), fit.confidence),
                _interval(sign * value, fit.confidence),
                bool(edge[0]),
            )
        )
    return found


def _lowest(x: Array, curves: Array) -> tuple[Array, Array, Array]:
    """Where each of ``curves`` ``(R, N)`` over ``x`` ``(N,)`` is lowest, how low, and whether that is at an end."""
    rows, index = np.arange(len(curves)), np.argmin(curves, axis=1)
    edge = (index == 0) | (index == len(x) - 1)
    inner = np.clip(index, 1, len(x) - 2)
    left, middle, right = (curves[rows, inner + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(edge | (bend <= 0), 0.0, 0.5 * (left - right) / np.where(bend > 0, bend, 1.0))
    at = np.where(edge, x[index], x[inner] + shift * (x[1] - x[0]))
    value = np.where(edge, curves[rows, index], middle - 0.25 * (left - right) * shift)
    return at, value, edge


def _interval(values: Array, confidence: float) -> Interval:
    """The first of ``values`` ``(1 + R,)`` is the law's own."""
    if len(values) < 2:
        return Interval(float(values[0]), None, None)
    low, high = np.quantile(values[1:], [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(values[0]), float(low), float(high))
