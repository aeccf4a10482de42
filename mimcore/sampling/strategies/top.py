"""The images with the highest scores, or the lowest; equal scores go by the hash of the key.

As CLIP score filtering keeps a fraction: DataComp (Gadre et al., 2023, section 3.4). Smaller draws are the beginning of
larger ones, the order of rows does not matter, and a grown pool changes a draw by newcomers alone.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mimcore.data.hashing import bottom, salted
from mimcore.definition import Definition
from mimcore.sampling.columns import numbers


class Config(Definition):
    """Options of the strategy."""

    #: Column of the scores. Each image must have one.
    column: str
    #: The highest first; false takes the lowest.
    descending: bool = True
    #: Decides with the seed among equal scores.
    salt: str = ""


def nested(config: Config) -> bool:
    """Smaller draws are parts of larger ones."""
    return True


def draw(rows: pa.Table, config: Config, images: int, seed: str) -> npt.NDArray[np.int64]:
    """Positions of the drawn rows, the best first.

    Args:
        rows: N rows of an index; ``key`` and the column of scores are looked at.
        config: options of the strategy.
        images: how many, at most N.
        seed: name of the replicate, such as ``s0``.

    Returns:
        ``images`` positions, int64.

    Raises:
        UserError: the column is missing, not of numbers, or some images have no score; it begins with the option.
    """
    scores = numbers(rows, config.column, "column")
    order = bottom(rows["key"], rows.num_rows, salted(config.salt, seed))
    by_score = np.argsort((-scores if config.descending else scores)[order], kind="stable")
    return order[by_score[:images]]
