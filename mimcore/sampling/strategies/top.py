"""The images with the highest scores, or the lowest; equal scores go by the hash of the key.

As CLIP score filtering keeps a fraction: DataComp (Gadre et al., 2023, section 3.4). Smaller draws are the beginning of
larger ones, the order of rows does not matter, and a grown pool changes a draw by newcomers alone.
"""

from typing import Any

import pyarrow as pa

from mimcore.definition import Definition
from mimcore.sampling.bottom import Order
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


def columns(config: Config) -> list[str]:
    """That of the scores."""
    return [config.column]


def order(rows: pa.Table, config: Config, seed: str, facts: Any) -> Order:
    """The best first.

    Raises:
        UserError: the column is missing, not of numbers, or an image has no score; it begins with the option.
    """
    scores = numbers(rows, config.column, "column")
    return Order(scores=-scores if config.descending else scores)
