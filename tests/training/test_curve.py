"""The training of MAE against a stored curve: a change of its maths that nobody meant turns this red.

Where the change is meant, ``python tests/training/test_curve.py`` writes the curve anew; say in the commit why.
"""

import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import small_run

STORED = Path(__file__).resolve().parents[1] / "curves" / "mae.json"


def curve(root: Path) -> dict[str, dict[str, float]]:
    """Losses by split and images seen: float32, one thread, seed ``s0``; norms of the last gradients as well."""
    folder = small_run.train(root, "curve").folder
    found: dict[str, dict[str, float]] = {}
    for point in pq.read_table(folder / "curve.parquet").to_pylist():
        found.setdefault(point["split"], {})[str(point["images_seen"])] = point["loss"]
        if point["split"] == "train":
            found.setdefault("grad_norm", {})[str(point["images_seen"])] = point["grad_norm"]
    return found


def test_the_curve_is_the_stored_one(root: Path) -> None:
    """To 1e-4, since the products of different processors round differently."""
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    found = curve(root)
    assert set(found) == set(stored)
    for name, points in stored.items():
        assert found[name] == pytest.approx(points, rel=1e-4), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        small_run.make_subset(Path(folder))
        STORED.write_text(json.dumps(curve(Path(folder)), indent=2) + "\n", encoding="utf-8")
