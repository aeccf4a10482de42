"""Attentive probe: a learned query reads the frozen patches by cross-attention, before a linear classifier.

Chen et al. 2022 ('Context autoencoder') introduce it, since what predicts patches trains no token that stands for the image. The block and
the recipe are those of V-JEPA's released code (Bardes et al. 2024, ``AttentiveClassifier`` and its ImageNet configuration): the query
attends to all patches, without a projection after the attention, and its result passes a residual MLP of four times the width. The
encoder is not trained; images are cropped and mirrored at random, without V-JEPA's AutoAugment and erasing.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from mimcore.data.crops import random_resized_crop
from mimcore.errors import UserError
from mimcore.evaluation.features import ahead, autocast
from mimcore.evaluation.recipe import Recipe, head_groups, order, train
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
from mimcore.models.encoder import Encoder

METRICS = {"top1": Metric("Top-1 accuracy of an attentive probe")}
PIXELS = False
NEEDS: Needs = "labels"

#: Least and greatest width over height of a crop (torchvision's default).
CROP_RATIO = (3 / 4, 4 / 3)


class Config(Recipe):
    """Options of attentive probing; defaults without a source of their own are V-JEPA's for ImageNet, of 20 epochs
    (``configs/evals/vitl16_in1k.yaml``).
    """

    batch_size: int = Field(1024, ge=1)
    #: Peak learning rate, at whatever batch.
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    warmup_fraction: float = Field(0.0, ge=0, lt=1)
    #: Attention heads; 16 there, for widths of 1024 and 1280. It must divide the encoder's width.
    num_heads: int = Field(16, ge=1)
    #: Least and greatest share of the area that a crop keeps; (1, 1) with ``mirror`` false takes images as they are.
    crop_scale: tuple[float, float] = (0.08, 1.0)
    #: Whether images are mirrored half of the time; not for letters and digits.
    mirror: bool = True
    #: Not used: no layer of the encoder is trained.
    layer_decay: float = Field(1.0, gt=0, le=1)
    drop_path_rate: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must rise within (0, 1]")
        if self.layer_decay != 1 or self.drop_path_rate:
            raise ValueError("layer_decay and drop_path_rate are of encoders that are trained; leave them out")
        return self


class AttentiveHead(nn.Module):
    """Tokens ``(B, N, D)`` to scores ``(B, C)``.

    Args:
        width: D.
        classes: C.
        num_heads: of the attention; a divisor of D.
    """

    def __init__(self, width: int, classes: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        last = nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), last)
        self.classifier = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.query, std=0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        with torch.no_grad():
            last.weight.div_(math.sqrt(2))

    def pool(self, tokens: Tensor) -> Tensor:
        """What the query reads, ``(B, D)``: x = q + attention(q, norm(tokens)), then x + mlp(norm(x))."""
        heads = (self.num_heads, -1)
        keys, values = self.kv(self.norm(tokens)).chunk(2, dim=-1)
        query = self.query.expand(len(tokens), -1, -1)
        parts = [part.unflatten(-1, heads).transpose(1, 2) for part in (self.q(query), keys, values)]
        x = query + F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = x + self.mlp(self.norm_mlp(x))
        pooled: Tensor = x[:, 0]
        return pooled

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores."""
        scores: Tensor = self.classifier(self.pool(tokens))
        return scores


def evaluate(encoder: Encoder, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Train the head and return the top-1 accuracy on the test images.

    Raises:
        UserError: the heads do not divide the encoder's width, or the loss stops being finite.
    """
    width = int(encoder.module.num_features)
    if width % config.num_heads:
        raise UserError(
            f"{context.where}.num_heads: {config.num_heads} does not divide the encoder's width of {width}; choose one that does."
        )
    classes = class_count(data, context.where)
    encoder.module.to(context.device).eval()
    with seeded(context.seed, context.device):
        head = AttentiveHead(width, classes, config.num_heads).to(context.device)
        losses = _losses(encoder, head, data.train, config, context)
        train(head_groups(list(head.parameters()), config), config.learning_rate, losses, config, context)
    return {"top1": accuracy(_correct(encoder, head, data.test, config, context))}


def _tokens(encoder: Encoder, pixels: Tensor, config: Config) -> Tensor:
    with torch.no_grad(), autocast(pixels.device, config.precision):
        return families.patch_tokens(encoder.module, encoder.normalize(pixels)).float()


def _losses(
    encoder: Encoder, head: AttentiveHead, images: Images, config: Config, context: Context
) -> Callable[[int], Tensor]:
    """Make the function from a step to its loss."""
    labels = labels_of(images)

    def read(positions: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(images.get(positions)), labels[positions]

    ready: Iterator[tuple[Tensor, Tensor]] = ahead(
        read, order(len(images), config.batch_size, config.steps, context.seed), context.workers
    )
    plain = config.crop_scale == (1.0, 1.0)

    def losses(step: int) -> Tensor:
        pixels, target = (part.to(context.device, non_blocking=True) for part in next(ready))
        if config.mirror or not plain:
            generator = torch.Generator().manual_seed(seed_number("crop", str(context.seed), str(step)))
            ratio = (1.0, 1.0) if plain else CROP_RATIO
            pixels = random_resized_crop(pixels, config.crop_scale, ratio, config.mirror, generator)
        return F.cross_entropy(head(_tokens(encoder, pixels, config)), target)

    return losses


def _correct(encoder: Encoder, head: AttentiveHead, images: Images, config: Config, context: Context) -> Tensor:
    """Which test images are classified correctly, bool ``(N,)``."""
    head.eval()
    positions = np.split(np.arange(len(images)), range(256, len(images), 256))
    answers: list[Tensor] = []
    for batch in ahead(images.get, positions, context.workers):
        with torch.inference_mode():
            scores = head(_tokens(encoder, torch.from_numpy(batch).to(context.device), config))
        answers.append(scores.argmax(dim=1).cpu())
        context.progress("testing", sum(map(len, answers)), len(images))
    return torch.cat(answers) == labels_of(images)
