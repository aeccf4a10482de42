"""Exact quantiles of a column, in a few passes over it and memory that does not grow with it."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from mimcore.data.hashing import U64

F64 = npt.NDArray[np.float64]

#: Bits of a value that a pass tells apart.
_BITS = 16
#: Values that are sorted rather than counted in one more pass.
_FEW = 1 << 20


def quantiles(values: Callable[[], Iterator[F64]], parts: int) -> F64:
    """The bounds that cut values into parts of equal numbers.

    Values are counted by their first 16 bits, then within the counts that hold a bound by the next 16, and so on (radix
    selection), until few enough are left to be sorted.

    Args:
        values: begins a new pass over all values, float64, no NaN.
        parts: how many.

    Returns:
        ``parts - 1`` of the values, float64, ascending: the smallest at which the i-th part's share is reached. None if
        there are no values.
    """
    counts = {0: _count(values(), 0, [0])[0]}
    total = int(counts[0].sum())
    if not total:
        return np.empty(0)
    # Of each bound: the bits known so far, and its rank among the values that begin with these.
    prefixes = [0] * (parts - 1)
    ranks = [(total * part + parts - 1) // parts - 1 for part in range(1, parts)]
    known = 0
    while True:
        for bound, (prefix, rank) in enumerate(zip(prefixes, ranks, strict=True)):
            below = np.cumsum(counts[prefix])
            digit = int(np.searchsorted(below, rank, side="right"))
            ranks[bound] = rank - int(below[digit - 1] if digit else 0)
            prefixes[bound] = prefix << _BITS | digit
        left = sum(int(counts[prefix >> _BITS][prefix % 2**_BITS]) for prefix in set(prefixes))
        known += _BITS
        if left <= _FEW or known == 64:
            break
        counts = _count(values(), known, sorted(set(prefixes)))
    if known == 64:
        return _floats(np.array(prefixes, np.uint64))
    wanted = np.array(sorted(set(prefixes)), np.uint64)
    shift = np.uint64(64 - known)
    held = np.sort(np.concatenate([bits[np.isin(bits >> shift, wanted)] for bits in map(_bits, values())]))
    starts = np.searchsorted(held >> shift, np.array(prefixes, np.uint64))
    return _floats(held[starts + np.array(ranks)])


def _count(values: Iterator[F64], known: int, prefixes: list[int]) -> dict[int, npt.NDArray[np.int64]]:
    """How many values begin with each prefix, of ``known`` bits, followed by each 16 bits: int64 ``(65536,)``."""
    counts = {prefix: np.zeros(2**_BITS, np.int64) for prefix in prefixes}
    for bits in map(_bits, values):
        digits = (bits >> np.uint64(64 - known - _BITS)) & np.uint64(2**_BITS - 1)
        for prefix, count in counts.items():
            own = digits if known == 0 else digits[bits >> np.uint64(64 - known) == prefix]
            count += np.bincount(own.astype(np.int64), minlength=2**_BITS)
    return counts


def _bits(values: F64) -> U64:
    """Whole numbers in the order of the values."""
    bits = (values + 0.0).view(np.uint64)  # minus zero is zero
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def _floats(bits: U64) -> F64:
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, bits ^ sign, ~bits).view(np.float64)
