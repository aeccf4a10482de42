"""The rank of features in a file, against features whose rank is known."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mimcore.cli import app
from mimcore.errors import UserError
from mimcore.scaling.health import health_of


def write(file, features):
    table = pa.table({"key": [str(i) for i in range(len(features))], "feature": [list(row) for row in features]})
    pq.write_table(table, file, row_group_size=64)
    return file


def orthogonal(images, dimensions, used):
    """Centred columns of equal length, and others of zeros: the ranks are the number used."""
    random = np.random.default_rng(0).standard_normal((images, used))
    basis, _ = np.linalg.qr(random - random.mean(axis=0))
    return np.hstack([basis, np.zeros((images, dimensions - used))]).astype(np.float32)


def test_the_ranks_of_a_file_are_those_of_its_features(tmp_path):
    found = health_of(write(tmp_path / "a.parquet", orthogonal(300, 12, 5)))
    assert (found.images, found.dimensions) == (300, 12)
    assert found.rankme == pytest.approx(5, rel=1e-4)
    assert found.effective_rank == pytest.approx(5, rel=1e-4)


def test_images_are_taken_at_equal_steps_through_the_file(tmp_path):
    classes = np.repeat(np.eye(10, dtype=np.float32), 100, axis=0)  # sorted by class, as folders are
    found = health_of(write(tmp_path / "a.parquet", classes), most=50)
    assert found.images == 50
    assert found.rankme == pytest.approx(10, rel=1e-2)


def test_the_command_shows_files_side_by_side(tmp_path):
    files = [str(write(tmp_path / f"{used}.parquet", orthogonal(40, 50, used))) for used in (3, 9)]
    said = CliRunner().invoke(app, ["health", *files])
    assert said.exit_code == 0
    assert "3.0" in said.output
    assert "9.0" in said.output
    assert "A rank is no score" in said.output
    assert said.output.count("fewer images than dimensions; no rank can exceed 40.") == 2


def test_what_is_no_file_of_features_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"none.parquet: no Parquet file with a column 'feature'"):
        health_of(tmp_path / "none.parquet")
    pq.write_table(pa.table({"feature": [1.0, 2.0]}), tmp_path / "flat.parquet")
    with pytest.raises(UserError, match="its column 'feature' holds double, no lists of numbers"):
        health_of(tmp_path / "flat.parquet")
    ragged = pa.table({"feature": [[1.0], [1.0, 2.0]]})
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    with pytest.raises(UserError, match="its features differ in length"):
        health_of(tmp_path / "ragged.parquet")
    with pytest.raises(UserError, match="give a row per image"):
        health_of(write(tmp_path / "one.parquet", np.ones((1, 3), np.float32)))
