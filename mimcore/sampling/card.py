"""What was drawn, and how it differs from the pool."""

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Parts of a distribution that are told of sizes and lengths.
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

#: What is counted of rows, by the place of its distribution on the card, with the columns it is taken from.
_COUNTED: dict[tuple[str, ...], tuple[str, Callable[[Any], Any]]] = {
    ("sides", "width"): ("width", lambda values: values),
    ("sides", "height"): ("height", lambda values: values),
    ("labels",): ("label", lambda values: values),
    ("captions", "characters"): ("caption", pc.utf8_length),
    ("boxes",): ("boxes", pc.list_value_length),
}
#: The columns that ``Counts`` looks at.
COLUMNS = [column for column, _ in _COUNTED.values()]


class Counts:
    """Counts whole numbers of rows, so that their distribution is exact in memory for different values alone."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.rows = 0
        self._found: dict[tuple[str, ...], Counter[int]] = {}

    def add(self, rows: pa.Table) -> None:
        """Count more rows."""
        self.rows += rows.num_rows
        for place, (column, measure) in _COUNTED.items():
            if column in rows.column_names:
                counts = pc.value_counts(measure(rows[column]).drop_null())
                found = dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
                self._found.setdefault(place, Counter()).update(found)

    def merge(self, other: "Counts") -> None:
        """Count what another has counted."""
        self.rows += other.rows
        for place, found in other._found.items():
            self._found.setdefault(place, Counter()).update(found)

    def __contains__(self, place: tuple[str, ...]) -> bool:
        return place in self._found

    def __getitem__(self, place: tuple[str, ...]) -> Counter[int]:
        return self._found.get(place, Counter())


class Keys:
    """A digest of a set of keys, and the first and the last that came."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.first = self.last = ""
        self._sum = 0

    def add(self, keys: pa.ChunkedArray) -> None:
        """Take in more keys."""
        texts = keys.to_pylist()
        self.first = self.first or texts[0]
        self.last = texts[-1]
        # A sum does not depend on the order, and no key is there twice.
        self._sum += sum(int.from_bytes(hashlib.sha256(text.encode()).digest(), "little") for text in texts)

    @property
    def digest(self) -> str:
        """Equal for equal sets; 64 hexadecimal digits."""
        return f"{self._sum % 2**256:064x}"


def describe(drawn: Counts, pool: Counts, keys: Keys, classes: list[str] | None) -> dict[str, Any]:
    """Numbers for the card.

    Args:
        drawn: counts of the drawn rows.
        pool: of all rows that could be drawn.
        keys: of the drawn rows, in the order of the draw.
        classes: names of the labels, if known.

    Returns:
        plain values: ``images``, ``fraction``, the first and last key, a digest of the set of keys, and
        ``labels``, ``sides``, ``captions``, ``boxes``, each for the subset and the pool, where the pool knows them.
    """
    both = {"subset": drawn, "pool": pool}
    card: dict[str, Any] = {
        "images": drawn.rows,
        "pool_images": pool.rows,
        "fraction": drawn.rows / pool.rows,
        "first_key": keys.first,
        "last_key": keys.last,
        "keys_digest": keys.digest,
        "sides": {
            what: {side: _quantiles(counts["sides", side]) for side in ("width", "height")}
            for what, counts in both.items()
        },
    }
    if ("labels",) in pool:
        known = sorted(pool["labels",])
        names = {label: classes[label] if classes else str(label) for label in known}
        card["labels"] = {
            what: {names[label]: counts["labels",][label] for label in known} for what, counts in both.items()
        }
    if ("captions", "characters") in pool:
        lengths = {what: counts["captions", "characters"] for what, counts in both.items()}
        card["captions"] = {
            what: {"present": found.total(), "characters": _quantiles(found)} for what, found in lengths.items()
        }
    if ("boxes",) in pool:
        card["boxes"] = {what: _quantiles(counts["boxes",]) for what, counts in both.items()}
    return card


def _quantiles(counts: Counter[int]) -> dict[str, float]:
    """Exact quantiles of values and how often each is there, with numpy's linear interpolation."""
    if not counts:
        return {}
    values = np.array(sorted(counts))
    ends = np.cumsum([counts[value] for value in values.tolist()])
    found = {}
    for part in QUANTILES:
        place = part * (ends[-1] - 1)
        low, high = values[np.searchsorted(ends, [np.floor(place), np.ceil(place)], side="right")]
        found[f"{part:g}"] = float(low + (high - low) * (place - np.floor(place)))
    return found
