"""Frozen features of images: of an encoder, or the pixels themselves."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mimcore.evaluation.task import Context, Images, Precision, TaskConfig
from mimcore.models import families
from mimcore.models.encoder import Encoder, statistics

if TYPE_CHECKING:
    from mimcore.models.text import Projection

#: Largest height and width of pixels taken as features: 32 x 32 x 3 numbers are what CIFAR-10's pixels are.
PIXELS_SIDE = 32


class FeaturesConfig(TaskConfig):
    """Options of a definition of ``features``: which images go through an encoder once, for every probe, and how."""

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


def extract(
    subject: Encoder | Pixels,
    images: Images,
    config: FeaturesConfig,
    context: Context,
    projection: "Projection | None" = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield the features of all images, a batch at a time, in their order; see ``batch_features``.

    Args:
        subject: the encoder, or pixels.
        images: decoded at the subject's ``image_size``.
        config: precision and batch size.
        context: device, workers and progress.
        projection: of an encoder that has one, into the space of its texts.
    """
    if isinstance(subject, Encoder):
        subject.module.to(context.device).eval()
    if projection is not None:
        projection.to(context.device).eval()
    cuts = range(config.batch_size, len(images), config.batch_size)
    done = 0
    for batch in ahead(images.get, np.split(np.arange(len(images)), cuts), context.workers):
        with torch.inference_mode():
            found = batch_features(subject, torch.from_numpy(batch).to(context.device), config.precision, projection)
        yield found
        done += len(batch)
        context.progress("features", done, len(images))


def batch_features(
    subject: Encoder | Pixels, images: Tensor, precision: Precision, projection: "Projection | None" = None
) -> dict[str, Tensor]:
    """Features of a batch, uint8 ``(B, C, H, W)``, on its device; the encoder is there too.

    Returns:
        float32 ``(B, D)`` by name: ``mean`` of the patches after the final norm and, where the encoder has a class token, ``cls``;
        with a projection ``projected``, of length 1; of pixels ``pixels``, normalised and flattened.
    """
    if isinstance(subject, Pixels):
        mean, std = (images.new_tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in statistics(subject.channels))
        pixels = (images.float() / 255 - mean) / std
        height, width = (min(PIXELS_SIDE, side) for side in images.shape[-2:])
        return {"pixels": F.adaptive_avg_pool2d(pixels, (height, width)).flatten(1)}
    with autocast(images.device, precision):
        whole = subject.module.forward_features(subject.normalize(images))
        cls, patches = families.split(subject.module, whole)
        found = {"mean": patches.float().mean(dim=1)}
        if projection is not None:
            tokens = patches if isinstance(subject.module, families.Hierarchical) else whole
            found["projected"] = projection.project(projection.pooling.pool(tokens, subject.module))
    return found if cls is None else found | {"cls": cls.float()}


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
