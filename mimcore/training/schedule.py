"""A schedule: how long, how fast, with which images. Lengths are in images seen; ``Schedule.steps`` converts."""

import itertools
from typing import Literal

from pydantic import Field, model_validator

from mimcore.data.crops import Interpolation
from mimcore.definition import Definition
from mimcore.training import rates


class Schedule(Definition):
    """Options of pretraining that are no part of the model or the objective.

    The defaults are MAE's (He et al. 2022, table 8) where it states them; lengths have none.
    """

    #: Length of the run, images; a whole number of batches.
    images_seen: int = Field(ge=1)
    #: Images per optimiser step, over all devices.
    batch_size: int = Field(4096, ge=1)
    #: Learning rate for a batch of ``learning_rate_batch``.
    base_learning_rate: float = Field(1.5e-4, gt=0)
    #: The batch that it is for: 256 in MAE (table 8), 512 in SimMIM's released code.
    learning_rate_batch: int = Field(256, ge=1)
    #: How the rate follows the batch: in proportion (Goyal et al. 2017; what MAE and SimMIM do), or with its square root,
    #: which keeps Adam's noise the same (Malladi et al. 2022, 'On the SDEs and scaling rules for adaptive gradient
    #: algorithms', definition 5.2; it also scales betas and eps, which stay as they are here).
    learning_rate_rule: Literal["batch_linear", "batch_sqrt"] = "batch_linear"
    #: The encoder width that ``base_learning_rate`` was found at. Where it is given, the rate of the encoder's linear
    #: layers is multiplied by it over the model's width (Yang et al. 2022, 'Tensor Programs V', table 3, hidden weights
    #: under Adam; Everett et al. 2024 find that rates by layer transfer in the standard parameterisation too).
    learning_rate_width: int | None = Field(None, ge=1)
    #: Where the decay ends; a learning rate, not scaled by the batch.
    min_learning_rate: float = Field(0.0, ge=0)
    #: Where the warmup starts; a learning rate, not scaled by the batch.
    warmup_learning_rate: float = Field(0.0, ge=0)
    #: Linear warmup, images (40 of 800 epochs in table 8: a twentieth of the run).
    warmup_images: int = Field(ge=0)
    #: From the peak down: half a cosine over the whole run (MAE); by ``gamma`` at each of ``milestones`` (SimMIM,
    #: 800 epochs); or ``wsd``, a constant rate that falls within the last ``decay_images``.
    decay: Literal["cosine", "multistep", "wsd"] = "cosine"
    #: Of ``cosine``: where it begins. At the end of the warmup in MAE; at the start of the run in SimMIM's released code
    #: (timm's ``CosineLRScheduler`` without ``warmup_prefix``), so that the rate falls a little at the end of the warmup.
    cosine_from: Literal["warmup", "start"] = "warmup"
    #: Of ``multistep``: images seen at which the rate is multiplied by ``gamma``, ascending.
    milestones: tuple[int, ...] = ()
    gamma: float = Field(0.1, gt=0, lt=1)
    #: Of ``wsd``: length of the decay, images (a tenth to a fifth of the run: Hu et al. 2024, section 4; Hägele et al. 2024).
    decay_images: int | None = Field(None, ge=0)
    #: Of ``wsd``: images seen, ascending and none within the decay, at which the run's whole state is kept, for branches that
    #: go on from there (docs/training.md). A trunk that is there only for its branches needs no decay: ``decay_images: 0``.
    keep_states: tuple[int, ...] = ()
    #: AdamW's decay, for matrices only: neither biases nor norms.
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    #: AdamW's epsilon.
    eps: float = Field(1e-8, gt=0)
    #: Gradients are scaled down to this L2 norm; None leaves them (MAE), SimMIM clips at 5.
    clip_grad: float | None = Field(None, gt=0)
    #: Decay per step of an exponential moving average of the weights (Polyak & Juditsky 1992; Kingma & Ba 2015, section 7.2). Where
    #: it is given, validation losses are those of the average, and the average is the run's encoder.
    ema_decay: float | None = Field(None, gt=0, lt=1)
    #: Steps in a row without a finite gradient, which change no weight, before the run stops.
    max_skipped: int = Field(10, ge=1)
    #: Arithmetic of matrix products; weights, norms and losses are float32 in both.
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    #: Area of the random crop, part of the image (table 8: RandomResizedCrop with (0.2, 1)).
    crop_scale: tuple[float, float] = (0.2, 1.0)
    #: Width over height of the random crop (torchvision's default).
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    #: Where the crop is taken from: the image, as MAE and torchvision do, or its largest centred part, already resampled
    #: to the model's ``image_size``. The latter is cheap where decoded images fit in memory, and blurs what it enlarges.
    crop_from: Literal["square", "image"] = "square"
    #: The filter, always with antialiasing: bicubic in MAE's released code, bilinear (torchvision's default) in SimMIM's.
    crop_interpolation: Interpolation = "bicubic"
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

    @model_validator(mode="after")
    def _decays(self) -> "Schedule":
        of = {
            "cosine_from": "cosine",
            "milestones": "multistep",
            "gamma": "multistep",
            "decay_images": "wsd",
            "keep_states": "wsd",
        }
        for field, decay in of.items():
            if field in self.model_fields_set and self.decay != decay:
                raise ValueError(f"{field} is an option of 'decay: {decay}', but decay is '{self.decay}'")
        inside = [self.warmup_images, *self.milestones, self.images_seen]
        if self.decay == "multistep" and (not self.milestones or any(a >= b for a, b in itertools.pairwise(inside))):
            raise ValueError(
                f"milestones {list(self.milestones)} must ascend between warmup_images {self.warmup_images} and "
                f"images_seen {self.images_seen}"
            )
        if self.decay == "wsd":
            stable = self.images_seen - self.warmup_images
            if self.decay_images is None or self.decay_images > stable or self.decay_images % self.batch_size:
                raise ValueError(
                    f"decay_images {self.decay_images} must be a whole number of batches of {self.batch_size}, and no more "
                    f"than the {stable} images after the warmup"
                )
            inside = [max(self.warmup_images, 1) - 1, *self.keep_states, self.images_seen - self.decay_images + 1]
            if any(a >= b for a, b in itertools.pairwise(inside)) or any(n % self.batch_size for n in self.keep_states):
                raise ValueError(
                    f"keep_states {list(self.keep_states)} must ascend from the end of the warmup at {self.warmup_images} to the start "
                    f"of the decay at {self.images_seen - self.decay_images}, in whole batches of {self.batch_size}"
                )
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.images_seen // self.batch_size

    @property
    def peak(self) -> float:
        """The learning rate after the warmup."""
        batches = self.batch_size / self.learning_rate_batch
        return self.base_learning_rate * (batches if self.learning_rate_rule == "batch_linear" else batches**0.5)

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step: linear warmup, then the decay."""
        seen = step * self.batch_size
        if seen < self.warmup_images:
            start = self.warmup_learning_rate
            return start + (self.peak - start) * seen / self.warmup_images
        if self.decay == "multistep":
            return rates.multistep(seen, self.peak, self.min_learning_rate, self.milestones, self.gamma)
        if self.decay == "wsd":
            start = self.images_seen - (self.decay_images or 0)
            return rates.one_minus_sqrt(seen, self.peak, self.min_learning_rate, start, self.images_seen)
        start = self.warmup_images if self.cosine_from == "warmup" else 0
        return rates.cosine(seen, self.peak, self.min_learning_rate, start, self.images_seen)

    def validation_steps(self) -> list[int]:
        """Numbers of finished steps after which to validate: 0, then ``validations`` more, the last at the end."""
        return [round(self.steps * i / self.validations) for i in range(self.validations + 1)]


#: Options that may differ between a trunk and a branch: they change nothing before the branch's decay.
OF_THE_END = {"images_seen", "decay_images", "keep_states", "min_learning_rate", "validations"}


def branch_start(trunk: Schedule, branch: Schedule) -> int:
    """Images seen at which a branch goes on from a state of its trunk: the last that the trunk keeps before the branch decays.

    Up to there both are the same run, whatever their lengths (Hägele et al. 2024, section 3; the same in Hu et al. 2024, section 4.3).

    Raises:
        ValueError: they are not the same run up to there, or the trunk keeps no such state.
    """
    options = trunk.model_dump(exclude=OF_THE_END)
    other = [name for name, value in branch.model_dump(exclude=OF_THE_END).items() if value != options[name]]
    if other or trunk.decay != "wsd":
        raise ValueError(
            f"a branch has the options of its trunk, with 'decay: wsd', but for {', '.join(sorted(OF_THE_END))}"
            + (f"; {', '.join(other)} differ" if other else "")
        )
    decay = branch.images_seen - (branch.decay_images or 0)
    before = [seen for seen in trunk.keep_states if seen <= decay and seen < branch.images_seen]
    if not before:
        raise ValueError(
            f"the branch begins to decay at {decay} images seen, and its trunk keeps no state up to there (keep_states: "
            f"{list(trunk.keep_states)})"
        )
    if branch.keep_states and branch.keep_states[0] <= before[-1]:
        raise ValueError(
            f"keep_states {list(branch.keep_states)} of the branch must be beyond {before[-1]}, where it leaves its trunk"
        )
    return before[-1]
