"""Rows of an index: one split, or a fixed random part of it."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimcore.data.hashing import bottom
from mimcore.errors import UserError


def read_split(index_folder: Path, split: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of one split of an index, in its order.

    Args:
        index_folder: ``artifacts/index/<pool>``.
        split: ``train`` or ``val``.
        columns: the columns wanted, None for all; one that the index lacks is left out.

    Raises:
        UserError: the index is missing.
    """
    path = index_folder / "index.parquet"
    try:
        present = pq.read_schema(path).names
        wanted = None if columns is None else [name for name in columns if name in present]
        return pq.read_table(path, columns=wanted, filters=pc.field("split") == split, partitioning=None)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; bring it up to date with 'dvc repro'.") from None


def pick(rows: pa.Table, images: int | None, seed_text: str) -> pa.Table:
    """A fixed random part of ``rows``: those whose keys have the smallest hashes, smallest first.

    Args:
        rows: any table with a ``key``.
        images: how many; None for all.
        seed_text: parts of one text are nested, those of different texts independent.

    Raises:
        UserError: more images are asked for than there are.
    """
    images = rows.num_rows if images is None else images
    if images > rows.num_rows:
        raise UserError(f"{images} images are asked for, but there are {rows.num_rows}; ask for fewer.")
    return rows.take(pa.array(bottom(rows["key"], images, seed_text)))
