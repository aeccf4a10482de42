"""Drops copies of images: of those with equal or near perceptual hashes the one whose key has the smallest hash stays.

With ``distance: 0``, images with equal perceptual hashes are one group, and the first of it in the order of the draw
stays: followed by ``random`` of the same salt, a grown pool changes a subset only by newcomers with smaller hashes. With
a larger distance, images are taken in that order, and each is dropped that lies within the distance of one that has
stayed. What stays is then further apart than the distance, and what goes has a near one that stays; a chain of
neighbours is not lost but for its first, as it would be if connected components were merged. There a newcomer can
bring back what its neighbour had dropped.

An image without a perceptual hash stays.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from mimcore.data.hashing import U64, hash64, salted
from mimcore.definition import Definition
from mimcore.sampling.columns import bits64
from mimcore.sampling.hamming import first_of_near


class Config(Definition):
    """Options of the strategy."""

    #: Column of 64-bit perceptual hashes: whole numbers, or 16 hexadecimal digits as in COYO's ``image_phash``.
    column: str = "phash"
    #: Bits in which copies may differ. Beyond 8 of the 64 bits, other images are as near as copies.
    distance: int = Field(0, ge=0, le=8)
    #: As of the draw that follows, so that what stays is what would be drawn first.
    salt: str = ""


def columns(config: Config) -> list[str]:
    """That of the hashes."""
    return [config.column]


def compact(rows: pa.Table, config: Config, seed: str) -> pa.Table:
    """What is held of each row: the hash of its key, uint64, and its perceptual hash, uint64 or null."""
    hashes, known = bits64(rows, config.column, "column")
    return pa.table(
        {"order": hash64(rows["key"], salted(config.salt, seed)), "hash": pa.array(hashes, pa.uint64(), mask=~known)}
    )


def keep(rows: pa.Table, config: Config, seed: str) -> npt.NDArray[np.int64]:
    """Positions of the rows that stay.

    Args:
        rows: N rows, as ``compact`` leaves them.
        config: options of the strategy.
        seed: name of the replicate, such as ``s0``.

    Returns:
        int64 ``(K,)``, ascending.

    Raises:
        UserError: the column is missing or holds no 64-bit hashes; it begins with the option.
    """
    known = rows["hash"].is_valid().to_numpy()
    hashes: U64 = rows["hash"].fill_null(0).to_numpy()
    places = np.flatnonzero(known)
    order = places[np.argsort(rows["order"].to_numpy()[places], kind="stable")]
    _, first = np.unique(hashes[order], return_index=True)
    order = order[np.sort(first)]
    stay = ~known
    stay[order[first_of_near(hashes[order], config.distance)]] = True
    return np.flatnonzero(stay)
