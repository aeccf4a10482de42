"""Logistic regression on features that lie in memory: convex, solved by L-BFGS, the same way each time."""

import math
from collections.abc import Callable

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from mimcore.definition import Definition

#: Maps scores ``(N, C)`` and targets to a scalar.
Loss = Callable[[Tensor, Tensor], Tensor]


class LogisticOptions(Definition):
    """Options of a regression whose penalty is chosen."""

    #: Penalties to choose from: l2 / 2 times the squared norm of the weights is added to the mean cross-entropy.
    l2: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    #: Share of the training images that the penalty is chosen on; the final fit has all of them.
    held_out_fraction: float = Field(0.2, gt=0, lt=1)
    #: Iterations of L-BFGS for each penalty; it ends earlier once it has converged.
    max_iterations: int = Field(200, ge=1)

    @field_validator("l2")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) <= 0:
            raise ValueError("at least one penalty, each above 0, is needed")
        return value


def standardize(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Give each feature the training images' zero mean and unit variance; constant features become zero."""
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
    scale = torch.where(std > 1e-6, 1 / std.clamp(min=1e-6), 0)
    return (train - mean) * scale, (test - mean) * scale


def fit(
    features: Tensor, labels: Tensor, l2: float, start: Tensor, max_iterations: int, loss: Loss = F.cross_entropy
) -> Tensor:
    """Minimise mean loss + l2 / 2 * |weights|^2 by L-BFGS (the bias is free).

    Args:
        features: float32 ``(N, D)``.
        labels: int64 ``(N,)``, or whatever ``loss`` takes.
        l2: the penalty.
        start: ``(D + 1, C)``, weights and, last, bias.
        max_iterations: of L-BFGS.
        loss: cross-entropy over classes, or another mean over images.

    Returns:
        ``(D + 1, C)``, weights and, last, bias.
    """
    solution = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [solution],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        history_size=10,
        tolerance_grad=1e-6,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(logits(features, solution), labels) + l2 / 2 * solution[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return solution.detach()


def logits(features: Tensor, solution: Tensor) -> Tensor:
    """Scores ``(N, C)`` of features ``(N, D)`` under weights and bias ``(D + 1, C)``."""
    return torch.addmm(solution[-1], features, solution[:-1])


def choose(
    features: Tensor,
    labels: Tensor,
    classes: int,
    options: LogisticOptions,
    seed: int,
    loss: Loss = F.cross_entropy,
) -> float:
    """Choose the penalty with the least loss on a held-out part of the training images.

    Penalties are tried from strong to weak, each from the solution before it, until the held-out loss rises:
    it has one minimum along the path, and the weak penalties past it take longest to fit.
    """
    if len(options.l2) == 1:
        return options.l2[0]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    cut = max(1, round(len(labels) * options.held_out_fraction))
    held, kept = order[:cut], order[cut:]
    solution = features.new_zeros(features.shape[1] + 1, classes)
    best, least = math.nan, math.inf
    for l2 in sorted(options.l2, reverse=True):
        solution = fit(features[kept], labels[kept], l2, solution, options.max_iterations, loss)
        found = float(loss(logits(features[held], solution), labels[held]))
        if found >= least:
            break
        best, least = l2, found
    return best
