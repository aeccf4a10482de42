"""Several labels to an image: a logistic regression for each tag, and the mean of their average precisions.

Classifiers are linear, one against the rest, as in the probes of Pascal VOC (Goyal et al. 2019, 'Scaling and benchmarking
self-supervised visual representation learning', and VISSL's benchmark ``voc07``, with support vector machines there). Average
precision is the area under the steps of precision over recall, without interpolation.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation.frozen import Frozen, PooledConfig, Split
from mimcore.evaluation.logistic import LogisticOptions, choose, fit, logits, standardize
from mimcore.evaluation.task import Context, Metric, Needs, Value

METRICS = {"map": Metric("Mean average precision over tags")}
PIXELS = True
NEEDS: Needs = "tags"

#: Bootstrap resamples of the test images: the standard error is then known to about 7 percent.
RESAMPLES = 100


class Config(PooledConfig, LogisticOptions):
    """Options of multi-label classification."""

    #: What is true of an image: its ``tags``, or the classes of its boxes (as Pascal VOC and COCO are used).
    column: str = Field("tags", pattern="^(tags|box_labels)$")
    #: A tag counts that so many training images, and at least one test image, have.
    min_images: int = Field(10, ge=1)


def average_precision(scores: np.ndarray, hits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the steps of precision over recall, for several weightings of the images at once.

    Args:
        scores: float ``(N,)``; images of one score enter together.
        hits: which images have the tag, bool ``(N,)``.
        weights: how often each image counts, ``(B, N)``.

    Returns:
        float64 ``(B,)``; NaN where no image that counts has the tag.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    right = np.cumsum(weights[:, order] * hits[order], axis=1, dtype=np.float64)[:, last]
    seen = np.cumsum(weights[:, order], axis=1, dtype=np.float64)[:, last]
    total = right[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / total[:, None]
        precision = np.where(seen > 0, right / seen, 0.0)
    area: np.ndarray = (np.diff(recall, axis=1, prepend=0.0) * precision).sum(axis=1)
    return np.where(total > 0, area, np.nan)


def multi_hot(split: Split, column: str, names: Sequence[object]) -> Tensor:
    """Which of the names are true of each image, float32 ``(N, C)``."""
    places = {name: place for place, name in enumerate(names)}
    found = torch.zeros(len(split), len(names))
    for row, values in enumerate(split.rows[column].to_pylist()):
        for value in values:
            if value in places:
                found[row, places[value]] = 1.0
    return found


def _loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Sum over tags of the mean loss over images: each tag is a problem of its own, and all are solved at once."""
    return F.binary_cross_entropy_with_logits(scores, targets, reduction="none").mean(dim=0).sum()


def probe(features: Frozen, config: Config, context: Context) -> dict[str, Value]:
    """Mean average precision on the test images.

    Raises:
        UserError: the images have no such column, or no tag has enough images.
    """
    for split in (features.train, features.test):
        if config.column not in split.rows.column_names or split.rows[config.column].null_count:
            raise UserError(
                f"{context.where}.column: some images of features.{config.features} have no '{config.column}'; choose the other"
                " column, or add it to the pool's annotations."
            )
    names = _names(features, config)
    if not names:
        raise UserError(
            f"{context.where}.min_images: no tag has {config.min_images} training images and one to test on; lower it, or raise"
            f" train_images of features.{config.features}."
        )
    train, test = standardize(*features.pooled(config.pooling, context.device, context.where))
    targets = multi_hot(features.train, config.column, names).to(train.device)
    l2 = choose(train, targets, len(names), config, context.seed, _loss)
    solution = fit(train, targets, l2, train.new_zeros(train.shape[1] + 1, len(names)), config.max_iterations, _loss)
    scores = logits(test, solution).cpu().double().numpy()
    hits = multi_hot(features.test, config.column, names).numpy() > 0
    images = len(hits)
    resamples = np.random.default_rng(context.seed).multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, images), resamples.dtype), resamples])
    table = np.stack([average_precision(scores[:, c], hits[:, c], weights) for c in range(len(names))])
    means = np.nanmean(table, axis=0)
    return {"map": Value(float(means[0]), float(np.nanstd(means[1:], ddof=1)))}


def _names(features: Frozen, config: Config) -> list[object]:
    """Tags with enough images, sorted."""
    counts = []
    for split in (features.train, features.test):
        found: dict[object, int] = {}
        for values in split.rows[config.column].to_pylist():
            for value in set(values):
                found[value] = found.get(value, 0) + 1
        counts.append(found)
    return sorted(
        (tag for tag, images in counts[0].items() if images >= config.min_images and tag in counts[1]), key=str
    )
