"""What the detectors over ViTDet's simple feature pyramid share (Li et al. 2022): options, parameter groups, steps and testing."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mimcore.errors import UserError
from mimcore.evaluation.features import ahead
from mimcore.evaluation.heads.detector import total_loss
from mimcore.evaluation.heads.pyramid import FACTORS, Scale
from mimcore.evaluation.recipe import Recipe, encoder_groups, head_groups, order
from mimcore.evaluation.scenes import Scenes
from mimcore.evaluation.task import Context
from mimcore.models.encoder import Encoder


class Options(Recipe):
    """Options of both; defaults without a source of their own are from ViTDet for ViT-B (Li et al. 2022, appendix A.2 and table 11)."""

    #: Find objects whatever their class: boxes are learned long before the classes of few or small objects are.
    one_class: bool = False
    #: Images are resized to fit a square of so many pixels by their longer side, and padded; a multiple of the patch.
    image_size: int = Field(1024, ge=16)
    #: Channels of the pyramid and the head, a multiple of 32 (for the head's group norm).
    width: int = Field(256, ge=32, multiple_of=32)
    #: Resolutions of the pyramid's maps relative to the encoder's, finest first.
    scales: tuple[Scale, ...] = ("4", "2", "1", "1/2")
    batch_size: int = Field(64, ge=1)
    #: Peak learning rate, at whatever batch.
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    #: 0.7 for ViT-B, 0.8 for L, 0.9 for H.
    layer_decay: float = Field(0.7, gt=0, le=1)
    #: Least and greatest factor of the random resizing (large-scale jitter: Ghiasi et al. 2021).
    jitter: tuple[float, float] = (0.1, 2.0)
    #: Whether half of the images are mirrored; not for letters and digits.
    mirror: bool = True

    @model_validator(mode="after")
    def _pyramid(self) -> "Options":
        factors = [FACTORS[scale] for scale in self.scales]
        if not factors or factors != sorted(set(factors), reverse=True):
            raise ValueError(f"scales {self.scales} must be named once each, finest first")
        if not 0 < self.jitter[0] <= self.jitter[1]:
            raise ValueError(f"jitter {self.jitter} must rise from above 0")
        return self


def check(encoder: Encoder, config: Options, what: str, where: str) -> None:
    """Refuse what does not go together, before any work.

    Raises:
        UserError: the encoder's stride does not divide ``image_size``, or it takes no RGB.
    """
    if config.image_size % encoder.stride:
        raise UserError(
            f"{where}.image_size: {config.image_size} is not a multiple of the encoder's stride of "
            f"{encoder.stride} pixels; choose one that is."
        )
    if encoder.channels != 3:
        raise UserError(f"{where}: {what} needs an encoder of three channels; this one has {encoder.channels}.")


def groups(model: nn.Module, tuned: Encoder, config: Options) -> list[dict[str, Any]]:
    """Parameter groups; the last block has one ``layer_decay``, the pyramid and the head have none."""
    inside = {id(parameter) for parameter in tuned.module.parameters()}
    new = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return encoder_groups(tuned.module, config, scale=config.layer_decay) + head_groups(new, config)


def losses(
    model: nn.Module, tuned: Encoder, scenes: Scenes, config: Options, context: Context, first: int
) -> Callable[[int], Tensor]:
    """Make the function from a step to its loss; ``first`` is the number that the model has for class 0."""
    generator = torch.Generator().manual_seed(context.seed)

    def draws() -> Iterator[tuple[np.ndarray, Tensor]]:
        for positions in order(len(scenes), config.batch_size, config.steps, context.seed):
            yield positions, torch.rand(len(positions), 4, generator=generator)

    def read(item: tuple[np.ndarray, Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
        pairs = zip(item[0].tolist(), item[1], strict=True)
        return [scenes.training(position, draw, config.jitter, config.mirror, tuned.mean) for position, draw in pairs]

    batches = ahead(read, draws(), context.workers)

    def loss(step: int) -> Tensor:
        parts = next(batches)
        images = tuned.normalize(torch.stack([image for image, _ in parts]).to(context.device))
        targets = [{name: value.to(context.device) for name, value in truth.items()} for _, truth in parts]
        for target in targets:
            target["labels"] = target["labels"] + first
        return total_loss(model(images, targets))

    return loss


def results(
    model: nn.Module, tuned: Encoder, scenes: Scenes, config: Options, context: Context
) -> Iterator[tuple[dict[str, Tensor], np.ndarray]]:
    """Yield what the model finds in each test image, in their order, with the image's ``ratio``."""
    model.eval()
    positions = range(len(scenes))
    batches = [positions[i : i + config.batch_size] for i in positions[:: config.batch_size]]

    def read(batch: range) -> tuple[Tensor, list[np.ndarray]]:
        pairs = [scenes.testing(position, tuned.mean) for position in batch]
        return torch.stack([image for image, _ in pairs]), [ratio for _, ratio in pairs]

    done = 0
    for images, ratios in ahead(read, batches, context.workers):
        # Closed before each result is given: the mode is the caller's too while a generator waits.
        with torch.inference_mode():
            found = model(tuned.normalize(images.to(context.device)))
        yield from zip(found, ratios, strict=True)
        done += len(images)
        context.progress("testing", done, len(scenes))
