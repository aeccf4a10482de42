"""Images that are copies of validation images, by perceptual hash: what is trained on must not be tested on."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from mimcore.data.splits import read_split
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.columns import bits64
from mimcore.sampling.hamming import near_any


class Overlap(Definition):
    """Which images count as copies, and whether they are left out.

    The validation split of a pool holds also what tasks of that pool are tested on.
    """

    #: Whether copies of validation images are left out before the first step; None: where the pool has the column.
    exclude: bool | None = None
    #: Column of 64-bit perceptual hashes.
    column: str = "phash"
    #: Bits in which copies may differ.
    distance: int = Field(default=0, ge=0, le=8)
    #: Other pools of the study whose validation splits must not be met either, such as those that tasks test on.
    pools: list[str] = Field(default_factory=list)


def find_overlap(
    rows: pa.Table, pool: str, index: Path, config: Overlap
) -> tuple[npt.NDArray[np.bool_], dict[str, Any] | None]:
    """Which rows are copies of validation images.

    Args:
        rows: N rows that may be drawn.
        pool: name of their pool.
        index: folder of its index; those of other pools lie beside it.
        config: what counts as a copy.

    Returns:
        the rows to leave out, bool ``(N,)``; and for the card the options and the number of copies found of each
        pool's validation split, None where the pool has no such column.

    Raises:
        UserError: copies are to be found, and a pool has no perceptual hashes; it begins with the option.
    """
    optional = config.exclude is False or (config.exclude is None and not config.pools)
    if optional and config.column not in rows.column_names:
        return np.zeros(rows.num_rows, bool), None
    hashes, known = bits64(rows, config.column, "column")
    found = np.zeros(rows.num_rows, bool)
    images = {}
    for name in dict.fromkeys([pool, *config.pools]):
        held_out = read_split(index.parent / name, "val", [config.column])
        if config.column not in held_out.column_names:
            raise UserError(
                f"pools: the index of pool '{name}' has no column '{config.column}'; set pools.{name}.perceptual_hash to"
                " true, or take it out."
            )
        others, there = bits64(held_out, config.column, "column")
        copies = known & near_any(hashes, others[there], config.distance)
        images[name] = int(copies.sum())
        found |= copies
    excluded = config.exclude is not False
    summary = {"column": config.column, "distance": config.distance, "excluded": excluded, "images": images}
    return found if excluded else np.zeros_like(found), summary
