"""End-to-end fine-tuning for classification, by MAE's recipe (He et al. 2022, appendix A.1, table 9).

Images are cropped and mirrored at random, go through timm's RandAugment, and are then normalised, partly erased and
mixed. The head is MAE's: mean over the patches, layer norm, linear.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mimcore.data.crops import random_flip, random_resized_crop
from mimcore.data.views import RandomCrops
from mimcore.errors import UserError
from mimcore.evaluation.classification import CROP_RATIO, Mixing, MixRecipe, batches, classifier, top1
from mimcore.evaluation.features import autocast
from mimcore.evaluation.randaugment import RandAugment, erase
from mimcore.evaluation.recipe import encoder_groups, train
from mimcore.evaluation.task import (
    Context,
    Data,
    Images,
    Metric,
    Needs,
    Value,
    class_count,
    labels_of,
    seed_number,
    seeded,
)
from mimcore.models.encoder import Encoder, sides

METRICS = {"top1": Metric("Top-1 accuracy after fine-tuning")}
PIXELS = False
NEEDS: Needs = "labels"


class Config(MixRecipe):
    """Options of fine-tuning; defaults without a source of their own are from MAE's table 9."""

    batch_size: int = Field(1024, ge=2)
    #: Peak learning rate of a batch of 256 images; it grows in proportion to the batch (Goyal et al. 2017).
    base_learning_rate: float = Field(1e-3, gt=0)
    #: Where the cosine ends (``--min_lr`` of MAE's released fine-tuning).
    min_learning_rate: float = Field(1e-6, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.75, gt=0, le=1)
    #: ``rand_augment``: crop, mirror, RandAugment and erasing, as MAE; ``random_resized_crop``: crop and mirror; ``none``.
    augmentation: Literal["rand_augment", "random_resized_crop", "none"] = "rand_augment"
    #: RandAugment's policy in timm's words: 2 operations of magnitude 9 with a deviation of 0.5 (table 9).
    rand_augment_policy: str = Field("rand-m9-mstd0.5-inc1", pattern="^rand(-[a-z]+[0-9.]+)*$")
    #: Probability that ``rand_augment`` erases a part of an image (``--reprob`` of MAE's released fine-tuning).
    random_erasing: float = Field(0.25, ge=0, le=1)
    #: Where the crop is taken from: the image, as MAE and torchvision do, or its largest centred part, already resampled.
    crop_from: Literal["square", "image"] = "square"


def evaluate(encoder: Encoder, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Fine-tune a copy of the encoder and return the top-1 accuracy on the test images; as ``tune`` raises."""
    tuned = tune(encoder, config, data, context)
    return {"top1": top1(lambda images: _scores(tuned, tuned.normalize(images), config), data.test, context)}


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
        tuned = classifier(encoder, classes, config.drop_path_rate)
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
    mixing = Mixing(config, classes, context.seed)
    augment = Augment(tuned, config, context.seed)

    def read(step: int, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        return augment.before(augment.read(images, positions, step), step), labels[positions]

    ready = batches(read, len(images), config, context)

    def losses(step: int) -> Tensor:
        pixels, target = next(ready)
        pixels, target = mixing.mix(augment.after(pixels, step), target, step)
        loss: Tensor = mixing.loss(_scores(tuned, pixels, config).float(), target)
        return loss

    return losses


def _scores(tuned: Encoder, pixels: Tensor, config: Config) -> Tensor:
    with autocast(pixels.device, config.precision):
        scores: Tensor = tuned.module(pixels)
    return scores


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
