"""Small pictures of chosen rows, as parts of a page."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from mimcore.data.decode import DecodeError, to_rgb
from mimcore.data.loader import IMAGE_COLUMNS, Images

#: Height of a picture and greatest width, pixels; a page shows them at half of it on a dense screen.
_HEIGHT, _WIDEST = 128, 256
_BATCH = 1 << 15


class Picture(NamedTuple):
    """A picture on a page: a ``data:`` address, what stands under it and what appears when it is pointed at."""

    source: str
    note: str
    title: str


def take(file: Path, places: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Rows of a Parquet file by where they stand, in the order of ``places``; a column that it lacks is left out."""
    parquet = pq.ParquetFile(file)
    wanted = [name for name in columns if name in parquet.schema_arrow.names]
    distinct, inverse = np.unique(np.asarray(places, np.int64), return_inverse=True)
    found, first = [parquet.schema_arrow.empty_table().select(wanted)], 0
    for number in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(number).num_rows
        here = distinct[(distinct >= first) & (distinct < first + count)]
        if len(here):
            found.append(parquet.read_row_group(number, columns=wanted).take(pa.array(here - first)))
        first += count
    return pa.concat_tables(found).take(pa.array(inverse))


def pictures(
    file: Path, places: Sequence[int], notes: Sequence[str], pool: Mapping[str, Any], root: Path
) -> list[Picture]:
    """Pictures of rows, upright and whole.

    Args:
        file: manifest or index.
        places: where the rows stand in it.
        notes: what stands under each.
        pool: ``pools.<name>`` of ``params.yaml``.
        root: the folder that relative pool paths count from.

    Raises:
        UserError: an image is missing or has changed.
    """
    if not len(places):
        return []
    rows = take(file, places, (*IMAGE_COLUMNS, "width", "height", "caption"))
    images = Images(pool, rows, 1, root)
    found = []
    for (position, data), note in zip(images.encoded(np.arange(len(images))), notes, strict=True):
        row = {name: rows[name][position].as_py() for name in rows.column_names}
        with images.explained(position):
            source = _thumbnail(data)
        caption = f": {row['caption']}" if row.get("caption") else ""
        found.append(Picture(source, note, f"{row['key']}, {row['width']}x{row['height']}{caption}"))
    return found


def _thumbnail(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (2 * _WIDEST, 2 * _HEIGHT))
            picture = to_rgb(ImageOps.exif_transpose(image))
    except DecodeError:
        raise
    except Exception as error:  # as in mimcore.data.decode
        raise DecodeError(f"cannot be decoded: {error}") from error
    scale = min(_HEIGHT / picture.height, _WIDEST / picture.width, 1.0)
    side = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    file = io.BytesIO()
    picture.resize(side, Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
