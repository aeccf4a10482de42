"""Logistic regression on features that lie in memory: convex, solved by L-BFGS, the same way each time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

#: Maps scores ``(N, C)`` and targets to a scalar.
Loss = Callable[[Tensor, Tensor], Tensor]


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
