"""LoRA: a frozen matrix W stands for W + (alpha / r) B A, of which B and A are learned (Hu et al. 2021, section 4.1)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """The sum of a matrix ``(outputs, inputs)`` and a product of rank r, zero at the start.

    A starts as a linear layer of torch does and B at zero, as in the released code (``loralib/layers.py``).

    Args:
        outputs: rows of B.
        inputs: columns of A.
        rank: r.
        alpha: the product is multiplied by alpha / r.
    """

    def __init__(self, outputs: int, inputs: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.empty(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Add the product, in float32."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.b @ self.a)


def add_lora(module: nn.Module, rank: int, alpha: float) -> list[nn.Parameter]:
    """Adapt ``qkv`` and ``proj`` of every attention of a timm encoder, in place.

    The weight itself is replaced, since SwinV2 and BEiT read it without calling the layer. Queries, keys and values are one matrix in timm,
    and share A.

    Args:
        module: timm's; it is changed.
        rank: r.
        alpha: scale of the product, times r.

    Returns:
        A and B of each matrix, ``(r, inputs)`` and ``(outputs, r)``.
    """
    learned: list[nn.Parameter] = []
    attentions = [part for part in module.modules() if isinstance(getattr(part, "qkv", None), nn.Linear)]
    for layer in (layer for attention in attentions for layer in (attention.qkv, attention.proj)):
        assert isinstance(layer, nn.Linear)
        low_rank = LowRank(layer.out_features, layer.in_features, rank, alpha).to(layer.weight.device)
        parametrize.register_parametrization(layer, "weight", low_rank)
        learned += [low_rank.a, low_rank.b]
    return learned


def merge(module: nn.Module) -> None:
    """Put W + (alpha / r) B A in the place of every W, so that nothing is left to add (Hu et al. 2021, section 4.1)."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
