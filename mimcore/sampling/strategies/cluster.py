"""An equal share of the draw for each cluster of features, level by level; random within the finest (bottom-k).

Hierarchical k-means with balanced sampling from the top: Vo et al. (2024), "Automatic data curation for
self-supervised learning: a clustering-based approach", arXiv 2405.15613, sections 3.2 and 3.3. The vectors are clustered,
then the centroids of each level, and a level's clusters take turns in giving an image as long as they have any. Two
things differ from the paper: clusters are found by mini-batches (Sculley, 2010), and centroids are not found anew from
resampled points.

Clusters do not depend on the replicate. Smaller draws are the beginning of larger ones, and the order of rows does
not matter. A grown pool moves the clusters, and with them the draw.
"""

import warnings
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from mimcore.data.hashing import bottom, salted
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.features import F32, features_of
from mimcore.sampling.files import PinnedFile
from mimcore.sampling.strata import in_turns

I64 = npt.NDArray[np.int64]

#: Seed of the order in which images are clustered.
_ORDER_SEED = "cluster"
#: Vectors of a mini-batch, at least; larger ones are steadier and, for some thousand clusters, faster.
_BATCH = 4096


class Config(Definition):
    """Options of the strategy."""

    #: Vectors of the pool's images: Parquet with ``key`` and ``feature``, or an ``.npy`` array.
    features: PinnedFile
    #: Text file with the key of each vector of an ``.npy`` array.
    keys: PinnedFile | None = None
    #: Clusters of each level, the finest first, such as ``[10000, 1000, 100]``.
    clusters: list[int] = Field(min_length=1)
    #: Draws with different salts share images only by chance.
    salt: str = ""

    @field_validator("clusters")
    @classmethod
    def _falling(cls, clusters: list[int]) -> list[int]:
        if min(clusters) < 2 or any(above >= below for below, above in pairwise(clusters)):
            raise ValueError("each level needs fewer clusters than the one before it, and two or more")
        return clusters


def nested(config: Config) -> bool:
    """Smaller draws are parts of larger ones."""
    return True


def columns(config: Config) -> list[str]:
    """None but the key."""
    return []


def draw(rows: pa.Table, config: Config, images: int, seed: str) -> I64:
    """Positions of the drawn rows in the order of the draw.

    Args:
        rows: N rows of an index; only ``key`` is looked at.
        config: options of the strategy, the paths of files absolute.
        images: how many, at most N.
        seed: name of the replicate, such as ``s0``.

    Returns:
        ``images`` positions, int64.

    Raises:
        UserError: a file does not fit, an image has no vector, or there are fewer images than clusters; it begins
            with the option.
    """
    vectors = features_of(rows, config.features, config.keys, "features")
    if len(vectors) < config.clusters[0]:
        raise UserError(
            f"clusters: {config.clusters[0]} are asked for, but there are {len(vectors)} images; ask for fewer."
        )
    # Mini-batches depend on the order of rows, so that one is taken which does not depend on the index.
    fixed = bottom(rows["key"], rows.num_rows, _ORDER_SEED)
    order = bottom(rows["key"], rows.num_rows, salted(config.salt, seed))
    for level in cluster(vectors[fixed], config.clusters):
        strata = np.empty(len(level), np.int64)
        strata[fixed] = level
        # Within a round the cluster whose best image comes first goes first: its number is k-means' whim.
        present, first = np.unique(strata[order], return_index=True)
        turns = np.zeros(present[-1] + 1, np.int64)
        turns[present] = first
        order = in_turns(order, strata, turns)
    return order[:images]


def cluster(vectors: F32, clusters: list[int]) -> list[I64]:
    """The cluster of each vector on each level.

    Args:
        vectors: float32 ``(N, D)``.
        clusters: of each level, falling, the first at most N.

    Returns:
        for each level int64 ``(N,)``.
    """
    levels: list[I64] = []
    points = vectors
    for wanted in clusters:
        means = MiniBatchKMeans(wanted, random_state=0, batch_size=max(_BATCH, 3 * wanted), n_init=1, max_iter=20)
        with warnings.catch_warnings():
            # Fewer different vectors than clusters leave some empty; these have no turn.
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = means.fit_predict(points).astype(np.int64)
        levels.append(labels[levels[-1]] if levels else labels)
        points = means.cluster_centers_
    return levels
