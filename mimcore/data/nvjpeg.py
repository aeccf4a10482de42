"""Crops of JPEGs that the device decodes: workers read bytes and draw boxes, nvJPEG does the rest on the GPU.

Its pixels are not libjpeg-turbo's, and a crop is always cut from the image at full size and resampled in floating point:
which of the two decodes is part of a definition. What nvJPEG is not asked for is cropped by a worker, by the rule of
``mimcore.data.views``: all that is no JPEG of YCbCr or grey, that is turned by EXIF or XMP, or that is enormous. So is,
in the training process, a JPEG on which nvJPEG fails.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.io import ImageReadMode

from mimcore.data.crops import Interpolation
from mimcore.data.decode import MAX_PIXELS, U8, DecodeError, Shape
from mimcore.data.draws import I64
from mimcore.data.jpeg import may_be_turned
from mimcore.data.loader import Encoded
from mimcore.data.views import RandomCrops, crops_of
from mimcore.errors import UserError

#: Columns of the table before the bytes: where those of a sample begin and how many they are, then its box.
_OFFSET, _LENGTH, _BOX = 0, 1, slice(2, 6)


@dataclass(frozen=True)
class EncodedCrops(RandomCrops):
    """The boxes of ``RandomCrops``, beside the images that they are of, still encoded."""

    def get(self, images: Encoded, positions: I64, samples: I64, repeats: int = 1) -> U8:
        """Read the images of n samples; arguments and errors as in ``RandomCrops.get``.

        Returns:
            uint8, one dimension, so that it crosses processes as pixels do: n, and a table of n rows, int64 (offset and
            length in what follows; top, left, height and width of the crop), then encoded images, each once. A length
            of 0 says that the pixels of the crop lie there, decoded, ``(H, W, C)``.
        """
        plan = self.plan(images, positions, samples, repeats)
        table = np.zeros((len(samples), 6), np.int64)
        parts: list[bytes] = []
        end = 0
        for k, (position, data) in enumerate(images.encoded(positions[plan.starts])):
            places, shown = plan.shown(k)
            table[places, _BOX] = shown
            if _is_plain(data):
                table[places, _OFFSET], table[places, _LENGTH] = end, len(data)
                parts.append(data)
                end += len(data)
                continue
            with images.explained(position):
                crops = crops_of(
                    data,
                    shown.tolist(),
                    int(plan.shrinks[k]),
                    images.channels,
                    images.shape,
                    interpolation=self.interpolation,
                )
            for place, crop in zip(places, crops, strict=True):
                table[place, _OFFSET] = end
                parts.append(crop.tobytes())
                end += crop.nbytes
        head = np.int64(len(samples)).tobytes() + table.tobytes()
        return np.frombuffer(bytearray(b"".join([head, *parts])), np.uint8)


def decoded(
    made: Iterable[U8],
    shape: Shape,
    channels: int,
    device: torch.device,
    interpolation: Interpolation = "bicubic",
) -> Iterator[Tensor]:
    """Yield the batches of ``EncodedCrops``: uint8 ``(B, C, H, W)`` on the device.

    On a CPU libjpeg-turbo takes nvJPEG's place, for tests.
    """
    for batch in made:
        yield _crops(batch, shape, channels, device, interpolation)


def refuse_without_gpu(device: torch.device) -> None:
    """Stop a run whose JPEGs a GPU has to decode.

    Raises:
        UserError: the device is none.
    """
    if device.type != "cuda":
        raise UserError(
            "jpeg_decoder: 'nvjpeg' of the run's schedule decodes on a GPU, and this process has none; train where there is"
            " one, or write 'jpeg_decoder: turbo', which is another definition."
        )


def _is_plain(data: bytes) -> bool:
    if data[:2] != b"\xff\xd8" or may_be_turned(data):
        return False
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    return colours in ("YCbCr", "Gray") and height * width <= MAX_PIXELS


def _crops(batch: U8, shape: Shape, channels: int, device: torch.device, interpolation: Interpolation) -> Tensor:
    count = int(batch[:8].view(np.int64)[0])
    table = batch[8 : 8 * (1 + 6 * count)].view(np.int64).reshape(count, 6)
    held = batch[8 * (1 + 6 * count) :]
    spans = dict.fromkeys((int(row[_OFFSET]), int(row[_LENGTH])) for row in table if row[_LENGTH])
    data = [torch.from_numpy(held[start : start + length]) for start, length in spans]
    images = dict(zip(spans, _decode(data, channels, device), strict=True))
    crops = []
    for row in table:
        start, length = int(row[_OFFSET]), int(row[_LENGTH])
        box = row[_BOX].tolist()
        whole = images.get((start, length))
        if whole is not None:
            crops.append(_resample(whole, box, shape, interpolation))
            continue
        if length:  # nvJPEG failed
            (crop,) = _on_cpu(held[start : start + length].tobytes(), box, channels, shape, interpolation)
        else:
            crop = held[start : start + shape[0] * shape[1] * channels].reshape(*shape, channels)
        crops.append(torch.from_numpy(crop.transpose(2, 0, 1)).to(device))
    return torch.stack(crops)


def _on_cpu(data: bytes, box: list[int], channels: int, shape: Shape, interpolation: Interpolation) -> list[U8]:
    try:
        return crops_of(data, [box], 1, channels, shape, interpolation=interpolation)
    except DecodeError as error:
        raise UserError(
            f"an image of {len(data)} bytes can be decoded neither by nvJPEG nor on the CPU ({error}); 'jpeg_decoder: turbo'"
            " names it."
        ) from error


def _decode(data: list[Tensor], channels: int, device: torch.device) -> list[Tensor | None]:
    """Decode encoded images, uint8 ``(C, height, width)`` on the device; None for one that fails."""
    if not data:
        return []
    try:
        return list(_operator(data, channels, device))
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        # Nothing comes back of a list in which one fails.
        return [None] if len(data) == 1 else [one for part in data for one in _decode([part], channels, device)]


def _operator(data: list[Tensor], channels: int, device: torch.device) -> list[Tensor]:
    # The operators under torchvision.io.decode_jpeg, which warns with each call that torchcodec will take its place.
    mode = (ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY).value
    if device.type == "cuda":
        found: list[Tensor] = torch.ops.image.decode_jpegs_cuda(data, mode, device)
        return found
    return [torch.ops.image.decode_jpeg(one, mode, False) for one in data]


def _resample(whole: Tensor, box: list[int], shape: Shape, interpolation: Interpolation) -> Tensor:
    """Cut and resample with antialiasing, as ``mimcore.data.views.resample`` does on a CPU."""
    top, left, height, width = box
    part = whole[None, :, top : top + height, left : left + width].float()
    found = functional.interpolate(part, shape, mode=interpolation, antialias=True)
    return found.round_().clamp_(0, 255).to(torch.uint8)[0]
