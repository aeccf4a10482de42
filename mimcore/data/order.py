"""The order of samples: a pure function of (seed, step), with no memory per image."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mimcore.data.hashing import U64, hash64, mix, seed64

#: Luby and Rackoff (1988) need four rounds; small domains want more to look shuffled.
_ROUNDS = 8

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


class Permutation:
    """A keyed shuffle of 0 .. n - 1, indexed like an array.

    A Feistel network over the smallest power of two that holds n, walked until the value falls below n (cycle walking:
    Black and Rogaway, 2002, section 3).
    """

    def __init__(self, n: int, seed: int | str) -> None:
        if n < 1:
            raise ValueError(f"nothing to permute: n is {n}")
        self.n = n
        self._key = np.uint64(seed64(seed))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, indexes: npt.ArrayLike) -> I64:
        """Where each index goes; int64 of the shape of ``indexes``."""
        values = np.asarray(indexes, np.int64)
        if values.size and (values.min() < 0 or values.max() >= self.n):
            raise IndexError(f"an index is outside 0 .. {self.n - 1}")
        return _permute(values.ravel(), self.n, np.full(values.size, self._key)).reshape(values.shape)


def permutation(n: int, seed: int | str) -> Permutation:
    """The shuffle of 0 .. n - 1 that belongs to a seed."""
    return Permutation(n, seed)


def positions(n: int, seed: int | str, start: int, count: int) -> I64:
    """Samples ``start`` .. ``start + count - 1`` of an endless stream that shows each of n images once per epoch.

    Returns:
        ``count`` positions from 0 to n - 1, int64. Each epoch has an order of its own.
    """
    samples = np.arange(start, start + count, dtype=np.int64)
    epochs = (samples // n).astype(np.uint64)
    return _permute(samples % n, n, mix(mix(epochs) ^ np.uint64(seed64(seed))))


def epoch(copies: F64, keys: pa.Array | pa.ChunkedArray, seed: int | str) -> I64:
    """Positions that an epoch shows where images are not shown alike, an image as often as it is listed: int64.

    A part of a copy is one with that probability, by the hash of the image's key.

    Args:
        copies: how often each of N images is shown on average, float64 ``(N,)``, finite and not negative.
        keys: of the images.
        seed: rounds.
    """
    whole = np.floor(copies)
    chance = hash64(keys, seed).astype(np.float64) / 2.0**64
    return np.repeat(np.arange(len(copies), dtype=np.int64), (whole + (chance < copies - whole)).astype(np.int64))


def _permute(indexes: I64, n: int, keys: U64) -> I64:
    values = indexes.astype(np.uint64)
    bits = (n - 1).bit_length()
    if bits == 0:
        return indexes.copy()
    values = _feistel(values, bits, keys)
    outside = np.flatnonzero(values >= n)
    while len(outside):
        values[outside] = _feistel(values[outside], bits, keys[outside])
        outside = outside[values[outside] >= n]
    return values.astype(np.int64)


def _feistel(values: U64, bits: int, keys: U64) -> U64:
    """A bijection of 0 .. 2^bits - 1: each half is taken in turns and XORed with a hash of the other."""
    low_bits = np.uint64((bits + 1) // 2)
    low_mask = np.uint64((1 << int(low_bits)) - 1)
    high_mask = np.uint64((1 << (bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for number in range(_ROUNDS):
        keys = mix(keys)
        if number % 2:
            high = high ^ (mix(keys ^ low) & high_mask)
        else:
            low = low ^ (mix(keys ^ high) & low_mask)
    return (high << low_bits) | low
