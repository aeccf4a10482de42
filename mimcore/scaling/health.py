"""The health of a representation, from features alone: how many dimensions it uses."""

import numpy as np
from numpy.typing import NDArray

from mimcore.errors import UserError

#: Added to each share, as RankMe's authors do.
EPSILON = 1e-7


def effective_rank(features: NDArray[np.floating]) -> float:
    """Exponential of the entropy of the normalised singular values of the centred features (Roy & Vetterli 2007).

    Args:
        features: ``(N, D)``, a row per image.

    Returns:
        between 1 and min(N, D).

    Raises:
        UserError: see ``rankme``.
    """
    return _entropy_rank(_checked(features) - features.mean(axis=0, dtype=np.float64), 0.0)


def rankme(features: NDArray[np.floating]) -> float:
    """RankMe (Garrido et al. 2023, equation 1): the same of the features as they are, not centred, with 1e-7 added to each share.

    It foretells, without labels, which of several encoders does badly: a low rank bounds what a linear probe can reach. Take at least as
    many images as dimensions.

    Raises:
        UserError: the features are no matrix of two or more rows, are not finite, or are all the same.
    """
    return _entropy_rank(_checked(features), EPSILON)


def _entropy_rank(matrix: NDArray[np.float64], epsilon: float) -> float:
    values = np.linalg.svd(matrix, compute_uv=False)
    if not values.sum() > 1e-12:
        raise UserError(
            "the features of all images are the same: the encoder has collapsed, and its rank has no meaning."
        )
    shares = values / values.sum() + epsilon
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _checked(features: NDArray[np.floating]) -> NDArray[np.float64]:
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"features have the shape {features.shape}; give a row per image, two or more of them.")
    if not np.isfinite(features).all():
        raise UserError("some features are not finite; mend the encoder or leave those images out.")
    return features.astype(np.float64)
