import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimcore.data.decode import DecodeError, decode
from mimcore.data.header import BrokenImageError, inspect

RAMP = np.arange(16 * 24, dtype=np.uint8).reshape(16, 24)


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def test_colours_come_through(picture: Any) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(picture(1))))
    assert np.array_equal(decode(picture(1)), pixels.transpose(2, 0, 1))
    assert decode(picture(1)).flags.c_contiguous


def test_grey_and_sixteen_bits_keep_the_high_byte() -> None:
    expected = np.broadcast_to(RAMP, (3, 16, 24))
    assert np.array_equal(decode(encoded(Image.fromarray(RAMP))), expected)
    deep = Image.fromarray((RAMP.astype(np.uint16) << 8) + 77)
    assert deep.mode == "I;16"
    assert np.array_equal(decode(encoded(deep)), expected)
    assert np.array_equal(decode(encoded(deep, "TIFF")), expected)


def test_palettes_are_looked_up(picture: Any) -> None:
    image = Image.open(io.BytesIO(picture(2))).quantize(16)
    assert np.array_equal(decode(encoded(image)), np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_transparency_is_laid_on_white() -> None:
    colours = np.zeros((16, 24, 4), np.uint8)
    colours[..., 0] = 200
    colours[..., 3] = RAMP
    opacity = RAMP / 255
    red = 200 * opacity + 255 * (1 - opacity)
    green = 255 * (1 - opacity)
    found = decode(encoded(Image.fromarray(colours))).astype(float)
    assert np.abs(found - np.stack([red, green, green])).max() <= 1
    palette = Image.fromarray(np.where(RAMP > 99, 1, 0).astype(np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    found = decode(encoded(palette, "GIF", transparency=0))
    assert np.array_equal(found[:, 0, 0], [255, 255, 255])
    assert np.array_equal(found[:, 8, 0], [40, 50, 60])


def test_cmyk() -> None:
    ink = np.zeros((16, 24, 4), np.uint8)
    ink[..., 0], ink[..., 3] = 255, 0
    found = decode(encoded(Image.fromarray(ink, "CMYK"), "JPEG", quality=95))
    # All cyan, no other ink: no red.
    assert np.abs(found.astype(int) - np.array([0, 255, 255])[:, None, None]).max() <= 3
    assert inspect(encoded(Image.fromarray(ink, "CMYK"), "JPEG")) == (24, 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, kind: str) -> None:
    # The Exif standard, tag 0x0112: which side of the stored picture is the top and which the left.
    upright = np.full((32, 48, 3), 200, np.uint8)
    upright[:12, :20] = (250, 20, 20)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **how)
    assert inspect(data) == (48, 32)
    found = decode(data).astype(int)
    assert found.shape == (3, 32, 48)
    assert np.abs(found[:, 3:9, 3:17] - np.array([250, 20, 20])[:, None, None]).max() < 12
    assert np.abs(found[:, 14:, 22:] - 200).max() < 12


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert inspect(data) == (16, 16)
        assert decode(data)[:, 8, 8].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize(("width", "height"), [(24, 16), (16, 24), (16, 16), (16, 48)])
@pytest.mark.parametrize("image_size", [8, 16, 40])
def test_square_is_the_short_side_resized_and_the_centre_cut_out(
    picture: Any, width: int, height: int, image_size: int
) -> None:
    data = picture(3, width, height)
    # Sizes where resizing and cutting both come out in whole pixels.
    new_width, new_height = width * image_size // 16, height * image_size // 16
    left, top = (new_width - image_size) // 2, (new_height - image_size) // 2
    resized = Image.open(io.BytesIO(data)).resize((new_width, new_height), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((left, top, left + image_size, top + image_size)))
    # A weight may round the other way.
    assert np.abs(decode(data, image_size).astype(int) - expected.transpose(2, 0, 1)).max() <= 1


def test_square_of_the_same_side_is_cut_out_of_odd_images(picture: Any) -> None:
    pixels = decode(picture(3, 40, 17))
    assert np.array_equal(decode(picture(3, 40, 17), 17), pixels[:, :, 11:28])


def test_fast_way_for_large_jpegs_is_close_to_the_slow_one(picture: Any) -> None:
    data = picture(4, 640, 480, "JPEG", quality=95)
    slow = decode(encoded(Image.open(io.BytesIO(data))), 48).astype(int)
    difference = np.abs(decode(data, 48).astype(int) - slow)
    assert difference.max() <= 4
    assert difference.mean() < 1


def test_what_cannot_be_decoded_has_a_reason(picture: Any) -> None:
    for data, reason in [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (picture(0, kind="JPEG")[:-80], "cannot be decoded"),
        (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "floating-point"),
        (bomb(), "decompression bomb"),
    ]:
        with pytest.raises(DecodeError, match=reason):
            decode(data)


def bomb() -> bytes:
    """A PNG that says it has 400 megapixels."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_cut_anywhere_is_found(picture: Any, kind: str) -> None:
    data = picture(5, 64, 48, kind)
    assert inspect(data) == (64, 48)
    for length in [*range(0, len(data), max(1, len(data) // 60)), len(data) - 2]:
        if kind == "GIF" and length > len(data) - 4:
            continue  # Nothing of the picture is lost.
        with pytest.raises(BrokenImageError):
            inspect(data[:length])


def test_a_thumbnail_in_the_header_does_not_hide_a_cut(picture: Any) -> None:
    thumbnail = picture(6, 16, 16, "JPEG")
    exif = b"Exif\x00\x00" + thumbnail
    whole = picture(6, 64, 48, "JPEG", exif=exif)
    assert whole.count(b"\xff\xd9") == 2
    assert inspect(whole) == (64, 48)
    assert inspect(whole + b"trailing bytes") == (64, 48)
    with pytest.raises(BrokenImageError, match="truncated"):
        inspect(whole[:-30])


def test_other_reasons(picture: Any) -> None:
    flipped = bytearray(picture(7, 64, 48))
    flipped[len(flipped) // 2] ^= 1
    for data, reason in [
        (b"", "empty file"),
        (b"GIF?", "not an image"),
        (picture(0, 1, 1), "1x1 pixels"),
        (picture(0, 7, 100), "7x100 pixels"),
        (bomb(), "decompression bomb"),
        (bytes(flipped), "broken"),
        (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "floating-point"),
    ]:
        with pytest.raises(BrokenImageError, match=reason):
            inspect(data)


@pytest.mark.parametrize(
    ("shape", "box"), [((8, 16), (0, 2, 24, 14)), ((10, 5), (8, 0, 16, 16)), ((8, 40), (0, 6, 24, 10))]
)
def test_a_shape_is_the_largest_centred_part_of_that_ratio(
    picture: Any, shape: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    image = Image.open(io.BytesIO(picture(3)))  # 24 x 16
    expected = np.asarray(image.resize(shape[::-1], Image.Resampling.BICUBIC, box=box)).transpose(2, 0, 1)
    assert np.array_equal(decode(picture(3), shape), expected)


def test_one_channel_is_luma(picture: Any) -> None:
    red, green, blue = decode(picture(1)).astype(float)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    found = decode(picture(1), channels=1)
    assert found.shape == (1, 16, 24)
    assert np.abs(found[0] - luma).max() <= 1
    assert np.array_equal(decode(encoded(Image.fromarray(RAMP)), channels=1)[0], RAMP)
