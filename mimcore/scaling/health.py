"""The health of a representation, from features alone: how many dimensions it uses."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mimcore.errors import UserError

#: Added to each share, as RankMe's authors do.
EPSILON = 1e-7
#: Images that are enough (Garrido et al. 2023, section 3.2).
ENOUGH = 25_600


@dataclass(frozen=True)
class Health:
    """How many dimensions the features of a file use.

    Attributes:
        images: N, those taken.
        dimensions: D of a feature.
        rankme: see ``rankme``.
        effective_rank: see ``effective_rank``.
    """

    images: int
    dimensions: int
    rankme: float
    effective_rank: float


def health_of(file: Path, most: int = ENOUGH) -> Health:
    """Judge the features that ``mimcore features`` wrote.

    Args:
        file: Parquet with a column ``feature``, lists of D numbers.
        most: images to take, at equal steps through the file.

    Raises:
        UserError: there is no such file or column, or see ``rankme``.
    """
    try:
        source = pq.ParquetFile(file)
        lists = source.schema_arrow.field("feature").type
    except (OSError, KeyError, pa.ArrowInvalid):
        raise UserError(f"{file}: no Parquet file with a column 'feature'; write one by mimcore features.") from None
    if not (pa.types.is_list(lists) or pa.types.is_large_list(lists) or pa.types.is_fixed_size_list(lists)):
        raise UserError(
            f"{file}: its column 'feature' holds {lists}, no lists of numbers; write it by mimcore features."
        )
    count = source.metadata.num_rows
    taken = np.unique(np.linspace(0, max(count - 1, 0), min(most, count)).astype(np.int64))
    found: list[NDArray[np.floating]] = []
    first = 0
    for batch in source.iter_batches(columns=["feature"]):
        mine = taken[(taken >= first) & (taken < first + len(batch))] - first
        found += [np.asarray(row, np.float32) for row in batch.column(0).take(pa.array(mine)).to_pylist()]
        first += len(batch)
    if len({len(row) for row in found}) > 1:
        raise UserError(f"{file}: its features differ in length; write them anew by mimcore features.")
    features = np.stack(found) if found else np.empty((0, 0), np.float32)
    return Health(len(features), features.shape[1], rankme(features), effective_rank(features))


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

    Its authors found it to foretell, without labels, which of joint-embedding encoders do badly: a low rank bounds what a linear probe can
    use. Of masked modeling it need not (docs/pools.md). Take at least as many images as dimensions.

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
