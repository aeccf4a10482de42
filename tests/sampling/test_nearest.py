from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawing import check_draw, check_growth, drawing
from features import blobs, write_features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimcore.data.hashing import bottom
from mimcore.errors import UserError
from mimcore.sampling.strategies import nearest

ROWS, VECTORS = blobs([15, 15, 15, 15])
KEYS = ROWS["key"].to_pylist()
REFERENCE = np.eye(8, dtype=np.float32)[[1, 3]]
GOLDEN = ["042", "031", "039", "033"]
QUIET = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> nearest.Config:
    folder = tmp_path_factory.mktemp("features")
    features = write_features(folder / "pool.parquet", KEYS, VECTORS)
    return nearest.Config(features=features, reference=write_features(folder / "to.parquet", ["x", "y"], 3 * REFERENCE))


@QUIET
@given(st.data())
def test_draws_are_nested_and_order_free(config: nearest.Config, data: st.DataObject) -> None:
    assert nearest.nested(config)
    check_draw(drawing(nearest, config), ROWS, data)


@QUIET
@given(st.data())
def test_a_grown_pool_changes_a_draw_by_newcomers_alone(config: nearest.Config, data: st.DataObject) -> None:
    check_growth(drawing(nearest, config), ROWS, data)


def test_the_nearest_to_any_reference_come_first(config: nearest.Config) -> None:
    drawn = drawing(nearest, config)(ROWS, 60)
    similarity = (VECTORS[:, [1, 3]] / np.linalg.norm(VECTORS, axis=1, keepdims=True)).max(axis=1)
    found = [similarity[KEYS.index(key)] for key in drawn]
    assert np.all(np.diff(found) <= 1e-6)
    assert {ROWS["label"][KEYS.index(key)].as_py() for key in drawn[:30]} == {1, 3}


def test_equal_images_go_by_hash(tmp_path: Path) -> None:
    same = np.repeat(REFERENCE[:1], len(KEYS), axis=0)
    config: Any = {
        "features": write_features(tmp_path / "a.parquet", KEYS, same),
        "reference": write_features(tmp_path / "b.parquet", ["x"], REFERENCE[:1]),
    }
    expected = [KEYS[place] for place in bottom(KEYS, 7, "s0")]
    assert drawing(nearest, nearest.Config(**config))(ROWS, 7) == expected


def test_the_order_of_vectors_does_not_matter(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    vectors, keys = generator.normal(size=(9000, 16)).astype(np.float32), [f"{number}" for number in range(9000)]
    reference = write_features(tmp_path / "to.parquet", ["x", "y"], vectors[:2])
    draws = []
    for name in ("a", "b"):
        order = generator.permutation(9000)
        file = write_features(tmp_path / f"{name}.parquet", [keys[place] for place in order], vectors[order])
        config = nearest.Config(features=file, reference=reference)
        draws.append(drawing(nearest, config)(pa.table({"key": keys}), 9000))
    assert draws[0] == draws[1]


def test_golden_draw(config: nearest.Config) -> None:
    assert drawing(nearest, config)(ROWS, 4) == GOLDEN


def test_other_features_are_refused(config: nearest.Config, tmp_path: Path) -> None:
    reference = write_features(tmp_path / "to.parquet", ["x"], REFERENCE[:1, :4] + 1)
    other = nearest.Config(features=config.features, reference=reference)
    with pytest.raises(UserError, match=r"^reference: it has 1 vectors of 4 numbers, and the pool's have 8; make both"):
        nearest.draw(ROWS, other, 3, "s0")
