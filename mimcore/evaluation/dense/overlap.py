"""Intersection over union of classes of pixels, with standard errors."""

import warnings

import numpy as np

from mimcore.evaluation.task import Value

#: Bootstrap resamples: the standard error is then known to about 7 percent.
RESAMPLES = 100


def count_overlaps(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels of each class that are right, are found, and are true; those with a negative truth are left out.

    Args:
        found: classes, integers ``(H, W)``.
        truth: classes, integers ``(H, W)``.
        classes: number of classes.

    Returns:
        int64 ``(3, classes)``.
    """
    counted = truth >= 0
    found, truth = found[counted].astype(np.int64), truth[counted].astype(np.int64)
    right = found[found == truth]
    return np.stack([np.bincount(part, minlength=classes) for part in (right, found, truth)])


def overlap_metrics(counts: np.ndarray, seed: int) -> dict[str, Value]:
    """Metrics of a test set, and their standard errors over the draw of its images (Efron 1979).

    The mean intersection over union is over the classes that are true or found somewhere, the mean accuracy over those that are
    true somewhere; pixels of all images are counted together (Everingham et al. 2010; Long et al. 2015, section 5).

    Args:
        counts: of each image, int64 ``(N, 3, classes)``, as of ``count_overlaps``.
        seed: of the bootstrap.

    Returns:
        ``miou``, ``mean_accuracy`` and ``pixel_accuracy``; standard errors are None with fewer than 2 images.
    """
    values = _metrics(counts.sum(axis=0)[None])
    errors: dict[str, np.ndarray] = {}
    if len(counts) > 1:
        random = np.random.default_rng(seed)
        weights = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=RESAMPLES)
        errors = _metrics(np.einsum("bn,nkc->bkc", weights, counts))
    return {
        name: Value(float(value[0]), float(np.nanstd(errors[name], ddof=1)) if errors else None)
        for name, value in values.items()
    }


def _metrics(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of B sets, from ``(B, 3, classes)``."""
    right, found, true = (totals[:, part].astype(np.float64) for part in range(3))
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample may have no pixel of any class
        return {
            "miou": np.nanmean(right / (found + true - right), axis=1),
            "mean_accuracy": np.nanmean(right / true, axis=1),
            "pixel_accuracy": right.sum(axis=1) / true.sum(axis=1),
        }
