import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.fft import dct

from mimcore.data.header import BrokenImageError
from mimcore.data.perceptual import perceptual_hash


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def reference(data: bytes) -> int:
    """As the ImageHash library computes it, in floating point with SciPy."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    low = dct(dct(pixels, axis=0), axis=1)[:8, :8]
    return int("".join("01"[bit] for bit in (low > np.median(low)).ravel().astype(int)), 2)


def test_it_is_that_of_imagehash(picture: Any) -> None:
    for number in range(50):
        data = picture(number, 96, 64)
        # A frequency next to the median may fall on the other side.
        assert (perceptual_hash(data) ^ reference(data)).bit_count() <= 2


def test_golden_hash() -> None:
    values = (np.multiply.outer(np.arange(32) + 3, np.arange(32) ** 2) % 251).astype(np.uint8)
    assert perceptual_hash(encoded(Image.fromarray(values))) == 0x8027877587F29D4D


def test_copies_are_near_and_others_are_not(picture: Any) -> None:
    originals = [picture(number, 400, 300) for number in range(30)]
    hashes = np.array([perceptual_hash(data) for data in originals], np.uint64)
    for data, found in zip(originals, hashes.tolist(), strict=True):
        with Image.open(io.BytesIO(data)) as image:
            copies = [encoded(image, "JPEG", quality=60), encoded(image.resize((160, 120)), "JPEG", quality=80)]
        assert all((perceptual_hash(copy) ^ found).bit_count() <= 8 for copy in copies)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])[np.triu_indices(30, 1)]
    assert apart.min() > 8


def test_orientation_and_kind_do_not_matter(picture: Any) -> None:
    data = picture(3, 64, 48)
    with Image.open(io.BytesIO(data)) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
        assert perceptual_hash(turned) == perceptual_hash(data)
        assert perceptual_hash(encoded(image.convert("RGBA"))) == perceptual_hash(data)
        assert perceptual_hash(encoded(image, "WEBP", lossless=True)) == perceptual_hash(data)


def test_blank_images_have_one_hash() -> None:
    found = {perceptual_hash(encoded(Image.new("RGB", (n, 40), (n, n, n)))) for n in (30, 128, 255)}
    assert found == {1 << 63}


def test_pixels_that_cannot_be_decoded_are_told() -> None:
    with pytest.raises(BrokenImageError, match="cannot be decoded"):
        perceptual_hash(b"no image")


def test_the_index_has_it_where_the_pool_wants_it(
    tmp_path: Path, tar_pool: dict[str, Any], indexed: Any, picture: Any
) -> None:
    indexed(tmp_path, "tars", tar_pool)
    index = pq.read_table(tmp_path / "artifacts/index/tars/index.parquet")
    assert index["phash"].to_pylist() == [perceptual_hash(picture(number)) for number in range(12)]
    indexed(tmp_path, "plain", {**tar_pool, "perceptual_hash": False})
    assert "phash" not in pq.read_schema(tmp_path / "artifacts/index/plain/index.parquet").names
