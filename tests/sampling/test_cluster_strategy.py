from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from drawing import check_draw, drawing
from features import blobs, pinned, write_features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimcore.definition import problems
from mimcore.errors import UserError
from mimcore.sampling.strategies import cluster

ROWS, VECTORS = blobs([40, 20, 5, 3])
KEYS = ROWS["key"].to_pylist()
LABELS = dict(zip(KEYS, ROWS["label"].to_pylist(), strict=True))
GOLDEN = ["058", "019", "007", "061", "005", "047"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> cluster.Config:
    path = tmp_path_factory.mktemp("features") / "features.parquet"
    return cluster.Config(features=write_features(path, KEYS, VECTORS), clusters=[4])


def counts(keys: list[str]) -> list[int]:
    return np.bincount([LABELS[key] for key in keys], minlength=4).tolist()


def test_clusters_give_equal_shares_as_long_as_they_have_any(config: cluster.Config) -> None:
    draw = drawing(cluster, config)
    assert counts(draw(ROWS, 12)) == [3, 3, 3, 3]
    assert counts(draw(ROWS, 28)) == [10, 10, 5, 3]
    assert counts(draw(ROWS, 68)) == [40, 20, 5, 3]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_draws_are_nested_and_order_free(config: cluster.Config, data: st.DataObject) -> None:
    assert cluster.nested(config)
    check_draw(drawing(cluster, config), ROWS, data)


def test_golden_draw(config: cluster.Config) -> None:
    assert drawing(cluster, config)(ROWS, 6) == GOLDEN
    assert drawing(cluster, config, "s1")(ROWS, 6) != GOLDEN


def test_shares_are_equal_from_the_top(tmp_path: Path) -> None:
    """Three fine clusters lie together and one far away: the coarse level halves the draw, the fine one thirds a half."""
    generator = np.random.default_rng(1)
    centres = np.array([[1, 0, 0, 0], [1, 0.3, 0, 0], [1, 0, 0.3, 0], [0, 0, 0, 1]])
    fine = np.repeat(np.arange(4), 20)
    vectors = (centres[fine] + 0.005 * generator.normal(size=(80, 4))).astype(np.float32)
    keys = [f"{number}" for number in range(80)]
    file, rows = write_features(tmp_path / "f.parquet", keys, vectors), pa.table({"key": keys})
    drawn = drawing(cluster, cluster.Config(features=file, clusters=[4, 2]))(rows, 24)
    assert np.bincount(fine[[int(key) for key in drawn]]).tolist() == [4, 4, 4, 12]
    flat = drawing(cluster, cluster.Config(features=file, clusters=[4]))(rows, 24)
    assert np.bincount(fine[[int(key) for key in flat]]).tolist() == [6, 6, 6, 6]


def test_an_array_with_keys_says_the_same_as_parquet(config: cluster.Config, tmp_path: Path) -> None:
    order = np.random.default_rng(2).permutation(len(KEYS))
    np.save(tmp_path / "f.npy", VECTORS[order])
    (tmp_path / "keys.txt").write_text("\n".join(KEYS[place] for place in order) + "\n")
    other = cluster.Config(features=pinned(tmp_path / "f.npy"), keys=pinned(tmp_path / "keys.txt"), clusters=[4])
    assert drawing(cluster, other)(ROWS, 20) == drawing(cluster, config)(ROWS, 20)


def test_fewer_different_vectors_than_clusters(tmp_path: Path) -> None:
    vectors = np.repeat(np.eye(2, dtype=np.float32), 34, axis=0)
    file = write_features(tmp_path / "f.parquet", KEYS, vectors)
    assert len(set(drawing(cluster, cluster.Config(features=file, clusters=[4]))(ROWS, 10))) == 10


def test_mistakes(config: cluster.Config, tmp_path: Path) -> None:
    file = tmp_path / "f.parquet"
    np.save(tmp_path / "f.npy", VECTORS)
    np.save(tmp_path / "flat.npy", VECTORS.ravel())
    (tmp_path / "keys.txt").write_text("\n".join([*KEYS[:-1], KEYS[0]]))
    array, keys = pinned(tmp_path / "f.npy"), pinned(tmp_path / "keys.txt")
    zero = VECTORS.copy()
    zero[3] = 0
    for options, message in [
        ({"features": write_features(file, KEYS[1:], VECTORS[1:])}, r"no vector of 1 of the 68 images, first of '000'"),
        ({"features": array}, r"^features: an \.npy array needs the file 'keys' beside it"),
        ({"features": array, "keys": keys}, r"^features: .*f\.npy has 68 vectors but 67 different keys"),
        (
            {"features": pinned(tmp_path / "flat.npy"), "keys": keys},
            r"holds float32 of shape \(544,\), not a vector for",
        ),
        ({"features": config.features, "clusters": [69]}, r"^clusters: 69 are asked for, but there are 68 images"),
    ]:
        with pytest.raises(UserError, match=message):
            cluster.draw(ROWS, cluster.Config(**{"clusters": [4], **options}), 5, "s0")
        file.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"1 of the vectors in .* are zero or not finite, first in row 3"):
        cluster.draw(ROWS, cluster.Config(features=write_features(file, KEYS, zero), clusters=[4]), 5, "s0")
    (wrong,) = problems(cluster.Config, {"features": array.model_dump(), "clusters": [10, 10]}, "options")
    assert wrong.startswith("options.clusters: each level needs fewer clusters than the one before it")
