"""What the tasks that train a classifier of images or clips share: crops, mixed targets, batches read ahead, and the test."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from pydantic import Field, model_validator
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from mimcore.data.crops import random_resized_crop
from mimcore.definition import Definition
from mimcore.evaluation.features import ahead
from mimcore.evaluation.randaugment import seeded_timm
from mimcore.evaluation.recipe import Recipe, order
from mimcore.evaluation.task import Context, Images, Value, accuracy, labels_of, seed_number
from mimcore.models import families
from mimcore.models.encoder import Encoder

#: Least and greatest width over height of a crop (torchvision's and timm's default, used by MAE).
CROP_RATIO = (3 / 4, 4 / 3)

#: Images that are tested at once.
TESTED = 256


class CropOptions(Definition):
    """Options of random crops."""

    #: Least and greatest share of the area that a crop keeps (timm's and torchvision's default, used by MAE); (1, 1) crops nothing.
    crop_scale: tuple[float, float] = (0.08, 1.0)
    #: Whether half of what is shown is mirrored; not for letters and digits, nor where left and right are told apart.
    mirror: bool = True

    @model_validator(mode="after")
    def _rises(self) -> "CropOptions":
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must rise within (0, 1]")
        return self


class MixRecipe(CropOptions, Recipe):
    """Options of soft targets; the defaults are those of MAE's fine-tuning (He et al. 2022, table 9) and of VideoMAE's."""

    batch_size: int = Field(ge=2)
    #: Share of the target that is spread over all classes.
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    #: Parameter of the beta distribution of mixup (Zhang et al. 2018); 0 turns it off.
    mixup: float = Field(0.8, ge=0)
    #: Parameter of the beta distribution of cutmix (Yun et al. 2019); 0 turns it off. With both, each batch draws one.
    cutmix: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _pairs(self) -> "MixRecipe":
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"batch_size {self.batch_size} must be even, since mixup and cutmix work on pairs")
        return self


class Mixing:
    """Mixup, cutmix and label smoothing, and the loss that goes with them.

    Args:
        config: which of them.
        classes: number of classes C.
        seed: every draw depends on it and on the step alone.
    """

    def __init__(self, config: MixRecipe, classes: int, seed: int) -> None:
        self.seed = seed
        self.mixup: Mixup | None = None
        self.loss: nn.Module = LabelSmoothingCrossEntropy(config.label_smoothing)
        if config.mixup or config.cutmix:
            self.mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=classes)
            self.loss = SoftTargetCrossEntropy()

    def mix(self, pixels: Tensor, target: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mix normalised ``(B, C, H, W)`` and its classes, int64 ``(B,)``: pixels, and targets ``(B, C)``; or both as they are."""
        if self.mixup is None:
            return pixels, target
        with seeded_timm(seed_number("mixup", str(self.seed), str(step))):
            mixed: tuple[Tensor, Tensor] = self.mixup(pixels, target)
        return mixed


def classifier(encoder: Encoder, classes: int, drop_path_rate: float) -> Encoder:
    """A copy with a classifier: the mean over the patches under a norm that starts afresh, and a head near zero.

    So do the released codes of MAE (``main_finetune.py``) and of VideoMAE.
    """
    tuned = encoder.fresh(num_classes=classes, global_pool="avg", drop_path_rate=drop_path_rate)
    nn.init.trunc_normal_(families.head_weight(tuned.module), std=2e-5)
    return tuned


def random_crop(images: Tensor, config: CropOptions, seed: int, step: int) -> Tensor:
    """Crop and mirror uint8 ``(B, C, H, W)`` as a step's draws say; float32 in [0, 255], or the images where nothing is asked for."""
    plain = config.crop_scale == (1.0, 1.0)
    if plain and not config.mirror:
        return images
    generator = torch.Generator().manual_seed(seed_number("crop", str(seed), str(step)))
    return random_resized_crop(images, config.crop_scale, (1.0, 1.0) if plain else CROP_RATIO, config.mirror, generator)


def batches(
    read: Callable[[int, np.ndarray], tuple[Tensor, Tensor]], images: int, config: Recipe, context: Context
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each step's images and classes on the device, read ahead.

    Args:
        read: from a step and the positions of its images, int64 ``(B,)``, to images and classes; called from several threads.
        images: how many there are.
        config: length and batch size.
        context: device, seed of the order, and workers.
    """
    steps = enumerate(order(images, config.batch_size, config.steps, context.seed))
    for pixels, target in ahead(lambda step: read(*step), steps, context.workers):
        yield pixels.to(context.device, non_blocking=True), target.to(context.device, non_blocking=True)


def top1(score: Callable[[Tensor], Tensor], images: Images, context: Context) -> Value:
    """Share of images that are classified correctly, by scores ``(B, classes)`` of uint8 ``(B, C, H, W)`` on the device."""
    positions = np.split(np.arange(len(images)), range(TESTED, len(images), TESTED))
    answers: list[Tensor] = []
    for batch in ahead(images.get, positions, context.workers):
        with torch.inference_mode():
            answers.append(score(torch.from_numpy(batch).to(context.device)).argmax(dim=1).cpu())
        context.progress("testing", sum(map(len, answers)), len(images))
    return accuracy(torch.cat(answers) == labels_of(images))
