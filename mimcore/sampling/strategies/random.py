"""Uniform sampling without replacement: the images whose keys have the smallest hashes (bottom-k).

Cohen and Kaplan (2007), "Summarizing data using bottom-k sketches", section 2. Smaller draws of a seed are the
beginning of larger ones, the order of rows does not matter, and a grown pool changes a draw only by newcomers with
smaller hashes.
"""

from typing import Any

import pyarrow as pa

from mimcore.definition import Definition
from mimcore.sampling.bottom import Order


class Config(Definition):
    """Options of the strategy."""

    #: Draws with different salts share images only by chance.
    salt: str = ""


def nested(config: Config) -> bool:
    """Smaller draws are parts of larger ones."""
    return True


def columns(config: Config) -> list[str]:
    """None but the key."""
    return []


def order(rows: pa.Table, config: Config, seed: str, facts: Any) -> Order:
    """Nothing but the hash counts."""
    return Order()
