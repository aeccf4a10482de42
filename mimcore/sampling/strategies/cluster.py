"""An equal share of the draw for each cluster of features, level by level; random within the finest (bottom-k).

Hierarchical k-means with balanced sampling from the top: Vo et al. (2024), "Automatic data curation for
self-supervised learning: a clustering-based approach", arXiv 2405.15613, sections 3.2 and 3.3. The vectors are clustered,
then the centroids of each level, each level with resampling (``mimcore.sampling.kmeans``); a level's clusters take turns
in giving an image as long as they have any. Clusters are found from the vectors of a part of the images, the same
whatever is drawn; the others go to the nearest centroid.

Clusters do not depend on the replicate. Smaller draws are the beginning of larger ones, and neither the order of rows
nor that of the vectors matters. A grown pool moves the clusters, and with them the draw.
"""

from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from mimcore.data.hashing import bottom, salted
from mimcore.errors import UserError
from mimcore.sampling.features import FeatureOptions, Features
from mimcore.sampling.kmeans import F32, assign, hierarchical_kmeans
from mimcore.sampling.strata import in_turns

I64 = npt.NDArray[np.int64]

#: Seed of the order in which images are clustered.
_ORDER_SEED = "cluster"
#: Resampling steps of a level, as in the paper's code; of the finest there are none there on web images, for their cost.
_STEPS = 10


class Config(FeatureOptions):
    """Options of the strategy."""

    #: Clusters of each level, the finest first, such as ``[10000, 1000, 100]``.
    clusters: list[int] = Field(min_length=1)
    #: Resampling steps of each level, such as ``[0, 10, 10]``, which None stands for.
    resampling_steps: list[int] | None = None
    #: Clusters are found from so many images at most, those with the smallest hashes; all are assigned to them.
    fit_images: int = Field(1_000_000, ge=2)

    @field_validator("clusters")
    @classmethod
    def _falling(cls, clusters: list[int]) -> list[int]:
        if min(clusters) < 2 or any(above >= below for below, above in pairwise(clusters)):
            raise ValueError("each level needs fewer clusters than the one before it, and two or more")
        return clusters

    @model_validator(mode="after")
    def _for_each_level(self) -> Self:
        if self.resampling_steps is not None and (
            len(self.resampling_steps) != len(self.clusters) or min(self.resampling_steps) < 0
        ):
            raise ValueError("resampling_steps: give a number, zero or more, for each level of 'clusters'")
        return self


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
    order = bottom(rows["key"], rows.num_rows, salted(config.salt, seed))
    for strata in find(rows, Features(rows, config), config):
        # Within a round the cluster whose best image comes first goes first: its number is k-means' whim.
        present, first = np.unique(strata[order], return_index=True)
        turns = np.zeros(present[-1] + 1, np.int64)
        turns[present] = first
        order = in_turns(order, strata, turns)
    return order[:images]


def find(rows: pa.Table, features: Features, config: Config) -> list[I64]:
    """The cluster of each row on each level.

    Args:
        rows: N rows of an index; only ``key`` is looked at.
        features: their vectors.
        config: options of the strategy.

    Returns:
        for each level, the finest first, int64 ``(N,)``.

    Raises:
        UserError: as ``draw``.
    """
    fitted = min(config.fit_images, rows.num_rows)
    if fitted < config.clusters[0]:
        raise UserError(
            f"clusters: {config.clusters[0]} are asked for, but they are found from {fitted} images; ask for fewer."
        )
    steps = config.resampling_steps or [0, *(_STEPS for _ in config.clusters[1:])]
    # k-means depends on the order of points, so that one is taken which does not depend on the index.
    fixed = bottom(rows["key"], fitted, _ORDER_SEED)
    centroids = hierarchical_kmeans(_vectors(features, fixed, rows.num_rows), config.clusters, steps)
    finest = np.empty(rows.num_rows, np.int64)
    for places, vectors in features.scan():
        finest[places] = assign(vectors, centroids[0])
    levels = [finest]
    for below, above in pairwise(centroids):
        levels.append(assign(below, above)[levels[-1]])
    return levels


def _vectors(features: Features, chosen: I64, rows: int) -> F32:
    """Vectors of chosen ones of so many rows, in their order."""
    place = np.full(rows, -1)
    place[chosen] = np.arange(len(chosen))
    found: F32 | None = None
    for numbers, vectors in features.scan():
        if found is None:
            found = np.empty((len(chosen), vectors.shape[1]), np.float32)
        wanted = place[numbers] >= 0
        found[place[numbers[wanted]]] = vectors[wanted]
    assert found is not None
    return found
