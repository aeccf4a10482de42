"""A share of the draw for each class of a column, or each quantile of its numbers; random within each (bottom-k).

``balanced``: the strata take turns, each giving an image in each round as long as it has any, so that shares are
equal but for one, and what a small stratum lacks is shared by the others. Smaller draws are the beginning of larger
ones, and over classes a grown pool changes a draw by newcomers alone.

``proportional``: shares are in proportion to the strata, rounded by the largest remainder (Cochran, 1977, "Sampling
Techniques", section 5.9). Draws are not nested in general: a stratum's share can fall by one as the draw grows
(the 'Alabama paradox'), and a grown pool moves the shares.

Quantiles are those of the rows that are drawn from, so a grown pool moves their bounds.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from mimcore.data.hashing import bottom, salted
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.columns import complete, numbers
from mimcore.sampling.strata import in_turns, largest_remainder, ranks


class Config(Definition):
    """Options of the strategy."""

    #: Column of the classes (text, whole numbers, true or false), or of numbers if ``quantiles`` are given. Each image
    #: must have a value.
    column: str = "label"
    allocation: Literal["balanced", "proportional"] = "balanced"
    #: Strata of equal numbers of images by the column's value; equal values are in one stratum. None: by class.
    quantiles: int | None = Field(None, ge=2)
    #: Draws with different salts share images only by chance.
    salt: str = ""


def nested(config: Config) -> bool:
    """Whether smaller draws are parts of larger ones."""
    return config.allocation == "balanced"


def draw(rows: pa.Table, config: Config, images: int, seed: str) -> npt.NDArray[np.int64]:
    """Positions of the drawn rows in the order of the draw.

    Args:
        rows: N rows of an index; ``key`` and the column are looked at.
        config: options of the strategy.
        images: how many, at most N.
        seed: name of the replicate, such as ``s0``.

    Returns:
        ``images`` positions, int64.

    Raises:
        UserError: the column is missing, of another kind, or some images have no value; it begins with the option.
    """
    seed = salted(config.salt, seed)
    order = bottom(rows["key"], rows.num_rows, seed)
    strata, names = _quantiles(rows, config.column, config.quantiles) if config.quantiles else _classes(rows, config)
    # Who gives one more is decided by the hash of a stratum's name, so that no class is favoured over all seeds.
    turns = np.empty(len(names), np.int64)
    turns[bottom(names, len(names), seed)] = np.arange(len(names))
    if config.allocation == "balanced":
        return in_turns(order, strata, turns)[:images]
    if not images:
        return order[:0]
    shares = largest_remainder(np.bincount(strata, minlength=len(names)), images, turns)
    found = strata[order]
    return order[ranks(found) < shares[found]]


def _classes(rows: pa.Table, config: Config) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Number of each row's class, and the name of each."""
    values = complete(rows, config.column, "column")
    kind = values.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise UserError(
            f"column: '{config.column}' holds values of type {kind}, which are no classes; give 'quantiles', or name a"
            " column of text or whole numbers."
        )
    classes = pc.unique(values)
    return pc.index_in(values, classes).to_numpy().astype(np.int64), [str(value) for value in classes.to_pylist()]


def _quantiles(rows: pa.Table, column: str, quantiles: int) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Number of each row's quantile, and the name of each."""
    values = numbers(rows, column, "column")
    names = [str(number) for number in range(quantiles)]
    if not len(values):
        return np.empty(0, np.int64), names
    # Bounds are values of the column themselves, so that none is rounded.
    bounds = np.quantile(values, np.arange(1, quantiles) / quantiles, method="inverted_cdf")
    return np.searchsorted(bounds, values).astype(np.int64), names
