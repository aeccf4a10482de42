"""What was drawn, and how it differs from the pool."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Parts of a distribution that are told of sizes and lengths.
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def describe(drawn: pa.Table, pool: pa.Table, classes: list[str] | None) -> dict[str, Any]:
    """Numbers for the card.

    Args:
        drawn: rows in the order of the draw.
        pool: all rows that could be drawn.
        classes: names of the labels, if known.

    Returns:
        plain values: ``images``, ``fraction``, the first and last key, a digest of the set of keys, and
        ``labels``, ``sides``, ``captions``, ``boxes``, each for the subset and the pool, where the pool knows them.
    """
    keys = drawn["key"].to_pylist()
    both = {"subset": drawn, "pool": pool}
    card: dict[str, Any] = {
        "images": len(keys),
        "pool_images": pool.num_rows,
        "fraction": len(keys) / pool.num_rows,
        "first_key": keys[0],
        "last_key": keys[-1],
        # Of the sorted keys: equal for equal sets.
        "keys_digest": hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest(),
        "sides": {what: {side: _quantiles(rows[side]) for side in ("width", "height")} for what, rows in both.items()},
    }
    if "label" in pool.column_names:
        card["labels"] = _histograms(both, classes)
    if "caption" in pool.column_names:
        card["captions"] = {what: _captions(rows["caption"]) for what, rows in both.items()}
    if "boxes" in pool.column_names:
        card["boxes"] = {what: _quantiles(pc.list_value_length(rows["boxes"])) for what, rows in both.items()}
    return card


def _quantiles(values: pa.ChunkedArray) -> dict[str, float]:
    numbers = values.drop_null().to_numpy()
    if not len(numbers):
        return {}
    return {f"{part:g}": float(np.quantile(numbers, part)) for part in QUANTILES}


def _histograms(both: dict[str, pa.Table], classes: list[str] | None) -> dict[str, dict[str, int]]:
    """Images of each class, by name or number; a class of the pool that was not drawn is there with 0."""
    known = sorted(label for label in pc.unique(both["pool"]["label"]).to_pylist() if label is not None)
    found = {}
    for what, rows in both.items():
        counts = {item["values"]: item["counts"] for item in pc.value_counts(rows["label"]).to_pylist()}
        found[what] = {classes[label] if classes else str(label): counts.get(label, 0) for label in known}
    return found


def _captions(captions: pa.ChunkedArray) -> dict[str, Any]:
    """How many images have a caption, how many captions differ, and their length in characters."""
    present = captions.drop_null()
    return {
        "present": len(present),
        "distinct": len(pc.unique(present)),
        "characters": _quantiles(pc.utf8_length(present)),
    }
