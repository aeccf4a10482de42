"""A schedule: how long, how fast, with which images. Lengths are in images seen; ``Schedule.steps`` converts."""

import math
from typing import Literal

from pydantic import Field, model_validator

from mimcore.definition import Definition


class Schedule(Definition):
    """Options of pretraining that are no part of the model or the objective.

    The defaults are MAE's (He et al. 2022, table 8) where it states them; lengths have none.
    """

    #: Length of the run, images; a whole number of batches.
    images_seen: int = Field(ge=1)
    #: Images per optimiser step, over all devices.
    batch_size: int = Field(4096, ge=1)
    #: Learning rate for a batch of 256; the rate used is ``base_learning_rate * batch_size / 256`` (table 8; Goyal et al. 2017).
    base_learning_rate: float = Field(1.5e-4, gt=0)
    #: The cosine ends here; a learning rate, not scaled by the batch.
    min_learning_rate: float = Field(0.0, ge=0)
    #: Linear warmup, images (40 of 800 epochs in table 8: a twentieth of the run).
    warmup_images: int = Field(ge=0)
    #: AdamW's decay, for matrices only: neither biases nor norms.
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    #: Arithmetic of matrix products; weights, norms and losses are float32 in both.
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    #: Area of the random crop, part of the image (table 8: RandomResizedCrop with (0.2, 1)).
    crop_scale: tuple[float, float] = (0.2, 1.0)
    #: Width over height of the random crop (torchvision's default).
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    #: Where the crop is taken from: the image, as MAE and torchvision do, or its largest centred part, already resampled
    #: to the model's ``image_size``. The latter is cheap where decoded images fit in memory, and blurs what it enlarges.
    crop_from: Literal["square", "image"] = "square"
    #: What decodes JPEGs where crops are taken from images: libjpeg-turbo in the workers, or nvJPEG on the GPU, whose pixels
    #: differ a little (docs/loader.md). Other images, and those on which nvJPEG fails, are decoded on the CPU in both cases.
    jpeg_decoder: Literal["turbo", "nvjpeg"] = "turbo"
    #: Crops of one image in a batch, side by side (repeated augmentation: Hoffer et al. 2020, section 3). Batches and
    #: lengths count crops; an epoch shows each image once, by so many crops.
    repeated_augmentation: int = Field(1, ge=1)
    #: Mirror every other image, left to right.
    horizontal_flip: bool = True
    #: Points at which the validation loss is measured, at equal numbers of images seen, the first before training.
    validations: int = Field(8, ge=1)
    #: Images of the validation split (and as many of the subset) that it is measured on.
    validation_images: int = Field(1024, ge=1)

    @model_validator(mode="after")
    def _whole(self) -> "Schedule":
        rest = self.images_seen % self.batch_size
        if rest:
            below = self.images_seen - rest
            raise ValueError(
                f"images_seen {self.images_seen} is not a whole number of batches of {self.batch_size}; "
                f"nearest are {below} and {below + self.batch_size}"
            )
        if self.warmup_images >= self.images_seen:
            raise ValueError(f"warmup_images {self.warmup_images} must be less than images_seen {self.images_seen}")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must be two parts of the image, ascending, in (0, 1]")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"crop_ratio {self.crop_ratio} must be two positive numbers, ascending")
        if self.jpeg_decoder == "nvjpeg" and self.crop_from != "image":
            raise ValueError(
                "jpeg_decoder 'nvjpeg' decodes for crops out of whole images: set crop_from: image, or leave it out"
            )
        if self.batch_size % self.repeated_augmentation:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of repeated_augmentation {self.repeated_augmentation}"
            )
        if self.validations > self.steps:
            raise ValueError(f"validations {self.validations} is more than the {self.steps} steps of the run")
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.images_seen // self.batch_size

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step: linear warmup, then half a cosine (Loshchilov & Hutter 2017; MAE's released code)."""
        peak = self.base_learning_rate * self.batch_size / 256
        seen = step * self.batch_size
        if seen < self.warmup_images:
            return peak * seen / self.warmup_images
        progress = (seen - self.warmup_images) / (self.images_seen - self.warmup_images)
        return self.min_learning_rate + (peak - self.min_learning_rate) * 0.5 * (1 + math.cos(math.pi * progress))

    def validation_steps(self) -> list[int]:
        """Numbers of finished steps after which to validate: 0, then ``validations`` more, the last at the end."""
        return [round(self.steps * i / self.validations) for i in range(self.validations + 1)]
