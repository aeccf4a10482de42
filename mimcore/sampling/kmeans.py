"""Hierarchical k-means with resampling.

Vo et al. (2024), "Automatic data curation for self-supervised learning: a clustering-based approach", arXiv 2405.15613,
section 3.2: points are clustered, then the centroids of each level. Within a level, centroids are found again from the
points nearest to each of them, several times: this evens out how many points there are where, so that centroids spread
over the support of the points rather than over their density.

k-means is begun by k-means++, and Lloyd's, as in the paper, for few points; for more it is by mini-batches (Sculley, 2010).
"""

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from mimcore.sampling.strata import ranks

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

#: Vectors of a mini-batch, at least; larger ones are steadier and, for some thousand clusters, faster. So many points
#: are taken all at once.
_BATCH = 4096
#: Numbers in a table of points by centroids.
_TABLE = 1 << 22
#: Squared distances, of points of length 1, that float32 does not tell apart.
_CLOSE = 1e-5
#: Decimals of squared distances that float64 tells apart on any processor.
_DECIMALS = 10


def hierarchical_kmeans(points: F32, clusters: list[int], resampling_steps: list[int]) -> list[F32]:
    """Centroids of each level.

    Args:
        points: float32 ``(N, D)``; their order has a part in the result.
        clusters: of each level, falling, the first at most N.
        resampling_steps: of each level, how often centroids are found again from the points nearest to them, half as
            many of each as a cluster has on average (as in the configurations of the paper's code). A level of less
            than four points a cluster has no half to choose, and is not resampled.

    Returns:
        for each level float32 ``(clusters, D)``.
    """
    levels: list[F32] = []
    for wanted, steps in zip(clusters, resampling_steps, strict=True):
        centroids = _kmeans(points, wanted)
        each = len(points) // (2 * wanted)
        for _ in range(steps if each > 1 else 0):
            chosen = _nearest_points(points, centroids, each)
            if len(chosen) < wanted:  # equal points have left clusters empty
                break
            centroids = _kmeans(points[chosen], wanted)
        levels.append(centroids)
        points = centroids
    return levels


def assign(points: npt.NDArray[np.floating], centroids: F32) -> I64:
    """The nearest centroid of each point, the first among equals, whatever other points there are.

    Args:
        points: float32 or float64 ``(N, D)``.
        centroids: float32 ``(K, D)``.

    Returns:
        int64 ``(N,)``.
    """
    exact = centroids.astype(np.float64)
    halves = np.square(exact).sum(axis=1) / 2
    halves32 = halves.astype(np.float32)
    found = np.empty(len(points), np.int64)
    rows = max(1, _TABLE // len(centroids))
    for first in range(0, len(points), rows):
        block = points[first : first + rows]
        near = block.astype(np.float32) @ centroids.T - halves32
        # The last bits of a product depend on where in the block a point lies: what is close is computed again.
        candidates = near >= near.max(axis=1, keepdims=True) - _CLOSE
        best = candidates.argmax(axis=1)
        if len(unsure := np.flatnonzero(np.count_nonzero(candidates, axis=1) > 1)):
            again = block[unsure].astype(np.float64) @ exact.T - halves
            best[unsure] = again.round(_DECIMALS).argmax(axis=1)
        found[first : first + rows] = best
    return found


def _kmeans(points: F32, clusters: int) -> F32:
    means: KMeans | MiniBatchKMeans
    if len(points) <= _BATCH:
        means = KMeans(clusters, random_state=0, n_init=1)
    else:
        batch = max(_BATCH, 3 * clusters)
        means = MiniBatchKMeans(clusters, random_state=0, batch_size=batch, n_init=1, max_iter=20, compute_labels=False)
    # One thread for what is quick: sums of several differ in the last bits with the order in which they end.
    with warnings.catch_warnings(), threadpool_limits(1 if len(points) <= _BATCH else None):
        # Fewer different vectors than clusters leave some empty; these have no turn.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centroids: F32 = means.fit(points).cluster_centers_
    return centroids


def _nearest_points(points: F32, centroids: F32, each: int) -> I64:
    """So many points nearest to each centroid among those of its cluster, ascending."""
    labels = assign(points, centroids)
    distances = np.empty(len(points), np.float32)
    for first in range(0, len(points), _BATCH):
        block = slice(first, first + _BATCH)
        distances[block] = np.square(points[block] - centroids[labels[block]]).sum(axis=1)
    order = np.argsort(distances, kind="stable")
    return np.sort(order[ranks(labels[order]) < each])
