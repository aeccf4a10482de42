"""Augmentation of images with boxes."""

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
    flip, factor, down, across = draws.tolist()
    _, height, width = image.shape
    if mirror and flip < 0.5:
        image = image.flip(2)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    factor = scale[0] + (scale[1] - scale[0]) * factor
    new_height, new_width = max(1, round(height * factor)), max(1, round(width * factor))
    image = resize(image, new_height, new_width)
    top, left = int(down * (max(0, new_height - frame) + 1)), int(across * (max(0, new_width - frame) + 1))
    image = image[:, top : top + frame, left : left + frame]
    ratio = boxes.new_tensor([new_width / width, new_height / height])
    boxes = boxes * ratio.repeat(2) - boxes.new_tensor([left, top, left, top])
    boxes = clip(boxes, image.shape[1], image.shape[2])
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
    return image, boxes[kept], kept


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Cut boxes ``(N, 4)`` at the edges of an image."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 ``(3, H, W)``, bilinear with anti-aliasing."""
    if image.shape[1:] == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
