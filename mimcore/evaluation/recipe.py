"""How a task trains an encoder end to end: AdamW, layer-wise learning rates, warmup and a decay."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from mimcore.errors import UserError
from mimcore.evaluation.task import Context, Precision, TaskConfig

#: How the learning rate falls after the warmup: half a cosine to 0 (Loshchilov & Hutter 2017); linearly to 0, as OpenMMLab's
#: 'poly' of power 1; or by ten at two milestones, ViTDet's (Detectron2's configuration: steps 163,889 and 177,546 of 184,375).
Decay = Literal["cosine", "linear", "milestones"]
MILESTONES = (163_889 / 184_375, 177_546 / 184_375)

#: Steps between looks at the loss: each makes an accelerator wait.
LOOK = 10


class Recipe(TaskConfig):
    """Options of the tasks that train the encoder."""

    #: Length of the training in images, repeats and all; a multiple of ``batch_size``.
    images_seen: int = Field(ge=1)
    #: Images of one step, on all devices together.
    batch_size: int = Field(ge=1)
    #: Share of the training with a rising learning rate; 5 of 100 epochs in MAE (He et al. 2022, table 9).
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    #: Where the warmup starts and the cosine ends; learning rates, not scaled by the batch.
    warmup_learning_rate: float = Field(0.0, ge=0)
    min_learning_rate: float = Field(0.0, ge=0)
    #: Where the cosine begins: at the end of the warmup (MAE), or at the start, so that the rate falls a little at the end of
    #: the warmup (SimMIM's released code, by timm's ``CosineLRScheduler`` without ``warmup_prefix``).
    cosine_from: Literal["warmup", "start"] = "warmup"
    #: Gradients are scaled down to this L2 norm; None leaves them (MAE), SimMIM clips at 5.
    clip_grad: float | None = Field(None, gt=0)
    #: How the learning rate falls: ``cosine`` (MAE), ``linear``, or by ten at ViTDet's two ``milestones``.
    decay: Decay = "cosine"
    #: Decoupled weight decay; norms, biases, positions and the class token have none.
    weight_decay: float = Field(ge=0)
    #: Learning rate of a block relative to the one above it (Clark et al. 2020; Bao et al. 2021).
    layer_decay: float = Field(gt=0, le=1)
    #: Stochastic depth of the last block, rising linearly from 0 at the first (Huang et al. 2016).
    drop_path_rate: float = Field(0.1, ge=0, lt=1)
    #: Precision of the encoder's forward pass; weights and losses are float32.
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _whole_steps(self) -> "Recipe":
        if self.images_seen % self.batch_size:
            near = max(1, round(self.images_seen / self.batch_size)) * self.batch_size
            raise ValueError(
                f"images_seen {self.images_seen} is no multiple of batch_size {self.batch_size}; the nearest is {near}"
            )
        return self

    @property
    def steps(self) -> int:
        """Steps of the optimiser."""
        return self.images_seen // self.batch_size


class FrozenRecipe(Recipe):
    """Options of the tasks that train a head, or little beside it, and leave the encoder's weights as they are."""

    #: Not used: no layer of the encoder is trained.
    layer_decay: float = Field(1.0, gt=0, le=1)
    drop_path_rate: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _frozen(self) -> "FrozenRecipe":
        if self.layer_decay != 1 or self.drop_path_rate:
            raise ValueError("layer_decay and drop_path_rate are of encoders that are trained; leave them out")
        return self


def rate(step: int, peak: float, config: Recipe) -> float:
    """Learning rate of a step: a linear rise to ``peak``, then the decay (a cosine: Loshchilov & Hutter 2017)."""
    warmup = round(config.steps * config.warmup_fraction)
    if step < warmup:
        start = config.warmup_learning_rate
        return start + (peak - start) * (step + 1) / warmup
    end = config.min_learning_rate
    if config.decay == "milestones":
        return max(end, peak * math.prod(0.1 for milestone in MILESTONES if step >= round(milestone * config.steps)))
    begun = warmup if config.cosine_from == "warmup" else 0
    done = (step - begun) / max(1, config.steps - begun)
    return end + (peak - end) * (1 - done if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def encoder_groups(module: nn.Module, config: Recipe, scale: float = 1.0) -> list[dict[str, Any]]:
    """Parameter groups of a timm vision transformer, with ``lr_scale`` falling from ``scale`` at its last layer."""
    skip = module.no_weight_decay()  # type: ignore[operator]
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        module, weight_decay=config.weight_decay, no_weight_decay_list=skip, layer_decay=config.layer_decay
    )
    return [group | {"lr_scale": group["lr_scale"] * scale} for group in groups]


def head_groups(parameters: list[nn.Parameter], config: Recipe) -> list[dict[str, Any]]:
    """Parameter groups of what is new: the full learning rate, and weight decay on matrices and kernels only."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay, "lr_scale": 1.0},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "lr_scale": 1.0},
    ]


def order(images: int, batch_size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the positions of each step's images, int64 ``(batch_size,)``: one permutation after another."""
    random = np.random.default_rng(seed)
    waiting = np.empty(0, np.int64)
    for _ in range(steps):
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, random.permutation(images)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def train(
    groups: list[dict[str, Any]],
    learning_rate: float,
    losses: Callable[[int], Tensor],
    config: Recipe,
    context: Context,
) -> None:
    """Train with AdamW (betas 0.9, 0.999: He et al. 2022, table 9; Li et al. 2022, appendix A.2).

    Args:
        groups: parameters with their ``lr_scale``.
        learning_rate: its peak, where ``lr_scale`` is 1.
        losses: maps a step to its loss, a scalar with a gradient.
        config: length and schedule.
        context: progress.

    Raises:
        UserError: the loss stops being finite.
    """
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999))
    for step in range(config.steps):
        now = rate(step, learning_rate, config)
        for group in optimizer.param_groups:
            group["lr"] = now * group["lr_scale"]
        loss = losses(step)
        optimizer.zero_grad()
        loss.backward()
        if config.clip_grad is not None:
            nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], config.clip_grad)
        optimizer.step()
        if step % LOOK == LOOK - 1 or step == config.steps - 1:
            done = (step + 1) * config.batch_size
            if not bool(torch.isfinite(loss)):
                raise UserError(
                    f"{context.where}: the loss is not finite after {done} of {config.images_seen} images; lower the "
                    "learning rate, lengthen warmup_fraction, or use precision 'float32'."
                )
            context.progress("training", done, config.images_seen)
