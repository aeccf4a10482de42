"""Semantic segmentation: the encoder under UPerNet (Xiao et al. 2018), fine-tuned end to end, by OpenMMLab's recipe for MAE.

The truth is what the instance masks of the pool show: the later instance is in front, and what is of none is background. Images
are tested whole, by windows of the training's size that overlap by a third.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation.dense.masks import IGNORED
from mimcore.evaluation.dense.overlap import count_overlaps, overlap_metrics
from mimcore.evaluation.dense.surfaces import DRAWS, Surfaces
from mimcore.evaluation.features import ahead
from mimcore.evaluation.heads.levels import Levels
from mimcore.evaluation.heads.upernet import UPerNet, segmentation_loss
from mimcore.evaluation.pictures import draw_maps
from mimcore.evaluation.recipe import Decay, Recipe, encoder_groups, head_groups, order, train
from mimcore.evaluation.scenes import box_class_count, truths_of
from mimcore.evaluation.task import Context, Data, Metric, Needs, Value, seeded
from mimcore.models import families
from mimcore.models.encoder import Encoder

METRICS = {
    "miou": Metric("Mean intersection over union"),
    "mean_accuracy": Metric("Mean accuracy of the classes' pixels"),
    "pixel_accuracy": Metric("Accuracy of the pixels"),
}
PIXELS = False
NEEDS: Needs = "masks"

#: Test images that ``segmentation.png`` shows.
SHOWN = 6


class Config(Recipe):
    """Options of segmentation; defaults without a source of their own are from OpenMMLab's configuration of MAE on ADE20K."""

    #: Height and width of the crops that are trained on and of the windows that are tested, pixels; a multiple of the stride.
    image_size: int = Field(512, ge=16)
    #: Channels of the head; by default as many as a ViT has (OpenMMLab's for BEiT and MAE), and 512 on a Swin.
    width: int | None = Field(None, ge=1)
    #: Whether pixels of no instance are a class too, as in PASCAL VOC (Everingham et al. 2010); else they do not count, as in ADE20K.
    background: bool = True
    #: 160,000 steps.
    images_seen: int = Field(2_560_000, ge=1)
    batch_size: int = Field(16, ge=2)
    #: Peak learning rate, at whatever batch.
    learning_rate: float = Field(1e-4, gt=0)
    #: 1,500 steps.
    warmup_fraction: float = Field(1_500 / 160_000, ge=0, lt=1)
    decay: Decay = "linear"
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.65, gt=0, le=1)
    #: Least and greatest factor of the random resizing of the shorter side, relative to ``image_size``.
    jitter: tuple[float, float] = (0.5, 2.0)
    #: Greatest share of a crop that one class may have; ten crops are tried.
    most_of_a_class: float = Field(0.75, gt=0, le=1)
    #: Whether half of the images are mirrored; not for letters and digits.
    mirror: bool = True
    #: Whether brightness, contrast, saturation and hue are changed at random (Liu et al. 2016, 'SSD'; torchvision's ranges).
    photometric: bool = True

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if not 0 < self.jitter[0] <= self.jitter[1]:
            raise ValueError(f"jitter {self.jitter} must rise from above 0")
        return self


def evaluate(encoder: Encoder, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Train UPerNet on a copy of the encoder; return the overlap with the truth on the test images, and draw some of them.

    ``segmentation.png`` in ``context.folder`` shows the first test images.

    Raises:
        UserError: the encoder's stride does not divide ``image_size``, it takes no RGB, masks are missing or broken, or the loss is
            not finite.
    """
    if config.image_size % encoder.stride:
        raise UserError(
            f"{context.where}.image_size: {config.image_size} is not a multiple of the encoder's stride of "
            f"{encoder.stride} pixels; choose one that is."
        )
    if encoder.channels != 3:
        raise UserError(
            f"{context.where}: segmentation needs an encoder of three channels; this one has {encoder.channels}."
        )
    classes = box_class_count(truths_of(data.train) + truths_of(data.test), data.box_classes, context.where)
    classes += int(config.background)
    train_on, test_on = (
        Surfaces(images, config.image_size, context.where, config.background, cache_mib)
        for images, cache_mib in ((data.train, context.cache_mib // 2), (data.test, 0))
    )
    with seeded(context.seed, context.device):
        tuned = encoder.fresh(img_size=config.image_size, drop_path_rate=config.drop_path_rate)
        model = UPerNet(Levels(tuned, config.precision), _width(tuned, config), classes).to(context.device)
        inside = {id(parameter) for parameter in tuned.module.parameters()}
        new = [parameter for parameter in model.parameters() if id(parameter) not in inside]
        groups = encoder_groups(tuned.module, config, scale=config.layer_decay) + head_groups(new, config)
        model.train()
        train(groups, config.learning_rate, _losses(model, tuned, train_on, config, context), config, context)
    counts, shown = [], []
    for position, (found, truth) in enumerate(_segment(model, tuned, test_on, config, context)):
        counts.append(count_overlaps(found, truth, classes))
        if position < SHOWN:
            first = int(config.background)  # of the instances: the background stays as it is
            shown.append((data.test.raw(position), truth - first, found - first))
        context.progress("testing", position + 1, len(test_on))
    draw_maps(context.folder / "segmentation.png", shown, data.box_classes or [str(k) for k in range(classes)])
    return overlap_metrics(np.stack(counts), context.seed)


def _width(tuned: Encoder, config: Config) -> int:
    hierarchical = isinstance(tuned.module, families.Hierarchical)
    return config.width or (512 if hierarchical else int(tuned.module.num_features))


def _losses(
    model: UPerNet, tuned: Encoder, surfaces: Surfaces, config: Config, context: Context
) -> Callable[[int], Tensor]:
    """Make the function from a step to its loss."""
    generator = torch.Generator().manual_seed(context.seed)

    def draws() -> Iterator[tuple[np.ndarray, Tensor]]:
        for positions in order(len(surfaces), config.batch_size, config.steps, context.seed):
            yield positions, torch.rand(len(positions), DRAWS, generator=generator)

    def read(item: tuple[np.ndarray, Tensor]) -> tuple[Tensor, Tensor]:
        parts = [
            surfaces.training(
                position, draw, config.jitter, config.most_of_a_class, config.mirror, config.photometric, tuned.mean
            )
            for position, draw in zip(item[0].tolist(), item[1], strict=True)
        ]
        return torch.stack([image for image, _ in parts]), torch.stack([truth for _, truth in parts])

    batches = ahead(read, draws(), context.workers)

    def losses(step: int) -> Tensor:
        images, truth = (part.to(context.device, non_blocking=True) for part in next(batches))
        return segmentation_loss(model(tuned.normalize(images)), truth.long(), IGNORED)

    return losses


def _segment(
    model: UPerNet, tuned: Encoder, surfaces: Surfaces, config: Config, context: Context
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield classes as they were found and as they are, int16 ``(H, W)`` both, of all test images in their order."""
    model.eval()

    def read(position: int) -> tuple[Tensor, Tensor]:
        return surfaces.testing(position, tuned.mean), surfaces.truth(position)

    for image, truth in ahead(read, range(len(surfaces)), context.workers):
        with torch.inference_mode():
            scores = slide(model, tuned, image.to(context.device), config)
            scores = F.interpolate(scores[None], truth.shape, mode="bilinear", align_corners=False)[0]
            found = scores.argmax(dim=0).to(torch.int16).cpu().numpy()
        yield found, truth.numpy()


def slide(model: UPerNet, tuned: Encoder, image: Tensor, config: Config) -> Tensor:
    """Score an image by windows two thirds of their size apart, averaged where they overlap: OpenMMLab's sliding test.

    Args:
        model: in evaluation.
        tuned: its encoder.
        image: uint8 ``(3, h, w)``, both at least ``image_size``.
        config: size of the windows, and how many are scored at a time.

    Returns:
        float32 ``(classes, h, w)``.
    """
    side = config.image_size
    places = [(top, left) for top in _starts(image.shape[1], side) for left in _starts(image.shape[2], side)]
    total, times = torch.zeros(0), image.new_zeros(image.shape[1:], dtype=torch.float32)
    for first in range(0, len(places), config.batch_size):
        batch = places[first : first + config.batch_size]
        windows = torch.stack([image[:, top : top + side, left : left + side] for top, left in batch])
        scores = F.interpolate(model(tuned.normalize(windows)), (side, side), mode="bilinear", align_corners=False)
        if not len(total):
            total = scores.new_zeros(scores.shape[1], *image.shape[1:])
        for (top, left), part in zip(batch, scores, strict=True):
            total[:, top : top + side, left : left + side] += part
            times[top : top + side, left : left + side] += 1
    return total / times


def _starts(length: int, side: int) -> list[int]:
    """Where windows begin along a side of ``length`` pixels; the last ends with it."""
    stride = max(1, side * 2 // 3)
    count = -(-max(0, length - side) // stride) + 1
    return [min(number * stride, length - side) for number in range(count)]
