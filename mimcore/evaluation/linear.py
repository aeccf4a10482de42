"""Linear probe: multinomial logistic regression on standardised frozen features.

Features are standardised as by MAE's batch norm without affine (He et al. 2022, appendix A.1). The recipe there, LARS
on augmented images for 90 epochs, is not used: on features computed once the problem is convex, and L-BFGS solves it in
seconds, the same way each time, with one penalty to choose (as the probes of Kornblith et al. 2019, section A.5, and
CLIP, Radford et al. 2021, appendix A.3). Numbers are a little below those of a probe trained with augmentation.
"""

import math

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation.frozen import Frozen, PooledConfig
from mimcore.evaluation.logistic import fit, logits, standardize
from mimcore.evaluation.task import Context, Metric, Needs, Value, accuracy, class_count, labels_of

METRICS = {
    "top1": Metric("Top-1 accuracy of a linear probe"),
    "cross_entropy": Metric("Test loss of a linear probe", higher_is_better=False, unit="nats", ceiling=None),
}
PIXELS = True
NEEDS: Needs = "labels"


class Config(PooledConfig):
    """Options of the linear probe."""

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


def choose(features: Tensor, labels: Tensor, classes: int, config: Config, seed: int) -> float:
    """Choose the penalty with the least cross-entropy on a held-out part of the training images.

    Penalties are tried from strong to weak, each from the solution before it, until the held-out loss rises:
    it has one minimum along the path, and the weak penalties past it take longest to fit.
    """
    if len(config.l2) == 1:
        return config.l2[0]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    cut = max(1, round(len(labels) * config.held_out_fraction))
    held, kept = order[:cut], order[cut:]
    solution = features.new_zeros(features.shape[1] + 1, classes)
    best, best_loss = math.nan, math.inf
    for l2 in sorted(config.l2, reverse=True):
        solution = fit(features[kept], labels[kept], l2, solution, config.max_iterations)
        loss = float(F.cross_entropy(logits(features[held], solution), labels[held]))
        if loss >= best_loss:
            break
        best, best_loss = l2, loss
    return best


def probe(features: Frozen, config: Config, context: Context) -> dict[str, Value]:
    """Top-1 accuracy and cross-entropy on the test images.

    Raises:
        UserError: features are not finite, or there are too few training images to hold some out.
    """
    if len(features.train) < 2:
        raise UserError(
            f"{context.where}: a linear probe needs at least 2 training images; raise train_images of features.{config.features}."
        )
    classes = class_count(features, context.where)
    train, test = standardize(*features.pooled(config.pooling, context.device, context.where))
    labels = labels_of(features.train).to(context.device)
    l2 = choose(train, labels, classes, config, context.seed)
    solution = fit(train, labels, l2, train.new_zeros(train.shape[1] + 1, classes), config.max_iterations)
    scores, truth = logits(test, solution).cpu(), labels_of(features.test)
    losses = F.cross_entropy(scores, truth, reduction="none").double()
    error = float(losses.std(correction=0)) / math.sqrt(len(losses))
    return {"top1": accuracy(scores.argmax(dim=1) == truth), "cross_entropy": Value(float(losses.mean()), error)}
