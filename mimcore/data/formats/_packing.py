"""One shard of another pool as a tar of smaller images, with all that is known of them in a Parquet file beside it."""

import io
import json
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from mimcore import artifacts
from mimcore.data.decode import U8, DecodeError, decode
from mimcore.data.jpeg import decode_jpeg
from mimcore.data.pool import Skipped
from mimcore.data.rows import REQUIRED
from mimcore.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

#: Goes up whenever the same options would give other images.
VERSION = 1

#: Kinds of images that keep their bytes where they are small already, with the ending of their name.
KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "GIF": "gif"}
#: Where the side Parquet says what it was made from.
_METADATA = b"mimcore_packed"
#: Images in the hands of each thread.
_AHEAD = 8


class About(NamedTuple):
    """What a packed shard says of itself."""

    etag: str
    split: str
    images: int
    #: Of the encoded images, before and after.
    source_bytes: int
    bytes: int
    #: Of the whole tar.
    tar_bytes: int
    skipped: list[Skipped]


class Smaller(NamedTuple):
    """An image as it is packed: its bytes, the ending of its name, width and height in pixels."""

    data: bytes
    suffix: str
    width: int
    height: int


def shrink(data: bytes, width: int, height: int, short_side: int, quality: int) -> Smaller:
    """Encode an image anew with a shorter side of ``short_side`` pixels, upright; one that is no larger keeps its bytes.

    Resampled as in ``mimcore.data.decode``: bicubic with antialiasing, a JPEG first halved by its decoder to at least
    twice the result. Encoded as JPEG with chroma at half of the height and width (4:2:0).

    Args:
        data: the encoded image.
        width: of the upright image, pixels.
        height: likewise.
        short_side: pixels.
        quality: of the JPEG, libjpeg's scale.

    Raises:
        DecodeError: as in ``decode``.
    """
    shortest = min(width, height)
    if shortest <= short_side:
        with Image.open(io.BytesIO(data)) as image:
            kind = str(image.format)
        if kind in KEPT:
            return Smaller(data, KEPT[kind], width, height)
    side = min(short_side, shortest)
    divisor = next(part for part in (8, 4, 2, 1) if part == 1 or shortest // part >= 2 * side)
    pixels: U8 | None = decode_jpeg(data, divisor, 3) if data[:2] == b"\xff\xd8" else None
    if pixels is None:
        pixels, divisor = np.ascontiguousarray(decode(data).transpose(1, 2, 0)), 1
    across, down = (_rounded(length * side, shortest) for length in (width, height))
    picture = Image.fromarray(pixels)
    if picture.size != (across, down):
        covered = (0, 0, min(width / divisor, picture.width), min(height / divisor, picture.height))
        picture = picture.resize((across, down), Image.Resampling.BICUBIC, box=covered)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return Smaller(file.getvalue(), "jpg", across, down)


def stem(key: str) -> str:
    """The name in a tar that stands for a key: a reader takes it up to its first dot, and paths have one form."""
    plain = PurePosixPath(key).as_posix() == key and not key.startswith("/")
    return quote(key, safe="/" if plain else "").replace(".", "%2E")


def pack_shard(
    tar: Path,
    etag: str,
    rows: pa.Table,
    skipped: list[Skipped],
    encoded: Iterable[tuple[int, bytes]],
    short_side: int,
    quality: int,
    threads: int,
) -> None:
    """Write a tar and its side Parquet, which comes last and says that both are whole.

    Args:
        tar: the file to write.
        etag: what the shard is made from.
        rows: of the source's index, N of one split.
        skipped: what the source's index sets aside.
        encoded: the images of the rows, in their order.
        short_side: pixels.
        quality: of the JPEG.
        threads: that decode and encode; they change only the speed.

    Raises:
        UserError: a key is there twice, an image cannot be read, or the disk is full.
    """
    keys = rows["key"].to_pylist()
    if len(set(keys)) < len(keys):
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise UserError(
            f"the key '{twice}' occurs twice in {rows['shard'][0]}; rename the images, so that each has its own."
        )
    sizes = list(zip(rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True))
    shards = rows["shard"].to_pylist()
    side = tar.with_suffix(".parquet")
    kept, made, total = [], list[Smaller](), 0

    def work(item: tuple[int, bytes]) -> Smaller | str:
        try:
            return shrink(item[1], *sizes[item[0]], short_side, quality)
        except DecodeError as error:
            return str(error)

    side.unlink(missing_ok=True)
    with artifacts.file(tar) as part, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as file:
        for place, found in enumerate(_mapped(work, encoded, threads)):
            key = keys[place]
            if isinstance(found, str) or not key:
                skipped = [
                    *skipped,
                    Skipped(key, shards[place], found if isinstance(found, str) else "its key is empty"),
                ]
                continue
            info = tarfile.TarInfo(f"{stem(key)}.{found.suffix}")
            info.size = len(found.data)
            file.addfile(info, io.BytesIO(found.data))
            kept.append(place)
            made.append(found._replace(data=b""))
            total += info.size
    rows = rows.take(pa.array(kept, pa.int64()))
    about = About(
        etag=etag,
        split=rows["split"][0].as_py() if rows.num_rows else "train",
        images=rows.num_rows,
        source_bytes=sum(rows["length"].to_pylist()),
        bytes=total,
        tar_bytes=tar.stat().st_size,
        skipped=skipped,
    )
    told = json.dumps({**about._asdict(), "skipped": [list(item) for item in skipped]})
    with artifacts.file(side) as part:
        pq.write_table(_known(rows, made).replace_schema_metadata({_METADATA: told}), part, compression="zstd")


def read_about(tar: Path) -> About | None:
    """What a packed shard says of itself; None if it is not there or not whole."""
    try:
        told = json.loads(pq.read_schema(tar.with_suffix(".parquet")).metadata[_METADATA])
        about = About(**{**told, "skipped": [Skipped(*item) for item in told["skipped"]]})
        return about if tar.stat().st_size == about.tar_bytes else None
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _known(rows: pa.Table, made: list[Smaller]) -> pa.Table:
    """What the source knows of its images, by the name in the tar, in pixels of the smaller image."""
    names = [name for name in rows.column_names if name not in {*REQUIRED, "phash"}]
    columns = {"key": pa.array([stem(key) for key in rows["key"].to_pylist()], pa.string())}
    columns |= {name: rows[name].combine_chunks() for name in names}
    widths, heights = (np.array(rows[name].to_pylist(), float) for name in ("width", "height"))
    across = np.array([image.width for image in made], float) / widths
    down = np.array([image.height for image in made], float) / heights
    scaled: dict[str, Callable[[Any, int], Any]] = {
        "boxes": lambda box, row: [box[0] * across[row], box[1] * down[row], box[2] * across[row], box[3] * down[row]],
        "box_areas": lambda area, row: area * across[row] * down[row],
        "masks": lambda mask, row: _resized_mask(mask, int(widths[row]), int(heights[row]), made[row]),
    }
    for name, scale in scaled.items():
        if name in columns:
            values = [
                None if items is None else [None if item is None else scale(item, row) for item in items]
                for row, items in enumerate(columns[name].to_pylist())
            ]
            columns[name] = pa.array(values, columns[name].type)
    return pa.table(columns)


def _resized_mask(counts: str, width: int, height: int, image: Smaller) -> str:
    """Compressed run lengths of a mask, by the nearest pixel."""
    if (image.width, image.height) == (width, height):
        return counts
    mask = coco_mask.decode({"size": [height, width], "counts": counts.encode()})
    small = Image.fromarray(np.asarray(mask, np.uint8)).resize((image.width, image.height), Image.Resampling.NEAREST)
    encoded: bytes = coco_mask.encode(np.asfortranarray(np.asarray(small, np.uint8)))["counts"]
    return encoded.decode()


def _mapped(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """``map`` in threads, in order, with a few items of each thread in memory."""
    if threads <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="packing") as executor:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(executor.submit(work, item))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
