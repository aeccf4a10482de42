"""Floating-point operations of a training step, counted from what it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimcore import registry
from mimcore.definition import resolve
from mimcore.models import encoder as encoders
from mimcore.models import families
from mimcore.models.encoder import Encoder
from mimcore.models.objective import NOTHING, Given, drawn_for, left_as_it_was, moved
from mimcore.training.randomness import generator


@dataclass(frozen=True)
class Cost:
    """What an image costs a run.

    Attributes:
        training: operations of forward and backward for one image.
        forward: of forward alone, as in validation.
        encoder_params: weights that the run artifact keeps.
        params: weights of the whole model, decoder and all.
        left: whether the encoder is left as it was.
    """

    training: float
    forward: float
    encoder_params: int
    params: int
    left: bool


def training_flops_per_image(objective: Any, encoder: Encoder, images: torch.Tensor) -> float:
    """Count the matrix products of forward and backward for one image (a multiply-add counts as two).

    Element-wise work and the optimiser are left out. Attention counts with its matrix products.

    Args:
        objective: is run once; its gradients are cleared.
        encoder: normalises.
        images: uint8 ``(B, 3, H, W)``; two are enough, as the count is linear in the batch.
    """
    drawn = moved(drawn_for(objective, len(images), generator("flops", "mask")), images.device)
    # Fused attention computes a product twice, which is no part of the model: plain products are what is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(encoder.normalize(images), drawn)["loss"].backward()
    objective.zero_grad(set_to_none=True)
    return float(counter.get_total_flops() / len(images))


def trace(model: Mapping[str, Any], objective: Mapping[str, Any], given: Given = NOTHING) -> Cost:
    """Count what a run would compute, on shapes alone: no weight is made, so that a ViT-g takes a second.

    Args:
        model: a definition of ``models``.
        objective: a definition of ``objectives``, with its ``module``.
        given: to the objective.

    Raises:
        UserError: an option is unknown or impossible.
    """
    options = dict(objective)
    module = registry.load("objective", options.pop("module"))
    with torch.device("meta"):
        encoder = encoders.build(resolve(encoders.Config, model, "models"))
        target = module.Objective(encoder, resolve(module.Config, options, "objectives"), given)
        images = torch.empty(1, encoder.channels, *encoders.sides(encoder.image_size), dtype=torch.uint8)
    left = left_as_it_was(target)
    training = training_flops_per_image(target, encoder, images)
    drawn = moved(drawn_for(target, 1, generator("flops", "mask")), images.device)
    target.requires_grad_(
        False
    )  # or the counter looks for what made a view of a weight, and finds nothing under no_grad
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        target(encoder.normalize(images), drawn)
    return Cost(
        training=training,
        forward=float(counter.get_total_flops()),
        encoder_params=sum(p.numel() for p in encoder.module.parameters()),
        params=sum(p.numel() for p in target.parameters()),
        left=left,
    )


def encoder_flops(encoder: Encoder, image_size: int | tuple[int, int] | None = None) -> float:
    """Count the matrix products of the encoder alone for one whole image, all patches, forward.

    Args:
        encoder: of weights or of shapes alone (made under ``torch.device("meta")``).
        image_size: another input than the encoder's own, pixels.
    """
    kwargs = encoder.kwargs | ({} if image_size is None else {"img_size": image_size})
    with torch.device("meta"):
        module = families.create(encoder.model_name, kwargs)
        sides = encoders.sides(encoder.image_size if image_size is None else image_size)
        images = torch.empty(1, encoder.channels, *sides)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.forward_features(images)
    return float(counter.get_total_flops())
