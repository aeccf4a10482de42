"""Frozen features of images: of an encoder, or the pixels themselves."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation.task import Context, Images, Precision, TaskConfig
from mimcore.models import families
from mimcore.models.encoder import Encoder, statistics

#: Largest height and width of pixels taken as features: 32 x 32 x 3 numbers are what CIFAR-10's pixels are.
PIXELS_SIDE = 32


class FeaturesConfig(TaskConfig):
    """Options of the tasks on frozen features."""

    #: ``mean`` over the patches (MAE's global pooling, He et al. 2022, section 5) or the class token (``cls``).
    pooling: Literal["mean", "cls"] = "mean"
    #: Precision of the encoder; the features are float32.
    precision: Precision = "float32"
    #: Images at a time; it bounds memory.
    batch_size: int = Field(256, ge=1)


@dataclass(frozen=True)
class Pixels:
    """Raw pixels in the place of an encoder: the floor that any encoder should clear.

    Attributes:
        image_size: height and width of the images, pixels, or the side of a square; a side above 32 is averaged down to it.
        channels: of the images.
    """

    image_size: int | tuple[int, int]
    channels: int = 3


def extract(subject: Encoder | Pixels, images: Images, config: FeaturesConfig, context: Context) -> Tensor:
    """Compute the features of all images, in their order.

    Args:
        subject: the encoder, used after its final norm; or pixels, normalised and flattened.
        images: decoded at the subject's ``image_size``.
        config: pooling and precision.
        context: device and workers.

    Returns:
        float32 ``(N, D)`` on the device.

    Raises:
        UserError: the class token is asked for and the encoder has none.
    """
    if isinstance(subject, Encoder):
        if config.pooling == "cls" and not families.has_class_token(subject.module):
            raise UserError(f"{context.where}.pooling: the encoder has no class token; use 'mean'.")
        subject.module.to(context.device).eval()
    positions = np.arange(len(images))
    cuts = range(config.batch_size, len(images), config.batch_size)
    parts: list[Tensor] = []
    done = 0
    with torch.inference_mode():
        for batch in ahead(images.get, np.split(positions, cuts), context.workers):
            parts.append(batch_features(subject, torch.from_numpy(batch).to(context.device), config))
            done += len(batch)
            context.progress("features", done, len(images))
    # A copy outside inference mode, so that the probe may take gradients of products with it.
    return torch.cat(parts).clone()


def batch_features(subject: Encoder | Pixels, images: Tensor, config: FeaturesConfig) -> Tensor:
    """Features of a batch, uint8 ``(B, C, H, W)`` to float32 ``(B, D)``, on its device; the encoder is there too."""
    if isinstance(subject, Pixels):
        mean, std = (images.new_tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in statistics(subject.channels))
        pixels = (images.float() / 255 - mean) / std
        height, width = (min(PIXELS_SIDE, side) for side in images.shape[-2:])
        return F.adaptive_avg_pool2d(pixels, (height, width)).flatten(1)
    with autocast(images.device, config.precision):
        pixels = subject.normalize(images)
        if config.pooling == "cls":
            return families.class_token(subject.module, pixels).float()
        tokens = families.patch_tokens(subject.module, pixels)
    return tokens.float().mean(dim=1)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Compute matrix products in ``precision`` inside the block."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


A = TypeVar("A")
B = TypeVar("B")


def ahead(work: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """Yield ``work(item)`` in order, computed up to two items a worker ahead of the caller."""
    if workers == 0:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as threads:
        queue: list[Future[B]] = []
        for item in items:
            queue.append(threads.submit(work, item))
            if len(queue) > 2 * workers:
                yield queue.pop(0).result()
        for future in queue:
            yield future.result()
