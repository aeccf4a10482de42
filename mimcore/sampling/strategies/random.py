"""Uniform sampling without replacement: the images whose keys have the smallest hashes (bottom-k).

Cohen and Kaplan (2007), "Summarizing data using bottom-k sketches", section 2. Smaller draws of a seed are the
beginning of larger ones, the order of rows does not matter, and a grown pool changes a draw only by newcomers with
smaller hashes.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mimcore.data.hashing import bottom, salted
from mimcore.definition import Definition


class Config(Definition):
    """Options of the strategy."""

    #: Draws with different salts share images only by chance.
    salt: str = ""


def nested(config: Config) -> bool:
    """Smaller draws are parts of larger ones."""
    return True


def draw(rows: pa.Table, config: Config, images: int, seed: str) -> npt.NDArray[np.int64]:
    """Positions of the drawn rows in the order of the draw.

    Args:
        rows: N rows of an index; only ``key`` is looked at.
        config: options of the strategy.
        images: how many, at most N.
        seed: name of the replicate, such as ``s0``.

    Returns:
        ``images`` positions, int64.
    """
    return bottom(rows["key"], images, salted(config.salt, seed))
