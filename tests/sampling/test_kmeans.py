import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from mimcore.sampling import kmeans
from mimcore.sampling.kmeans import assign, hierarchical_kmeans


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(2, 40), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_points_go_to_the_nearest_centroid(points: int, clusters: int, dimensions: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    centroids = generator.normal(size=(clusters, dimensions)).astype(np.float32)
    found = generator.normal(size=(points, dimensions))
    distances = np.square(found[:, None] - centroids.astype(np.float64)).sum(axis=2)
    assert np.array_equal(assign(found, centroids), distances.argmin(axis=1))


def test_among_equal_centroids_the_first_is_taken_wherever_a_point_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    half = generator.normal(size=(8, 65)).astype(np.float32)
    centroids = np.concatenate([half, half])
    points = generator.normal(size=(501, 65)).astype(np.float32)
    found = assign(points, centroids)
    assert found.max() < 8
    order = generator.permutation(501)
    monkeypatch.setattr(kmeans, "_TABLE", 16 * 7)
    assert np.array_equal(assign(points[order], centroids), found[order])


def test_resampling_spreads_centroids_over_the_support() -> None:
    """In one dimension k-means places centroids by the cube root of the density (Panter and Dite, 1951).

    Left and right of 1 the density is 27 to 1, so that there are 3 centroids to 1. A step takes 350 points of each
    cluster on the left and all 1000 on the right, whose clusters are smaller: of 40 centroids x stay on the left where
    x / (40 - x) is the cube root of 350 x / 1000.
    """
    generator = np.random.default_rng(0)
    points = np.concatenate([generator.uniform(0, 1, 27_000), generator.uniform(1, 2, 1000)])
    points = generator.permutation(points).astype(np.float32)[:, None]
    (plain,), (even,) = (hierarchical_kmeans(points, [40], [steps]) for steps in (0, 10))
    stay = brentq(lambda left: left / (40 - left) - (350 * left / 1000) ** (1 / 3), 20, 39)
    assert stay == pytest.approx(27, abs=0.5)
    assert (plain < 1).sum() == pytest.approx(30, abs=1.5)
    assert (even < 1).sum() == pytest.approx(stay, abs=1.5)


def test_levels_are_clusters_of_centroids() -> None:
    generator = np.random.default_rng(0)
    coarse = np.repeat([[0, 0], [100, 0], [0, 100]], 3, axis=0)
    fine = coarse + np.tile([[0, 0], [10, 0], [0, 10]], (3, 1))
    points = (np.repeat(fine, 50, axis=0) + 0.01 * generator.normal(size=(450, 2))).astype(np.float32)
    lower, upper = hierarchical_kmeans(points, [9, 3], [3, 3])
    assert np.array_equal(np.unique(lower.round(), axis=0), np.unique(fine, axis=0))
    assert np.array_equal(np.unique(upper.round(), axis=0), [[3, 3], [3, 103], [103, 3]])
