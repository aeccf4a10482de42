"""Augmentation of images with boxes and masks."""

import torch
from torch import Tensor
from torch.nn import functional as F


def large_scale_jitter(
    image: Tensor, boxes: Tensor, draws: Tensor, frame: int, scale: tuple[float, float], mirror: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror half of the images, resize by a random factor, and crop what outgrows the frame.

    Large-scale jitter (Ghiasi et al. 2021, section 3): the factor is uniform in ``scale``, the crop's place random.

    Args:
        image: uint8 ``(3, H, W)``.
        boxes: float ``(N, 4)``, xyxy in pixels of the image.
        draws: four numbers in [0, 1): mirror, factor, place down, place across.
        frame: greatest height and width of what is returned, pixels.
        scale: least and greatest factor.
        mirror: whether half of the images are mirrored.

    Returns:
        image, uint8 ``(3, h, w)`` with h, w <= frame; its boxes, float ``(M, 4)``; which of the N they are, bool.
        A box of which less than one pixel is left on a side is dropped.
    """
    _, height, width = image.shape
    flip, (new_height, new_width), (top, left) = _placed((height, width), draws, frame, scale, mirror)
    if flip:
        image = image.flip(2)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    image = resize(image, new_height, new_width)
    image = image[:, top : top + frame, left : left + frame]
    ratio = boxes.new_tensor([new_width / width, new_height / height])
    boxes = boxes * ratio.repeat(2) - boxes.new_tensor([left, top, left, top])
    boxes = clip(boxes, image.shape[1], image.shape[2])
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
    return image, boxes[kept], kept


def jitter_masks(
    masks: Tensor, fitted: tuple[int, int], draws: Tensor, frame: int, scale: tuple[float, float], mirror: bool
) -> Tensor:
    """Do to masks what ``large_scale_jitter`` does to their image.

    Args:
        masks: uint8 ``(N, H, W)``, of an image at any size.
        fitted: height and width that the image had when it was jittered.
        draws: as there, and so are ``frame``, ``scale`` and ``mirror``.
        frame: pixels.
        scale: least and greatest factor.
        mirror: whether half of the images are mirrored.

    Returns:
        uint8 ``(N, h, w)``, by the nearest neighbour.
    """
    flip, (height, width), (top, left) = _placed(fitted, draws, frame, scale, mirror)
    masks = resize_nearest(masks.flip(2) if flip else masks, height, width)
    return masks[:, top : top + frame, left : left + frame]


def _placed(
    fitted: tuple[int, int], draws: Tensor, frame: int, scale: tuple[float, float], mirror: bool
) -> tuple[bool, tuple[int, int], tuple[int, int]]:
    """Whether to mirror, the new height and width, and where the frame begins, down and across."""
    flip, part, *places = draws.tolist()
    factor = scale[0] + (scale[1] - scale[0]) * part
    height, width = (max(1, round(side * factor)) for side in fitted)
    top, left = (int(place * (max(0, side - frame) + 1)) for place, side in zip(places, (height, width), strict=True))
    return mirror and flip < 0.5, (height, width), (top, left)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Cut boxes ``(N, 4)`` at the edges of an image."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 ``(3, H, W)``, bilinear with anti-aliasing."""
    if image.shape[1:] == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]


def resize_nearest(values: Tensor, height: int, width: int) -> Tensor:
    """Resize ``(..., H, W)`` by the nearest neighbour of each place, whatever the type."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in ((height, values.shape[-2]), (width, values.shape[-1]))
    )
    return values[..., rows, :][..., columns]
