"""A share of the draw for each class of a column, or each quantile of its numbers; random within each (bottom-k).

``balanced``: the strata take turns, each giving an image in each round as long as it has any, so that shares are
equal but for one, and what a small stratum lacks is shared by the others. Over classes, a grown pool changes a draw by
newcomers alone.

``proportional``: the n-th image of a stratum of N has its turn at (n - 1/2) / N, so that the shares are those of
Webster's method (Balinski and Young, 1982, "Fair Representation", chapter 4): as near to proportion as whole numbers can
be, and without the 'Alabama paradox' of the largest remainder, by which a stratum can lose an image as the draw grows.
A grown pool moves the shares.

Smaller draws are the beginning of larger ones. Quantiles are those of the rows that are drawn from, so a grown pool
moves their bounds.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from mimcore.data.hashing import hash64, salted
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.bottom import Order
from mimcore.sampling.columns import complete, numbers
from mimcore.sampling.quantiles import quantiles
from mimcore.sampling.source import Scan


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


@dataclass(frozen=True)
class Facts:
    """What the order takes to be known of all rows: bounds of the quantiles, and images of each stratum."""

    bounds: npt.NDArray[np.float64]
    images: Counter[str]


def nested(config: Config) -> bool:
    """Smaller draws are parts of larger ones."""
    return True


def columns(config: Config) -> list[str]:
    """That of the strata."""
    return [config.column]


def survey(scan: Scan, config: Config) -> Facts:
    """Look at the column before the draw.

    Args:
        scan: works on all rows that are drawn from, in a pass of its own each time.
        config: options of the strategy.
    """
    bounds = np.empty(0)
    if config.quantiles:
        bounds = quantiles(lambda: scan(lambda rows: numbers(rows, config.column, "column")), config.quantiles)
    images: Counter[str] = Counter()
    if config.allocation == "proportional":
        for places, names in scan(lambda rows: _strata(rows, config, bounds)):
            images.update(dict(zip(names, np.bincount(places, minlength=len(names)).tolist(), strict=True)))
    return Facts(bounds, images)


def order(rows: pa.Table, config: Config, seed: str, facts: Facts) -> Order:
    """The stratum of each row.

    Raises:
        UserError: the column is missing, of another kind, or an image has no value; it begins with the option.
    """
    places, names = _strata(rows, config, facts.bounds)
    # Who goes first within a round is decided by the hash of a stratum's name, so that no class is favoured over all seeds.
    numbers = hash64(names, salted(config.salt, seed))
    if config.allocation == "balanced":
        return Order(strata=places, names=numbers)
    # A quantile may have no image.
    weights = np.array([max(facts.images[name], 1) for name in names], np.float64)
    return Order(strata=places, names=numbers, weights=weights)


def _strata(rows: pa.Table, config: Config, bounds: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Number of each row's stratum among those that are here, and the name of each."""
    if config.quantiles:
        values = numbers(rows, config.column, "column")
        # A bound is a value of the column, the last of its quantile.
        return np.searchsorted(bounds, values).astype(np.int64), [str(number) for number in range(config.quantiles)]
    classes = complete(rows, config.column, "column")
    kind = classes.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise UserError(
            f"column: '{config.column}' holds values of type {kind}, which are no classes; give 'quantiles', or name a"
            " column of text or whole numbers."
        )
    known = pc.unique(classes)
    return pc.index_in(classes, known).to_numpy().astype(np.int64), [str(value) for value in known.to_pylist()]
