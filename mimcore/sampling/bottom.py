"""The first rows of an order, found in one pass over rows that come in any order, in memory for the drawn ones alone.

Each row has a hash of its key; a strategy adds a score that comes before the hash, or strata that take turns. All of
these are orders of which the first k of a whole are the first k of its parts' firsts: a row that is not among the first
k of what has been seen never will be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mimcore.data.hashing import U64

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Rows that are kept before the first sorting, at least.
_LEAST = 1 << 16
_LAST = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Order:
    """What a strategy says of N rows besides their hash.

    Attributes:
        scores: smallest first, float64 ``(N,)``, no NaN; None where only the hash counts.
        strata: place of each row's stratum in ``names``, int64 ``(N,)``; None for one stratum.
        names: number of each stratum, uint64 ``(S,)``. The n-th row of a stratum of weight w has its turn at
            (n + 1/2) / w, and of equal turns that of the stratum with the smaller number comes first.
        weights: of each stratum, float64 ``(S,)``; None where all are equal.
    """

    scores: F64 | None = None
    strata: I64 | None = None
    names: U64 | None = None
    weights: F64 | None = None


@dataclass(frozen=True)
class _Rows:
    """Rows in hand; where there are no scores or strata these are None in all."""

    rows: I64
    hashes: U64
    scores: F64 | None
    strata: npt.NDArray[np.int32] | None

    def take(self, places: I64 | Bools) -> "_Rows":
        return _Rows(*(None if column is None else column[places] for column in self.columns()))  # type: ignore[arg-type]

    def columns(self) -> tuple[npt.NDArray[np.generic] | None, ...]:
        return self.rows, self.hashes, self.scores, self.strata

    @staticmethod
    def joined(parts: "Sequence[_Rows]") -> "_Rows":
        columns = zip(*(part.columns() for part in parts), strict=True)
        return _Rows(*(None if column[0] is None else np.concatenate(column) for column in columns))  # type: ignore[arg-type]


class Bottom:
    """Collects the first rows."""

    def __init__(self, images: int, total: int | None = None) -> None:
        """Nothing yet.

        Args:
            images: k, how many are wanted.
            total: rows that will come, if there are neither scores nor strata: all but the k smallest hashes and few
                more are then forgotten at once. Check ``enough`` in the end.
        """
        self._images = images
        self._least = max(images, 1)
        self._parts: list[_Rows] = []
        self._count = 0
        # Of each stratum met, in the order of meeting; where there are none, of the one that all rows are of.
        self._strata: dict[int, int] = {}
        self._weights: list[float] = []
        # Six standard deviations more than are wanted: too few come once in a billion draws.
        share = (images + 6 * images**0.5 + 16) / total if total else 1.0
        self._last_hash = np.array([min(int(share * 2**64), 2**64 - 1)], np.uint64)
        self._last_score = np.array([np.inf])

    def add(self, rows: I64, hashes: U64, order: Order) -> None:
        """Look at N rows.

        Args:
            rows: number of each, int64 ``(N,)``, all different over all calls.
            hashes: of their keys, uint64 ``(N,)``.
            order: what the strategy says of them.
        """
        strata = None if order.strata is None else self._numbered(order)[order.strata]
        found = _Rows(rows, hashes, order.scores, strata)
        found = found.take(self._promising(found))
        self._parts.append(found)
        self._count += len(found.rows)
        if self._count > 2 * self._least + _LEAST:
            self._prune()

    @property
    def enough(self) -> bool:
        """Whether there are as many as are wanted; if not, they have to come once more, their ``total`` untold."""
        return self._count >= self._images

    def result(self, keys: Callable[[I64], list[str]]) -> I64:
        """Numbers of the first k rows, in their order.

        Args:
            keys: gives the keys of some rows; asked for only where hashes are equal, which keys then decide.
        """
        if not self._parts:
            return np.empty(0, np.int64)
        held = _Rows.joined(self._parts)
        equal = _of_equal_hash(held.hashes)
        if len(equal):
            # In the order of their keys, since sorting leaves equals as they are.
            by_key = [place for _, place in sorted(zip(keys(held.rows[equal]), equal.tolist(), strict=True))]
            order = np.arange(len(held.rows))
            order[equal] = by_key
            held = held.take(order)
        times = self._times(held)
        first = self._first(held, times, self._images)
        if times is None:
            keys_ = [held.hashes[first]] if held.scores is None else [held.hashes[first], held.scores[first]]
            return held.rows[first[np.lexsort(keys_)]]
        return held.rows[first[np.lexsort((self._turns()[held.strata[first]], times[first]))]]  # type: ignore[index]

    def _numbered(self, order: Order) -> npt.NDArray[np.int32]:
        """The number here of each of the strata."""
        assert order.names is not None
        weights = np.ones(len(order.names)) if order.weights is None else order.weights
        for name, weight in zip(order.names.tolist(), weights.tolist(), strict=True):
            if name not in self._strata:
                self._strata[name] = len(self._strata)
                self._weights.append(weight)
        if (new := len(self._strata) - len(self._last_hash)) > 0:
            self._last_hash = np.append(self._last_hash, np.full(new, _LAST))
            self._last_score = np.append(self._last_score, np.full(new, np.inf))
        return np.array([self._strata[name] for name in order.names.tolist()], np.int32)

    def _promising(self, found: _Rows) -> Bools:
        """Which rows may still come in: those before the last of their stratum that did."""
        place = 0 if found.strata is None else found.strata
        before: Bools = found.hashes <= self._last_hash[place]
        if found.scores is not None:
            last = self._last_score[place]
            before = (found.scores < last) | ((found.scores == last) & before)
        return before

    def _prune(self) -> None:
        """Forget the rows that cannot come in any more."""
        held = _Rows.joined(self._parts)
        times = self._times(held)
        inside = np.zeros(len(held.rows), bool)
        inside[self._first(held, times, self._least)] = True
        # Of each stratum that loses rows, the first of these: what comes after it would be lost too.
        lost = held.take(~inside)
        strata = np.zeros(len(lost.rows), np.int32) if lost.strata is None else lost.strata
        if lost.scores is not None:
            np.minimum.at(self._last_score, strata, lost.scores)
            lost, strata = lost.take(equal := lost.scores == self._last_score[strata]), strata[equal]
            self._last_hash[np.unique(strata)] = _LAST
        np.minimum.at(self._last_hash, strata, lost.hashes)
        # Rows of a hash that is in stay, since keys decide among them.
        inside[_of_equal_hash(held.hashes)] = True
        self._parts = [held.take(inside)]
        self._count = len(self._parts[0].rows)

    def _times(self, held: _Rows) -> F64 | None:
        """When each row has its turn; None where there are no strata."""
        if held.strata is None:
            return None
        order = np.argsort(held.hashes, kind="stable")
        if held.scores is not None:
            order = order[np.argsort(held.scores[order], kind="stable")]
        order = order[np.argsort(held.strata[order], kind="stable")]
        strata = held.strata[order]
        starts = np.flatnonzero(np.diff(strata, prepend=-1))
        turns = np.arange(len(strata)) - np.repeat(starts, np.diff(starts, append=len(strata)))
        times = np.empty(len(strata))
        times[order] = (2 * turns + 1) / (2 * np.array(self._weights)[strata])
        return times

    def _turns(self) -> I64:
        """Place of each stratum among equal times."""
        turns = np.empty(len(self._strata), np.int64)
        turns[np.argsort(np.array(list(self._strata), np.uint64))] = np.arange(len(self._strata))
        return turns

    def _first(self, held: _Rows, times: F64 | None, images: int) -> I64:
        """Places of the first rows, in no order."""
        if images >= len(held.rows):
            return np.arange(len(held.rows))
        if not images:
            return np.empty(0, np.int64)
        if times is not None:
            ties: Callable[[I64], npt.NDArray[np.generic]] = lambda places: self._turns()[held.strata[places]]  # type: ignore[index] # noqa: E731
            return _smallest(times, images, ties)
        if held.scores is not None:
            return _smallest(held.scores, images, lambda places: held.hashes[places])
        return _smallest(held.hashes, images, lambda places: places)


def _smallest(values: F64 | U64, count: int, ties: Callable[[I64], npt.NDArray[np.generic]]) -> I64:
    """Places of the smallest values; among equals at the end those with the smallest ``ties``, then the first."""
    last = np.partition(values, count - 1)[count - 1]
    below, equal = np.flatnonzero(values < last), np.flatnonzero(values == last)
    more = np.argsort(ties(equal), kind="stable")[: count - len(below)]
    return np.concatenate([below, equal[more]])


def _of_equal_hash(hashes: U64) -> I64:
    """Places of hashes that are there more than once."""
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.flatnonzero(np.isin(hashes, twice)) if len(twice) else np.empty(0, np.int64)
