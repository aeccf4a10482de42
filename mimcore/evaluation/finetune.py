"""End-to-end fine-tuning for classification, by MAE's recipe (He et al. 2022, appendix A.1, table 9).

Images are cropped and mirrored at random, go through timm's RandAugment, and are then normalised, partly erased and
mixed. The head is MAE's: mean over the patches, layer norm, linear.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from mimcore.data.crops import random_flip, random_resized_crop
from mimcore.data.views import RandomCrops
from mimcore.errors import UserError
from mimcore.evaluation.features import ahead, autocast
from mimcore.evaluation.randaugment import RandAugment, erase, seeded_timm
from mimcore.evaluation.recipe import Recipe, encoder_groups, order, train
from mimcore.evaluation.task import (
    Context,
    Data,
    Images,
    Metric,
    Needs,
    Value,
    accuracy,
    class_count,
    labels_of,
    seed_number,
    seeded,
)
from mimcore.models import families
from mimcore.models.encoder import Encoder, sides

METRICS = {"top1": Metric("Top-1 accuracy after fine-tuning")}
PIXELS = False
NEEDS: Needs = "labels"

#: Least and greatest width over height of a crop (torchvision's and timm's default, used by MAE).
CROP_RATIO = (3 / 4, 4 / 3)


class Config(Recipe):
    """Options of fine-tuning; defaults without a source of their own are from MAE's table 9."""

    batch_size: int = Field(1024, ge=2)
    #: Peak learning rate of a batch of 256 images; it grows in proportion to the batch (Goyal et al. 2017).
    base_learning_rate: float = Field(1e-3, gt=0)
    #: Where the cosine ends (``--min_lr`` of MAE's released fine-tuning).
    min_learning_rate: float = Field(1e-6, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.75, gt=0, le=1)
    #: Share of the target that is spread over all classes.
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    #: Parameter of the beta distribution of mixup (Zhang et al. 2018); 0 turns it off.
    mixup: float = Field(0.8, ge=0)
    #: Parameter of the beta distribution of cutmix (Yun et al. 2019); 0 turns it off. With both, each batch draws one.
    cutmix: float = Field(1.0, ge=0)
    #: ``rand_augment``: crop, mirror, RandAugment and erasing, as MAE; ``random_resized_crop``: crop and mirror; ``none``.
    augmentation: Literal["rand_augment", "random_resized_crop", "none"] = "rand_augment"
    #: RandAugment's policy in timm's words: 2 operations of magnitude 9 with a deviation of 0.5 (table 9).
    rand_augment_policy: str = Field("rand-m9-mstd0.5-inc1", pattern="^rand(-[a-z]+[0-9.]+)*$")
    #: Probability that ``rand_augment`` erases a part of an image (``--reprob`` of MAE's released fine-tuning).
    random_erasing: float = Field(0.25, ge=0, le=1)
    #: Least and greatest share of the area that a crop keeps (timm's and torchvision's default, used by MAE).
    crop_scale: tuple[float, float] = (0.08, 1.0)
    #: Where the crop is taken from: the image, as MAE and torchvision do, or its largest centred part, already resampled.
    crop_from: Literal["square", "image"] = "square"
    #: Whether a crop is mirrored half of the time; not for letters and digits.
    mirror: bool = True

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"batch_size {self.batch_size} must be even, since mixup and cutmix pair the images")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must rise within (0, 1]")
        return self


def evaluate(encoder: Encoder, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Fine-tune a copy of the encoder and return the top-1 accuracy on the test images; as ``tune`` raises."""
    return {"top1": accuracy(_correct(tune(encoder, config, data, context), data.test, config, context))}


def tune(encoder: Encoder, config: Config, data: Data, context: Context) -> Encoder:
    """Fine-tune a copy of the encoder, with a head for the classes, on the training images.

    Raises:
        UserError: the loss stops being finite, or RandAugment is asked for where the encoder does not take RGB.
    """
    if encoder.channels != 3 and config.augmentation == "rand_augment":
        raise UserError(
            f"{context.where}.augmentation: 'rand_augment' needs an encoder of three channels, and this one has"
            f" {encoder.channels}; use 'random_resized_crop'."
        )
    classes = class_count(data, context.where)
    with seeded(context.seed, context.device):
        tuned = encoder.fresh(num_classes=classes, global_pool="avg", drop_path_rate=config.drop_path_rate)
        # The released code of MAE (main_finetune.py) starts the head near zero.
        nn.init.trunc_normal_(families.head_weight(tuned.module), std=2e-5)
        tuned.module.to(context.device).train()
        peak = config.base_learning_rate * config.batch_size / 256
        train(
            encoder_groups(tuned.module, config),
            peak,
            _losses(tuned, classes, config, data.train, context),
            config,
            context,
        )
    tuned.module.eval()
    return tuned


def _losses(tuned: Encoder, classes: int, config: Config, images: Images, context: Context) -> Callable[[int], Tensor]:
    """Make the function from a step to its loss."""
    labels = labels_of(images)
    mixup: Mixup | None = None
    criterion: nn.Module = LabelSmoothingCrossEntropy(config.label_smoothing)
    if config.mixup or config.cutmix:
        mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=classes)
        criterion = SoftTargetCrossEntropy()
    augment = Augment(tuned, config, context.seed)

    def read(numbered: tuple[int, np.ndarray]) -> tuple[Tensor, Tensor]:
        step, positions = numbered
        return augment.before(augment.read(images, positions, step), step), labels[positions]

    batches = enumerate(order(len(images), config.batch_size, config.steps, context.seed))
    ready = ahead(read, batches, context.workers)

    def losses(step: int) -> Tensor:
        pixels, target = (part.to(context.device, non_blocking=True) for part in next(ready))
        pixels = augment.after(pixels, step)
        if mixup is not None:
            with seeded_timm(seed_number("mixup", str(context.seed), str(step))):
                pixels, target = mixup(pixels, target)
        with autocast(context.device, config.precision):
            scores = tuned.module(pixels)
        loss: Tensor = criterion(scores.float(), target)
        return loss

    return losses


class Augment:
    """What is done to the images of a step, in two parts: where they are read, and on the device.

    Every draw depends on the seed and the step alone, so that threads which read ahead change nothing.
    """

    def __init__(self, tuned: Encoder, config: Config, seed: int) -> None:
        self.tuned, self.config, self.seed = tuned, config, seed
        self.policy: RandAugment | None = None
        if config.augmentation == "rand_augment":
            self.policy = RandAugment(config.rand_augment_policy, min(sides(tuned.image_size)), tuned.mean)
        self.crops: RandomCrops | None = None
        if config.crop_from == "image" and config.augmentation != "none":
            self.crops = RandomCrops(f"{seed}/crops", config.crop_scale, CROP_RATIO)

    def read(self, images: Images, positions: np.ndarray, step: int) -> np.ndarray:
        """The images of a step, already cropped where crops come from whole images; uint8 ``(B, C, H, W)``."""
        if self.crops is None:
            return images.get(positions)
        samples = step * self.config.batch_size + np.arange(len(positions))
        return self.crops.get(images, positions, samples)

    def before(self, images: np.ndarray, step: int) -> Tensor:
        """Where images are read: RandAugment works on single images, after the crop. uint8 ``(B, 3, H, W)``, both."""
        if self.policy is None:
            return torch.from_numpy(images)
        cropped = self._crop(torch.from_numpy(images), step).round().to(torch.uint8)
        return torch.from_numpy(self.policy(cropped.numpy(), self._draw("rand_augment", step)))

    def after(self, images: Tensor, step: int) -> Tensor:
        """On the device: uint8 ``(B, 3, H, W)`` to normalised float of the same shape."""
        if self.config.augmentation == "random_resized_crop":
            images = self._crop(images, step)
        pixels = self.tuned.normalize(images)
        if self.policy is not None and self.config.random_erasing:
            pixels = erase(pixels, self.config.random_erasing, self._draw("erase", step))
        return pixels

    def _crop(self, images: Tensor, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._draw("crop", step))
        if self.crops is not None:
            return random_flip(images, generator) if self.config.mirror else images
        return random_resized_crop(images, self.config.crop_scale, CROP_RATIO, self.config.mirror, generator)

    def _draw(self, what: str, step: int) -> int:
        return seed_number(what, str(self.seed), str(step))


def _correct(tuned: Encoder, images: Images, config: Config, context: Context) -> Tensor:
    """Which test images are classified correctly, bool ``(N,)``."""
    positions = np.split(np.arange(len(images)), range(256, len(images), 256))
    answers: list[Tensor] = []
    with torch.inference_mode():
        for batch in ahead(images.get, positions, context.workers):
            with autocast(context.device, config.precision):
                scores = tuned.module(tuned.normalize(torch.from_numpy(batch).to(context.device)))
            answers.append(scores.argmax(dim=1).cpu())
            context.progress("testing", sum(map(len, answers)), len(images))
    return torch.cat(answers) == labels_of(images)
