"""What is counted of a subset or a pool: numbers, labels and words of its rows, streamed from Parquet."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimcore.data.hashing import hash64
from mimcore.data.rows import OPTIONAL, REQUIRED
from mimcore.sampling.columns import bits64, is_number
from mimcore.sampling.hamming import near_pairs

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

#: Rows that are looked at; of more, a fixed sample by the hash of their keys.
LIMIT = 1_000_000
#: Rows in memory at a time.
_BATCH = 1 << 15
#: Different words that are counted; beyond, those that were met once are forgotten.
_WORDS = 1 << 20
#: Pairs of near copies that are looked through.
_PAIRS = 1 << 21
#: Columns of numbers that say nothing of an image: identifiers and hashes.
_NO_SCORE = re.compile(r"(^|_)(id|uid|index|hash)$|hash", re.IGNORECASE)
_WORD = re.compile(r"\w[\w'’-]*")

#: What is told of every image, beside the columns that the pool brings.
ALWAYS = ("width", "height", "aspect", "bytes")


@dataclass
class Facts:
    """What was counted."""

    #: Rows in all, and those looked at.
    total: int
    #: Where the rows that were looked at stand in the file, int64 ``(N,)``.
    places: I64
    #: A number of each row, NaN where it has none, float64 ``(N,)``.
    numbers: dict[str, F64]
    labels: Counter[int] = field(default_factory=Counter)
    #: Captions by their length in words.
    lengths: Counter[int] = field(default_factory=Counter)
    #: Captions that have a word, in lower case.
    words: Counter[str] = field(default_factory=Counter)

    @property
    def captions(self) -> int:
        """How many rows have a caption."""
        return self.lengths.total()


class Pair(NamedTuple):
    """Two images that look alike: where they stand in the file, and the bits in which their hashes differ."""

    first: int
    second: int
    distance: int


class Copies(NamedTuple):
    """Near copies among the rows that were looked at."""

    #: Images with a near copy, among so many with a hash.
    images: int
    hashed: int
    #: Those that are shown, the nearest first.
    pairs: list[Pair]


class Difference(NamedTuple):
    """How much more often a word stands in one set of captions than in another."""

    word: str
    #: Parts of the captions that have it.
    subset: float
    pool: float
    #: The logarithm of the ratio of odds, in its standard errors.
    score: float


def gather(file: Path, total: int, limit: int = LIMIT) -> Facts:
    """Count the rows of a manifest, or of an index's training split.

    Args:
        file: ``manifest.parquet`` or ``index.parquet``.
        total: rows that it has, of the training split.
        limit: about so many rows are looked at, if there are more.
    """
    parquet = pq.ParquetFile(file)
    schema = parquet.schema_arrow
    scores = score_columns(schema)
    columns = [
        name for name in ("key", "split", "width", "height", "length", "label", "caption") if name in schema.names
    ]
    places: list[I64] = []
    numbers: dict[str, list[F64]] = {name: [] for name in (*ALWAYS, *scores)}
    facts = Facts(total, np.empty(0, np.int64), {})
    first = 0
    for batch in parquet.iter_batches(_BATCH, columns=[*columns, *scores]):
        rows = pa.Table.from_batches([batch])
        keep = pc.equal(rows["split"], "train").to_numpy().astype(bool)
        if total > limit:
            keep &= hash64(rows["key"], "look") < np.uint64(limit / total * 2.0**64)
        places.append(first + np.flatnonzero(keep))
        first += rows.num_rows
        _count(rows.filter(pa.array(keep)), scores, numbers, facts)
    facts.places = np.concatenate(places)
    facts.numbers = {name: np.concatenate(found) for name, found in numbers.items()}
    return facts


def _count(rows: pa.Table, scores: list[str], numbers: dict[str, list[F64]], facts: Facts) -> None:
    width, height, length = (rows[name].to_numpy().astype(float) for name in ("width", "height", "length"))
    for name, values in zip(ALWAYS, (width, height, width / height, length), strict=True):
        numbers[name].append(values)
    for name in scores:
        numbers[name].append(np.asarray(rows[name].cast(pa.float64(), safe=False).to_numpy(), float))
    if "label" in rows.column_names:
        facts.labels.update(rows["label"].drop_null().to_pylist())
    if "caption" in rows.column_names:
        for caption in rows["caption"].drop_null().to_pylist():
            words = _WORD.findall(caption.lower())
            if not words:
                continue
            facts.lengths[len(words)] += 1
            facts.words.update(set(words))
        if len(facts.words) > _WORDS:
            facts.words = Counter({word: count for word, count in facts.words.items() if count > 1})


def score_columns(schema: pa.Schema) -> list[str]:
    """The columns of numbers that a pool brings along, but for identifiers and hashes."""
    known = {*REQUIRED, *OPTIONAL, "rank"}
    return [
        name
        for name in schema.names
        if name not in known and is_number(schema.field(name).type) and not _NO_SCORE.search(name)
    ]


def distance(subset: F64, pool: F64) -> float:
    """The largest difference of two cumulative distributions, 0 to 1 (Kolmogorov and Smirnov); NaN has no part in it."""
    one, other = (np.sort(values[~np.isnan(values)]) for values in (subset, pool))
    if not len(one) or not len(other):
        return 0.0
    at = np.concatenate([one, other])
    shares = [np.searchsorted(values, at, side="right") / len(values) for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def word_differences(subset: Facts, pool: Facts, least: float = 3.0) -> list[Difference]:
    """Words that stand in more, or in fewer, of the subset's captions than of the pool's, the greatest score first.

    The score is the logarithm of the ratio of odds over its standard error (Monroe, Colaresi and Quinn 2008,
    "Fightin' Words", section 3.4.1), with half a caption added to each count (Haldane 1956).

    Args:
        subset: its facts.
        pool: likewise.
        least: standard errors that a difference must have, in either direction.
    """
    found = []
    for word, there in pool.words.items():
        here = subset.words[word]
        odds, errors = [], 0.0
        for having, captions in ((here, subset.captions), (there, pool.captions)):
            odds.append(np.log((having + 0.5) / (captions - having + 0.5)))
            errors += 1 / (having + 0.5) + 1 / (captions - having + 0.5)
        score = float((odds[0] - odds[1]) / np.sqrt(errors))
        if abs(score) >= least:
            found.append(Difference(word, here / max(subset.captions, 1), there / pool.captions, score))
    return sorted(found, key=lambda one: (-one.score, one.word))


def near_copies(file: Path, column: str, places: I64, most: int, shown: int) -> Copies | None:
    """Images of a manifest whose perceptual hashes are near each other.

    Args:
        file: ``manifest.parquet``.
        column: of 64-bit hashes.
        places: the rows that are looked at, ascending, int64 ``(N,)``.
        most: bits in which near copies may differ.
        shown: pairs that are returned.

    Returns:
        None if the manifest has no such column.
    """
    if column not in pq.read_schema(file).names:
        return None
    rows = pq.read_table(file, columns=[column], partitioning=None)
    hashes, known = bits64(rows, column, "overlap.column")
    places = places[known[places]]
    hashes = hashes[places]
    unique, first, inverse, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    alike = counts > 1
    order = np.argsort(inverse, kind="stable")
    starts = np.cumsum(counts) - counts
    pairs = [_pair(places[order[start]], places[order[start + 1]], 0) for start in starts[alike].tolist()]
    pairs = sorted(pairs)[:shown]
    near, seen = list[Pair](), 0
    for left, right in near_pairs(unique, most):
        alike[left] = alike[right] = True
        bits = np.bitwise_count(unique[left] ^ unique[right]).astype(int)
        best = np.argsort(bits, kind="stable")[: 4 * shown]
        for one, other, differ in zip(left[best], right[best], bits[best].tolist(), strict=True):
            near.append(_pair(places[first[one]], places[first[other]], differ))
        near = sorted(set(near), key=lambda pair: (pair.distance, pair.first, pair.second))[:shown]
        seen += len(left)
        if seen > _PAIRS:
            break
    return Copies(int(counts[alike].sum()), len(hashes), (pairs + near)[:shown])


def _pair(one: np.int64, other: np.int64, differ: int) -> Pair:
    return Pair(int(min(one, other)), int(max(one, other)), differ)
