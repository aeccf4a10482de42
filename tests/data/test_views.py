"""Crops out of whole images: against a full decode, an exact cut and a resampling in floating point."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.nn import functional

from mimcore.data.crops import Interpolation
from mimcore.data.decode import DecodeError, decode
from mimcore.data.draws import draw_boxes
from mimcore.data.jpeg import decode_jpeg
from mimcore.data.loader import Images
from mimcore.data.splits import read_split
from mimcore.data.views import RandomCrops, cut, decode_scaled, resample, shrink

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def encoded(image: Image.Image, kind: str = "JPEG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    from sklearn.datasets import load_sample_images

    return Image.fromarray(load_sample_images().images[0])  # 640 x 427


def reference(whole: np.ndarray, box: list[int], shape: tuple[int, int]) -> np.ndarray:
    """Exact cut of ``(C, H, W)`` and antialiased bicubic resampling in float64, rounded."""
    top, left, height, width = box
    part = torch.from_numpy(whole[:, top : top + height, left : left + width].astype(np.float64))
    found = functional.interpolate(part[None], shape, mode="bicubic", antialias=True)[0]
    return found.round().clamp(0, 255).numpy()


def on_grid(box: list[int], divisor: int, height: int, width: int) -> list[int]:
    """The box with its edges on the pixels of the shrunken image: at most half of one from where they were."""
    top, left = (round(place / divisor + 1e-9) * divisor for place in box[:2])
    bottom, right = (round((box[k] + box[k + 2]) / divisor + 1e-9) * divisor for k in (0, 1))
    return [top, left, min(bottom, height) - top, min(right, width) - left]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def crop(data: bytes, box: list[int], shape: tuple[int, int], channels: int = 3) -> tuple[np.ndarray, int]:
    divisor = int(shrink(np.array([[box]]), shape)[0])
    pixels, divisor = decode_scaled(data, divisor, channels, box[0] + box[2])
    return resample(cut(pixels, box, divisor), shape).transpose(2, 0, 1), divisor


@pytest.mark.parametrize(
    ("side", "divisor", "least"),
    # A DCT that halves has a filter of its own, sharper than the bicubic one.
    [(256, 1, 48), (150, 2, 31), (90, 4, 31), (48, 8, 31)],
)
@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_crops_are_close_to_the_float_reference(
    photograph: Image.Image, side: int, divisor: int, least: float, how: dict[str, Any]
) -> None:
    data = encoded(photograph, quality=92, **how)
    whole = decode(data)
    for box in ([3, 17, 391, 407], [27, 191, 385, 389]):
        found, used = crop(data, box, (side, side))
        assert used == divisor
        assert psnr(found, reference(whole, on_grid(box, divisor, 427, 640), (side, side))) > least


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_that_are_left_out_change_none_above(
    photograph: Image.Image, subsampling: int, divisor: int, channels: int
) -> None:
    for how in ({}, {"restart_marker_blocks": 7}, {"progressive": True}):
        data = encoded(photograph, subsampling=subsampling, **how)
        whole = decode_jpeg(data, divisor, channels)
        assert whole is not None
        assert whole.shape == (-(-427 // divisor), -(-640 // divisor), channels)
        for rows in (1, 40, 97, 200, 410, 427):
            part = decode_jpeg(data, divisor, channels, rows)
            assert part is not None
            assert np.array_equal(part[: -(-rows // divisor)], whole[: -(-rows // divisor)])
        early = decode_jpeg(data, divisor, channels, 40)
        assert early is not None
        assert (len(early) < len(whole)) == ("progressive" not in how)


def kinds(photograph: Image.Image) -> dict[str, bytes]:
    """One picture in every kind of file that the rule names."""
    small = photograph.resize((160, 112))
    grey, clear = small.convert("L"), small.copy()
    clear.putalpha(grey)
    deep = Image.fromarray((np.asarray(grey).astype(np.uint16) << 8) + 99)
    exif = Image.Exif()
    found = {}
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        found[f"orientation {orientation}"] = encoded(small, quality=95, exif=exif.tobytes())
    found |= {
        "png": encoded(small, "PNG"),
        "grey": encoded(grey, quality=95),
        "cmyk": encoded(small.convert("CMYK"), quality=95),
        "rgb": encoded(small, quality=95, keep_rgb=True),
        "palette": encoded(small.quantize(64), "PNG"),
        "sixteen bits": encoded(deep, "PNG"),
        "alpha": encoded(clear, "PNG"),
        "webp": encoded(small, "WEBP", lossless=True),
        "animation": encoded(small, "GIF", save_all=True, append_images=[grey]),
    }
    damaged = bytearray(encoded(small, quality=95))
    damaged[len(damaged) // 4 : len(damaged) // 4 + 40] = bytes(40)
    found["damaged"] = bytes(damaged)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_one_rule_for_every_kind_of_image(photograph: Image.Image, channels: int) -> None:
    """A crop is what the same crop of the whole image would be, whichever way it was decoded."""
    for name, data in kinds(photograph).items():
        whole = decode(data, channels=channels)
        height, width = whole.shape[1:]
        box = [height // 8, width // 5, height // 2, width // 2]
        found, _ = crop(data, box, (64, 48), channels)
        # The luma that a JPEG stores is not quite that of the RGB it becomes, where colours are clipped.
        assert np.abs(found - reference(whole, box, (64, 48))).mean() < (1 if channels == 3 else 2), name
        everything, _ = decode_scaled(data, 1, channels)
        assert everything.shape == (height, width, channels)
        difference = np.abs(everything.transpose(2, 0, 1).astype(int) - whole)
        assert difference.max() == 0 if channels == 3 else difference.mean() < 2, name


def test_what_cannot_be_decoded_has_a_reason(photograph: Image.Image) -> None:
    data = encoded(photograph)
    for bad, reason in [(b"", "not an image"), (b"\xff\xd8\xff", "not an image"), (data[:-5000], "cannot be decoded")]:
        with pytest.raises(DecodeError, match=reason):
            decode_scaled(bad, 2, 3, 40)


def test_turned_images_are_shrunk_as_well(photograph: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photograph, exif=exif.tobytes())
    box = [32, 44, 420, 360]
    found, divisor = crop(data, box, (60, 60))
    assert divisor == 4
    assert psnr(found, reference(decode(data), box, (60, 60))) > 28


@pytest.mark.parametrize(("repeats", "size"), [(1, 32), (3, (24, 40))])
def test_samples_show_their_own_crops(
    tmp_path: Path, photograph: Image.Image, write_tar: Any, indexed: Any, repeats: int, size: Any
) -> None:
    members = {}
    for number in range(4):
        picture = photograph.crop((40 * number, 10 * number, 300 + 50 * number, 240 + 40 * number))
        members[f"{number}.jpg"] = encoded(picture, quality=95)
    write_tar(tmp_path / "pool/0.tar", members)
    options = {"format": "tar", "path": "pool", "val_images": 1}
    indexed(tmp_path, "tars", options)
    rows: pa.Table = read_split(tmp_path / "artifacts/index/tars", "train")
    images = Images(options, rows, size, tmp_path)
    samples = np.arange(6)
    positions = np.array([2, 0, 1, 2, 2, 0])[samples // repeats]
    found = RandomCrops("s0", SCALE, RATIO).get(images, positions, samples, repeats)
    assert found.shape == (6, 3, *images.shape)
    assert found.dtype == np.uint8
    tall, wide = images.sizes(positions)
    boxes = draw_boxes("s0", samples, tall, wide, SCALE, RATIO).tolist()
    for pixels, position, box in zip(found, positions, boxes, strict=True):
        assert psnr(pixels, reference(images.raw(int(position)), box, images.shape)) > 27


@pytest.mark.parametrize(("interpolation", "filter_"), [("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR)])
def test_the_filter_is_pillows(
    photograph: Image.Image, interpolation: Interpolation, filter_: Image.Resampling
) -> None:
    """What torchvision's transforms call for images that are no tensors, as in the released code of MAE and SimMIM."""
    for shape in ((64, 48), (600, 700)):
        ours = resample(np.array(photograph.convert("RGB")), shape, interpolation).astype(int)
        theirs = np.asarray(photograph.convert("RGB").resize((shape[1], shape[0]), filter_)).astype(int)
        assert np.abs(ours - theirs).max() <= 2  # rounding between rows and columns
        assert (ours != theirs).mean() < 0.03
