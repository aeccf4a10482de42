from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawing import source_of

from mimcore.sampling import manifest
from mimcore.sampling.manifest import write_manifest


@pytest.mark.parametrize("held", [0, 10_000, 1 << 30])
def test_rows_come_in_the_order_of_the_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(manifest, "_HELD", held)
    monkeypatch.setattr(manifest, "_GROUP", 50)
    generator = np.random.default_rng(0)
    rows = pa.table(
        {
            "key": [f"image {number}" for number in range(1000)],
            "boxes": pa.array(
                [[[1.0, number]] * (number % 3) or None for number in range(1000)], pa.list_(pa.list_(pa.float32()))
            ),
            "label": pa.array([None if number % 7 == 0 else number for number in range(1000)], pa.int64()),
        }
    )
    drawn = generator.permutation(1000)[:333]
    seen: list[pa.Table] = []
    with source_of(pa.concat_tables([rows.slice(0, 400), rows.slice(400)])) as source:
        write_manifest(tmp_path / "manifest.parquet", source, drawn, look=seen.append)
        write_manifest(tmp_path / "few.parquet", source, drawn[:5], ["key"])
    expected = rows.take(pa.array(drawn)).append_column("rank", pa.array(np.arange(333)))
    found = pq.read_table(tmp_path / "manifest.parquet")
    assert found.equals(expected.cast(found.schema))
    assert pa.concat_tables(seen).equals(expected.cast(seen[0].schema))
    assert pq.read_table(tmp_path / "few.parquet").to_pydict() == {
        "key": expected["key"].to_pylist()[:5],
        "rank": [*range(5)],
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["few.parquet", "manifest.parquet"]
