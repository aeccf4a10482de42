"""The 64-bit hash that draws subsets: the same in every version of every library.

``mix`` is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014, figure 16) after adding the golden gamma:

    mix(x):  x += 0x9E3779B97F4A7C15
             x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
             x = (x ^ (x >> 27)) * 0x94D049BB133111EB
             return x ^ (x >> 31)

all modulo 2^64. The hash of a key with a whole-numbered seed starts from ``state = mix(seed + G * length)``, where
``G`` is the added constant and ``length`` counts the bytes of the key in UTF-8, and takes in the key in little-endian
words of eight bytes, the last filled up with zeros: ``state = mix(state ^ word)``. A key that is a whole number is one
word, modulo 2^64, of length 8. A seed that is text is first hashed so with seed 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

U64 = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
#: Rows hashed at a time: the working arrays of a block stay in the processor's cache.
_BLOCK = 1 << 15


def mix(values: npt.ArrayLike) -> U64:
    """One step of SplitMix64 on each number, modulo 2^64; uint64 in, uint64 of the same shape out."""
    x = np.add(np.asarray(values, np.uint64), GOLDEN)
    x = np.atleast_1d(x)
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= _FIRST
    np.right_shift(x, np.uint64(27), out=shifted)
    x ^= shifted
    x *= _SECOND
    np.right_shift(x, np.uint64(31), out=shifted)
    x ^= shifted
    return x.reshape(np.shape(values))


def seed64(seed: int | str) -> int:
    """The whole number, from 0 to 2^64 - 1, that a seed stands for."""
    return int(hash64([seed], 0)[0]) if isinstance(seed, str) else seed % 2**64


def salted(salt: str, seed: str) -> str:
    """The seed of a draw with a salt; without one it is the replicate's own."""
    return f"{salt}/{seed}" if salt else seed


def hash64(keys: pa.Array | pa.ChunkedArray | Sequence[str], seed: int | str) -> U64:
    """Hash each key to 64 bits.

    Args:
        keys: N strings or whole numbers, none of them null.
        seed: an int, taken modulo 2^64, or a text.

    Returns:
        N hashes, uint64.
    """
    if isinstance(keys, pa.ChunkedArray):
        return np.concatenate([hash64(chunk, seed) for chunk in keys.chunks] or [np.empty(0, np.uint64)])
    if not isinstance(keys, pa.Array):
        keys = pa.array(list(keys), pa.large_string())
    if keys.null_count:
        raise ValueError("a key is null")
    if pa.types.is_integer(keys.type):
        return mix(
            mix(seed64(seed) + 8 * int(GOLDEN) & 2**64 - 1) ^ keys.to_numpy(zero_copy_only=False).astype(np.uint64)
        )
    keys = keys.cast(pa.large_string())
    offsets = np.frombuffer(keys.buffers()[1], np.int64)[keys.offset : keys.offset + len(keys) + 1]
    text = np.frombuffer(keys.buffers()[2] or b"", np.uint8)
    start = np.uint64(seed64(seed))
    hashes = np.empty(len(keys), np.uint64)
    for first in range(0, len(keys), _BLOCK):
        ends = offsets[first : first + _BLOCK + 1]
        hashes[first : first + _BLOCK] = _hash_block(text[ends[0] : ends[-1]], ends - ends[0], start)
    return hashes


def bottom(keys: pa.Array | pa.ChunkedArray | Sequence[str], count: int, seed: int | str) -> npt.NDArray[np.int64]:
    """Positions of the ``count`` keys with the smallest hashes, smallest first; equal hashes go by key."""
    hashes = hash64(keys, seed)
    count = min(count, len(hashes))
    if not count:
        return np.empty(0, np.int64)
    limit = np.partition(hashes, count - 1)[count - 1]
    found = np.flatnonzero(hashes <= limit)
    found = found[np.argsort(hashes[found], kind="stable")]
    if np.any(np.diff(hashes[found]) == 0):
        found = np.array(sorted(found, key=lambda row: (int(hashes[row]), str(keys[int(row)]))))
    return found[:count].astype(np.int64)


def _hash_block(text: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64], seed: np.uint64) -> U64:
    """Hash the keys ``text[ends[i]:ends[i + 1]]``, word by word over all keys that still have one."""
    starts, lengths = ends[:-1], np.diff(ends)
    padded = np.zeros(len(text) + 8, np.uint8)
    padded[: len(text)] = text
    # A word begins at every byte; reading past the end of a key is masked below.
    words = np.ndarray((len(text) + 1,), "<u8", padded, strides=(1,))
    state = mix(seed + GOLDEN * lengths.astype(np.uint64))
    shortest, longest = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    for begin in range(0, longest, 8):
        if shortest == longest:
            # Keys of one length lie at even distances.
            found = words[begin::longest][: len(starts)]
            state = mix(state ^ (found if longest >= begin + 8 else found & _mask(np.uint64(longest - begin))))
            continue
        rows = slice(None) if shortest > begin else np.flatnonzero(lengths > begin)
        mask = _mask(np.minimum(lengths[rows] - begin, 8).astype(np.uint64))
        state[rows] = mix(state[rows] ^ (words[starts[rows] + begin] & mask))
    return state


def _mask(count: Any) -> Any:
    """The lowest ``count`` bytes of a word, 1 to 8."""
    return np.uint64(2**64 - 1) >> (np.uint64(64) - np.uint64(8) * count)
