import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mimcore.data.decode import decode
from mimcore.data.loader import IMAGE_COLUMNS, Batches, Images
from mimcore.data.splits import pick, read_split
from mimcore.errors import UserError


@pytest.fixture
def rows(tmp_path: Path, tar_pool: dict[str, Any], indexed: Any) -> pa.Table:
    indexed(tmp_path, "tars", tar_pool)
    return read_split(tmp_path / "artifacts/index/tars", "train")


def test_splits_and_columns(tmp_path: Path, rows: pa.Table) -> None:
    index = tmp_path / "artifacts/index/tars"
    validation = read_split(index, "val", ["key", "label", "boxes"])
    assert validation.column_names == ["key", "label"]
    assert (rows.num_rows, validation.num_rows) == (9, 3)
    assert not set(rows["key"].to_pylist()) & set(validation["key"].to_pylist())
    with pytest.raises(UserError, match="is missing; bring it up to date with 'dvc repro'"):
        read_split(tmp_path, "train")


def test_pick_is_nested_and_free_of_order(rows: pa.Table) -> None:
    five = pick(rows, 5, "eval")["key"].to_pylist()
    assert pick(rows, 3, "eval")["key"].to_pylist() == five[:3]
    assert pick(rows.take(list(range(8, -1, -1))), 5, "eval")["key"].to_pylist() == five
    assert pick(rows, None, "eval").num_rows == 9
    assert pick(rows, 9, "other")["key"].to_pylist() != pick(rows, 9, "eval")["key"].to_pylist()
    with pytest.raises(UserError, match="10 images are asked for, but there are 9"):
        pick(rows, 10, "eval")


@pytest.mark.parametrize("cache_mib", [0, 1])
def test_images_are_what_was_encoded(
    tmp_path: Path, tar_pool: dict[str, Any], rows: pa.Table, picture: Any, cache_mib: int
) -> None:
    images = Images(tar_pool, rows.select(IMAGE_COLUMNS), 12, tmp_path, cache_mib)
    assert len(images) == 9
    numbers = [int(key) for key in rows["key"].to_pylist()]
    for _ in range(2):
        found = images.get([4, 0, 4, 8])
        assert found.dtype == np.uint8
        assert found.shape == (4, 3, 12, 12)
        for place, position in enumerate([4, 0, 4, 8]):
            assert np.array_equal(found[place], decode(picture(numbers[position]), 12))
        found[:] = 0  # The caller's own.
    assert np.array_equal(images.raw(3), decode(picture(numbers[3])))


def test_cached_images_are_decoded_once(
    tmp_path: Path, tar_pool: dict[str, Any], rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr("mimcore.data.loader.decode", lambda *given: calls.append(1) or decode(*given))
    images = Images(tar_pool, rows, 8, tmp_path, 1)
    for _ in range(3):
        images.get(np.arange(9))
    assert len(calls) == 9


def test_batches_are_a_pure_function_of_seed_and_step(tmp_path: Path, tar_pool: dict[str, Any], rows: pa.Table) -> None:
    images = Images(tar_pool, rows, 8, tmp_path)
    plain = Batches(images, 4, "s0")
    expected = [plain.batch(step) for step in range(10)]
    for workers in (0, 1, 3):
        for cache_mib in (0, 1):
            batches = Batches(Images(tar_pool, rows, 8, tmp_path, cache_mib), 4, "s0", workers)
            for start in (0, 3, 10):
                found = list(batches.stream(start, 10))
                assert len(found) == 10 - start
                assert all(np.array_equal(a, b) for a, b in zip(found, expected[start:], strict=True))
    assert not np.array_equal(Batches(images, 4, "s1").batch(0), expected[0])
    epoch = np.concatenate([plain.positions(step) for step in range(9)]).reshape(4, 9)
    assert np.array_equal(np.sort(epoch, 1), np.tile(np.arange(9), (4, 1)))


def test_an_early_end_leaves_no_threads(tmp_path: Path, tar_pool: dict[str, Any], rows: pa.Table) -> None:
    before = threading.active_count()
    stream = Batches(Images(tar_pool, rows, 8, tmp_path), 4, 0, workers=2).stream(0, 1000)
    next(stream)
    assert threading.active_count() > before
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_raised_at_its_step(
    tmp_path: Path, tar_pool: dict[str, Any], rows: pa.Table, workers: int
) -> None:
    before = threading.active_count()
    bad = rows.to_pylist()
    bad[5]["checksum"] = "0" * 16
    table = pa.Table.from_pylist(bad, rows.schema)
    batches = Batches(Images(tar_pool, table, 8, tmp_path), 3, 0, workers)
    wrong = next(step for step in range(3) if 5 in batches.positions(step))
    stream = batches.stream(0, 3)
    for _ in range(wrong):
        next(stream)
    key = rows["key"][5].as_py()
    with pytest.raises(UserError, match=rf"'{key}' in 0000.\.tar is not the one that was indexed \(its checksum"):
        next(stream)
    assert threading.active_count() == before


def test_no_images(tmp_path: Path, tar_pool: dict[str, Any], rows: pa.Table) -> None:
    with pytest.raises(UserError, match="no images to make batches of"):
        Batches(Images(tar_pool, rows.slice(0, 0), 8, tmp_path), 4, 0)


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("mimcore.data.loader", ["torch", "mimcore.data.formats", "mimcore.data.listing", "mimcore.data.index"]),
        ("mimcore.data.index", ["torch", "mimcore.data.loader"]),
        ("mimcore.data.formats.digits", ["torch", "sklearn"]),
        ("mimcore.sampling.draw", ["torch", "mimcore.data.formats", "mimcore.data.listing", "mimcore.data.index"]),
    ],
)
def test_what_a_stage_does_not_load(module: str, forbidden: list[str]) -> None:
    code = f"import sys, {module}; print(*[name for name in {forbidden!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
