"""Few-shot: logistic regression on a few images of each class, over several draws of them (Singh et al. 2023, section 4.4).

The mean over draws is what is reported, as there (5 splits, 5 seeds). The draws are the same for every run, so that two runs are
compared on the same images, and nested over the number of shots. Features are standardised by all training images, whose
labels that does not need.
"""

import math

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from mimcore.errors import UserError
from mimcore.evaluation.frozen import Frozen, PooledConfig
from mimcore.evaluation.logistic import fit, logits, standardize
from mimcore.evaluation.task import Context, Metric, Needs, Value, class_count, labels_of, seed_number

#: Images of a class that may be asked for; the first of these that a study has is its headline.
SHOTS = (10, 5, 1, 2, 4, 8, 16)
METRICS = {f"top1_{shots}": Metric(f"Top-1 accuracy from {shots} images of each class") for shots in SHOTS}
PIXELS = True
NEEDS: Needs = "labels"


class Config(PooledConfig):
    """Options of few-shot classification."""

    #: Images of each class (Singh et al. 2023, table 4).
    shots: tuple[int, ...] = (1, 5, 10)
    #: Draws of the images (5: ibid., section 4.4).
    draws: int = Field(5, ge=2)
    #: The penalty: l2 / 2 times the squared norm of the weights is added to the mean cross-entropy. So few images leave none to
    #: choose it on; ours, not the paper's.
    l2: float = Field(1e-2, gt=0)
    #: Iterations of L-BFGS; it ends earlier once it has converged.
    max_iterations: int = Field(200, ge=1)

    @field_validator("shots")
    @classmethod
    def _offered(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not set(value) <= set(SHOTS) or len(set(value)) < len(value):
            raise ValueError(f"each must be one of {', '.join(map(str, sorted(SHOTS)))}, named once")
        return value


def draw(labels: np.ndarray, shots: int, number: int) -> np.ndarray:
    """Choose images at random, the same number of each class; a class that has fewer gives all that it has.

    Args:
        labels: int64 ``(N,)``.
        shots: images of a class.
        number: of the draw; of one number, the images of fewer shots are among those of more.

    Returns:
        Positions, ascending, int64.
    """
    order = np.random.default_rng(seed_number("fewshot", str(number))).permutation(len(labels))
    chosen = [order[labels[order] == label][:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def probe(features: Frozen, config: Config, context: Context) -> dict[str, Value]:
    """Top-1 accuracy on the test images for each number of shots: mean over the draws and its standard error.

    Raises:
        UserError: features are not finite, or no class has as many training images as the least number of shots.
    """
    classes = class_count(features, context.where)
    labels, truth = labels_of(features.train), labels_of(features.test)
    most = int(torch.bincount(labels).max())
    if most < min(config.shots):
        raise UserError(
            f"{context.where}.shots: {min(config.shots)} images of each class are asked for, and no class has more than {most}; "
            f"raise train_images of features.{config.features}."
        )
    train, test = standardize(*features.pooled(config.pooling, context.device, context.where))
    found: dict[str, Value] = {}
    total = len(config.shots) * config.draws
    for shots in config.shots:
        shares = []
        for number in range(config.draws):
            rows = torch.from_numpy(draw(labels.numpy(), shots, number))
            shares.append(_share(train[rows.to(train.device)], labels[rows], test, truth, classes, config))
            context.progress("draws", len(found) * config.draws + len(shares), total)
        error = float(np.std(shares, ddof=1)) / math.sqrt(config.draws)
        found[f"top1_{shots}"] = Value(float(np.mean(shares)), error)
    return found


def _share(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, classes: int, config: Config) -> float:
    """Share of test images that are classified correctly."""
    start = train.new_zeros(train.shape[1] + 1, classes)
    solution = fit(train, labels.to(train.device), config.l2, start, config.max_iterations)
    return float((logits(test, solution).argmax(dim=1).cpu() == truth).double().mean())
