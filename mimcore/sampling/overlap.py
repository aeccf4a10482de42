"""Images that are copies of validation images, by perceptual hash: what is trained on must not be tested on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from mimcore.data.hashing import U64
from mimcore.data.splits import read_split
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.columns import bits64, named
from mimcore.sampling.hamming import near_any
from mimcore.sampling.source import I64, Left, Source

#: The column of hashes that indexing makes.
_OWN = "phash"


class Overlap(Definition):
    """Which images count as copies, and whether they are left out.

    The validation split of a pool holds also what tasks of that pool are tested on.
    """

    #: Whether copies of validation images are left out before the first step; None: where the pool has the column.
    exclude: bool | None = None
    #: Column of 64-bit perceptual hashes.
    column: str = _OWN
    #: Bits in which copies may differ.
    distance: int = Field(default=0, ge=0, le=8)
    #: Other pools of the study whose validation splits must not be met either, such as those that tasks test on.
    pools: list[str] = Field(default_factory=list)


def leave_out(
    source: Source, left: Left, indexes: Mapping[str, Path], config: Overlap
) -> tuple[Left, dict[str, Any] | None]:
    """Find the rows that are copies of validation images, and leave them out.

    Args:
        source: of the rows.
        left: those that may be drawn.
        indexes: of the pools whose validation splits must not be met, the folder of each one's index by its name.
        config: what counts as a copy.

    Returns:
        the rows that are left; and for the card the options and the number of copies found of each pool's validation
        split, None where the pool has no such column.

    Raises:
        UserError: copies are to be found, and a pool has no perceptual hashes; it begins with the option.
    """
    optional = config.exclude is False or (config.exclude is None and not config.pools)
    if not indexes or (optional and config.column not in source.schema.names):
        return left, None
    named(source.schema.empty_table(), config.column, "column")
    held_out = {name: _hashes(index, name, config) for name, index in indexes.items()}
    images = dict.fromkeys(held_out, 0)

    def look(rows: pa.Table, numbers: I64) -> tuple[I64, dict[str, int]]:
        hashes, known = bits64(rows, config.column, "column")
        copies = {name: known & near_any(hashes, others, config.distance) for name, others in held_out.items()}
        return numbers[~np.logical_or.reduce(list(copies.values()))], {name: int(c.sum()) for name, c in copies.items()}

    def apart() -> Iterator[I64]:
        for numbers, found in source.scan(look, [config.column], left):
            for name, count in found.items():
                images[name] += count
            yield numbers

    others = left.only(apart())
    excluded = config.exclude is not False
    summary = {"column": config.column, "distance": config.distance, "excluded": excluded, "images": images}
    return others if excluded else left, summary


def _hashes(index: Path, pool: str, config: Overlap) -> U64:
    """Hashes of a pool's validation images: of the same column, else of the one that indexing makes."""
    try:
        held_out = read_split(index, "val", list({config.column, _OWN}))
    except UserError as error:
        raise UserError(f"pools: the validation images of pool '{pool}' are not known, since {error}") from None
    column = config.column if config.column in held_out.column_names else _OWN
    if column not in held_out.column_names:
        raise UserError(
            f"pools: the index of pool '{pool}' has no column '{config.column}'; set pools.{pool}.perceptual_hash to"
            " true, or take it out."
        )
    hashes, known = bits64(held_out, column, "column")
    return hashes[known]
