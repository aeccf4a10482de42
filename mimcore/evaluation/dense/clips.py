"""Frames of clips, chosen and cropped for training and testing."""

import numpy as np
import torch
from torch import Tensor

from mimcore.data.clips import read_frames
from mimcore.data.draws import draw_boxes
from mimcore.evaluation.augment import resize
from mimcore.evaluation.task import Images

#: Least and greatest width over height of a crop (torchvision's default, used by VideoMAE).
CROP_RATIO = (3 / 4, 4 / 3)


def frame_numbers(frames: int, count: int, stride: int, part: float) -> np.ndarray:
    """Choose ``count`` frames, ``stride`` apart, that begin at a part of what the clip leaves room for.

    Of a clip that is shorter than these, the last frame is repeated (SlowFast's ``temporal_sampling``, and VideoMAE's in training).

    Args:
        frames: of the clip.
        count: frames that are wanted.
        stride: frames from one to the next.
        part: 0 begins at the start, 1 ends with the clip.

    Returns:
        int64 ``(count,)``, rising.
    """
    room = max(0, frames - 1 - (count - 1) * stride)
    return np.minimum(round(part * room) + stride * np.arange(count), frames - 1)


class Clips:
    """Random and regular views of the clips of a table, as uint8 ``(T, 3, H, W)``."""

    def __init__(self, images: Images, shape: tuple[int, int], count: int, stride: int) -> None:
        """Read nothing yet.

        Args:
            images: with ``frames`` in their rows.
            shape: height and width of a view, pixels.
            count: frames of a view, T.
            stride: frames from one to the next.
        """
        self.images, self.shape, self.count, self.stride = images, shape, count, stride
        self.frames = images.rows["frames"].to_pylist()

    def __len__(self) -> int:
        return len(self.images)

    def training(self, position: int, sample: int, seed: str, scale: tuple[float, float], mirror: bool) -> Tensor:
        """A view that depends on the seed and the number of the sample: when, and which crop, the same in all frames.

        Args:
            position: of the clip.
            sample: number of the sample.
            seed: of the draws.
            scale: least and greatest area of a crop, part of the frame; (1, 1) takes the frames whole, whatever their shape.
            mirror: whether half of the views are mirrored.
        """
        random = np.random.default_rng([sample, *seed.encode()])
        part, flip = random.random(2)
        clip = self._read(position, float(part))
        height, width = clip.shape[2:]
        if scale != (1.0, 1.0):
            tall, wide = np.array([height]), np.array([width])
            top, left, rows, columns = draw_boxes(seed, np.array([sample]), tall, wide, scale, CROP_RATIO)[0].tolist()
            clip = clip[:, :, top : top + rows, left : left + columns]
        clip = _resized(clip, *self.shape)
        return clip.flip(3) if mirror and flip < 0.5 else clip

    def testing(self, position: int, clips: int, crops: int) -> Tensor:
        """Views for testing, ``(clips * crops, T, 3, H, W)``: evenly spread in time, and along the longer side of the frame."""
        parts = np.linspace(0, 1, clips) if clips > 1 else [0.5]
        views = []
        for part in parts:
            clip = self._read(position, float(part))
            height, width = clip.shape[2:]
            scale = max(self.shape[0] / height, self.shape[1] / width)
            tall, wide = (
                max(least, round(side * scale)) for least, side in zip(self.shape, (height, width), strict=True)
            )
            clip = _resized(clip, tall, wide)
            for place in np.linspace(0, 1, crops) if crops > 1 else [0.5]:
                top, left = round(place * (tall - self.shape[0])), round(place * (wide - self.shape[1]))
                views.append(clip[:, :, top : top + self.shape[0], left : left + self.shape[1]])
        return torch.stack(views)

    def _read(self, position: int, part: float) -> Tensor:
        numbers = frame_numbers(self.frames[position], self.count, self.stride, part)
        ((_, data),) = self.images.encoded(np.array([position]))
        with self.images.explained(position):
            return torch.from_numpy(np.ascontiguousarray(read_frames(data, numbers.tolist())))


def _resized(clip: Tensor, height: int, width: int) -> Tensor:
    """Resize ``(T, 3, h, w)``, all frames as one image of many channels."""
    resized: Tensor = resize(clip.flatten(0, 1), height, width).unflatten(0, clip.shape[:2])
    return resized
