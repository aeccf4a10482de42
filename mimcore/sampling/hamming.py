"""Which of many 64-bit hashes are near each other: all pairs within a Hamming distance, without looking at all pairs.

The bits are cut into ``distance + k`` bands. Two hashes that differ in at most ``distance`` bits differ in at most
``distance`` bands, so that they agree on some ``k`` of them (the pigeonhole principle; Manku, Jain and Das Sarma, 2007,
"Detecting near-duplicates for web crawling", section 3). For each choice of ``k`` bands the hashes are sorted by these,
and those that agree are compared.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from mimcore.data.hashing import U64

I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Bands that two hashes must share: more make more tables, each with fewer pairs to compare.
_SHARED = (1, 2, 3, 4)
#: Nanoseconds on one core, for each hash sorted and each pair compared. They decide the way, never the result.
_SORTING, _COMPARING = 100.0, 15.0
#: Hashes that the number of pairs is estimated from.
_SAMPLE = 1 << 18
#: Hashes compared at a time.
_BLOCK = 1 << 20


def first_of_near(hashes: U64, distance: int) -> Bools:
    """Which hashes stay if each is dropped that lies within ``distance`` of an earlier one that stays.

    Those that stay are further apart than ``distance``, and each that goes has one within it: a chain of neighbours is
    not dropped for its first. All that no undecided earlier neighbour stands before are decided at once, which takes
    few rounds where the order is random (Blelloch, Fineman and Shun, 2012, "Greedy sequential maximal independent
    set and matching are parallel on average").

    Args:
        hashes: uint64 ``(N,)``, all different, in the order in which they are taken.
        distance: bits in which near hashes may differ, from 0.

    Returns:
        bool ``(N,)``.
    """
    dropped = np.zeros(len(hashes), bool)
    pairs = list(near_pairs(hashes, distance)) if distance else []
    if not pairs:
        return ~dropped
    earlier = np.concatenate([np.minimum(left, right) for left, right in pairs])
    later = np.concatenate([np.maximum(left, right) for left, right in pairs])
    while len(earlier):
        waiting = np.zeros(len(hashes), bool)
        waiting[later] = True
        dropped[later[~waiting[earlier]]] = True
        open_ = ~(dropped[earlier] | dropped[later])
        earlier, later = earlier[open_], later[open_]
    return ~dropped


def near_any(hashes: U64, others: U64, distance: int) -> Bools:
    """Which hashes lie within ``distance`` of any of the others.

    Args:
        hashes: uint64 ``(N,)``.
        others: uint64 ``(M,)``.
        distance: bits in which near hashes may differ, from 0.

    Returns:
        bool ``(N,)``.
    """
    found: Bools = np.isin(hashes, others)
    if distance and len(hashes) and len(others):
        both = np.concatenate([np.unique(hashes), np.unique(others)])
        split = len(both) - len(np.unique(others))
        near = [
            np.minimum(left, right)[(left < split) != (right < split)] for left, right in near_pairs(both, distance)
        ]
        found |= np.isin(hashes, both[np.concatenate([np.empty(0, np.int64), *near])])
    return found


def near_pairs(hashes: U64, distance: int) -> Iterator[tuple[I64, I64]]:
    """Every pair of positions whose hashes differ in at most ``distance`` bits, some of them more than once.

    Args:
        hashes: uint64 ``(N,)``.
        distance: bits, from 0.

    Yields:
        blocks of pairs: two arrays of positions, int64 ``(P,)``, in no order.
    """
    if len(hashes) < 2:
        return
    for chosen in _tables(hashes, distance):
        yield from _near_in_table(hashes, chosen, distance)


def _tables(hashes: U64, distance: int) -> list[Sequence[tuple[int, int]]]:
    """The bands of each table as (first bit, number of bits), for the number of shared bands that costs least."""
    step = max(1, len(hashes) // _SAMPLE)
    sample = hashes[::step]
    best, least = [], math.inf
    for shared in _SHARED:
        edges = np.linspace(0, 64, distance + shared + 1).round().astype(int)
        bands = list(zip(edges[:-1].tolist(), np.diff(edges).tolist(), strict=True))
        tables = list(combinations(bands, shared))
        _, counts = np.unique(_band_bits(sample, tables[0]), return_counts=True)
        pairs = float((counts * (counts - 1.0)).sum()) / 2 * step**2
        cost = len(tables) * (_SORTING * len(hashes) + _COMPARING * pairs)
        if cost < least:
            best, least = tables, cost
    return list(best)


def _band_bits(hashes: U64, bands: Sequence[tuple[int, int]]) -> U64:
    """The bits of some bands, side by side from the highest bit downwards."""
    bits = np.zeros(len(hashes), np.uint64)
    room = 64
    for first, width in bands:
        room -= width
        mask = np.uint64((1 << width) - 1)
        bits |= ((hashes >> np.uint64(first)) & mask) << np.uint64(room)
    return bits


def _near_in_table(hashes: U64, bands: Sequence[tuple[int, int]], distance: int) -> Iterator[tuple[I64, I64]]:
    # Positions fill the low bits, so that plain numbers are sorted in place; bits that they push out only add pairs
    # that the comparison takes away.
    place_bits = np.uint64((len(hashes) - 1).bit_length())
    places = (np.uint64(1) << place_bits) - np.uint64(1)
    words = _band_bits(hashes, bands)
    words &= ~places
    words |= np.arange(len(hashes), dtype=np.uint64)
    words.sort()
    alike = (words[1:] ^ words[:-1]) <= places
    member = np.zeros(len(words), bool)
    member[1:] = alike
    member[:-1] |= alike
    words = words[member]
    positions = (words & places).astype(np.int64)
    words >>= place_bits
    ordered = hashes[positions]
    left = np.flatnonzero(words[1:] == words[:-1])
    shift = 1
    while len(left):
        for first in range(0, len(left), _BLOCK):
            block = left[first : first + _BLOCK]
            near = block[np.bitwise_count(ordered[block] ^ ordered[block + shift]) <= distance]
            if len(near):
                yield positions[near], positions[near + shift]
        shift += 1
        left = left[left + shift < len(words)]
        left = left[words[left] == words[left + shift]]
