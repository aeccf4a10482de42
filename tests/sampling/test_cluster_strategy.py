from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_clusters_of_a_part_of_the_images_are_order_free(config: cluster.Config, data: st.DataObject) -> None:
    part = config.model_copy(update={"clusters": [9, 4], "resampling_steps": [2, 1], "fit_images": 40})
    check_draw(drawing(cluster, part), ROWS, data)


def test_the_order_of_vectors_does_not_matter(tmp_path: Path) -> None:
    """Nor how the file is cut into row groups; without any structure, where most points are between clusters."""
    vectors = np.random.default_rng(3).normal(size=(6000, 16)).astype(np.float32)
    keys = [f"{number}" for number in range(6000)]
    draws = []
    for seed, group in [(0, 6000), (1, 997)]:
        order = np.random.default_rng(seed).permutation(6000)
        table = pa.table({"key": [keys[place] for place in order], "feature": list(vectors[order])})
        pq.write_table(table, tmp_path / f"{seed}.parquet", row_group_size=group)
        config = cluster.Config(features=pinned(tmp_path / f"{seed}.parquet"), clusters=[40, 5], fit_images=2000)
        draws.append(drawing(cluster, config)(pa.table({"key": keys}), 6000))
    assert draws[0] == draws[1]


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
    (tmp_path / "all.txt").write_text("\n".join(KEYS))
    (tmp_path / "keys.txt").write_text("\n".join([*KEYS[:-1], KEYS[0]]))
    (tmp_path / "more.txt").write_text("\n".join([*KEYS, "more"]))
    array, every, keys, more = (pinned(tmp_path / name) for name in ("f.npy", "all.txt", "keys.txt", "more.txt"))
    zero = VECTORS.copy()
    zero[3] = 0
    for options, message in [
        ({"features": write_features(file, KEYS[1:], VECTORS[1:])}, r"no vector of 1 of the 68 images, first of '000'"),
        ({"features": array}, r"^features: an \.npy array needs the file 'keys' beside it"),
        ({"features": array, "keys": keys}, r"^features: .*f\.npy has 68 vectors but 67 different keys"),
        (
            {"features": pinned(tmp_path / "flat.npy"), "keys": every},
            r"holds float32 of shape \(544,\), not a vector for",
        ),
        ({"features": array, "keys": more}, r"^features: .*f\.npy has not as many vectors as there are keys \(69\)"),
        ({"features": config.features, "clusters": [69]}, r"^clusters: 69 are .* but they are found from 68 images"),
        ({"features": config.features, "clusters": [41], "fit_images": 40}, r"^clusters: 41 .* found from 40 images"),
    ]:
        with pytest.raises(UserError, match=message):
            cluster.draw(ROWS, cluster.Config(**{"clusters": [4], **options}), 5, "s0")
        file.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"the vector in row 3 of .* is zero or not finite"):
        cluster.draw(ROWS, cluster.Config(features=write_features(file, KEYS, zero), clusters=[4]), 5, "s0")
    (wrong,) = problems(cluster.Config, {"features": array.model_dump(), "clusters": [10, 10]}, "options")
    assert wrong.startswith("options.clusters: each level needs fewer clusters than the one before it")
    (wrong,) = problems(
        cluster.Config, {"features": array.model_dump(), "clusters": [9, 4], "resampling_steps": [1]}, "options"
    )
    assert "resampling_steps: give a number, zero or more, for each level of 'clusters'" in wrong
