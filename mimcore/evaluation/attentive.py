"""Attentive probe: a learned query reads the frozen patches by cross-attention, before a linear classifier.

Chen et al. 2022 ('Context autoencoder') introduce it, since what predicts patches trains no token that stands for the image. The block and
the recipe are those of V-JEPA's released code (Bardes et al. 2024, ``AttentiveClassifier`` and its ImageNet configuration): the query
attends to all patches, without a projection after the attention, and its result passes a residual MLP of four times the width. The
encoder is not trained; images are cropped and mirrored at random, without V-JEPA's AutoAugment and erasing.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation.classification import CropOptions, batches, random_crop, top1
from mimcore.evaluation.features import autocast
from mimcore.evaluation.recipe import FrozenRecipe, head_groups, train
from mimcore.evaluation.task import Context, Data, Images, Metric, Needs, Value, class_count, labels_of, seeded
from mimcore.models import families
from mimcore.models.encoder import Encoder

METRICS = {"top1": Metric("Top-1 accuracy of an attentive probe")}
PIXELS = False
NEEDS: Needs = "labels"


class Config(CropOptions, FrozenRecipe):
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
    head.eval()
    return {"top1": top1(lambda images: head(_tokens(encoder, images, config)), data.test, context)}


def _tokens(encoder: Encoder, pixels: Tensor, config: Config) -> Tensor:
    with torch.no_grad(), autocast(pixels.device, config.precision):
        return families.patch_tokens(encoder.module, encoder.normalize(pixels)).float()


def _losses(
    encoder: Encoder, head: AttentiveHead, images: Images, config: Config, context: Context
) -> Callable[[int], Tensor]:
    """Make the function from a step to its loss."""
    labels = labels_of(images)

    def read(step: int, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(images.get(positions)), labels[positions]

    ready = batches(read, len(images), config, context)

    def losses(step: int) -> Tensor:
        pixels, target = next(ready)
        pixels = random_crop(pixels, config, context.seed, step)
        return F.cross_entropy(head(_tokens(encoder, pixels, config)), target)

    return losses
