"""AdamW with decay on matrices only."""

from collections import defaultdict
from typing import Any

import torch
from timm.models.beit import Beit
from timm.optim import param_groups_weight_decay
from torch import nn

from mimcore.training.schedule import Schedule


def build_optimizer(objective: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); biases, norms and other vectors are not decayed, nor is a BEiT's class token.

    So do the released codes: MAE's decays a ViT's class token and its mask token, SimMIM's neither of its ViT's.

    Each group has an ``lr_scale``, which ``set_learning_rate`` multiplies the schedule's rate by.
    """
    fixed = ("encoder.cls_token", "encoder.pos_embed") if isinstance(getattr(objective, "encoder", None), Beit) else ()
    groups = param_groups_weight_decay(objective, schedule.weight_decay, no_weight_decay_list=fixed)
    scales = _width_scales(objective, schedule.learning_rate_width)
    split: list[dict[str, Any]] = []
    for group in groups:
        by_scale: dict[float, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            by_scale[scales.get(id(parameter), 1.0)].append(parameter)
        split += [group | {"params": parameters, "lr_scale": scale} for scale, parameters in by_scale.items()]
    return torch.optim.AdamW(split, lr=0.0, betas=schedule.betas, eps=schedule.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group the schedule's learning rate, times the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]


def _width_scales(objective: nn.Module, tuned_width: int | None) -> dict[int, float]:
    """For matrices of the encoder's linear layers, by id: the tuned width over the model's width."""
    if tuned_width is None:
        return {}
    encoder: Any = objective.encoder
    scale = tuned_width / int(encoder.num_features)
    return {id(layer.weight): scale for layer in encoder.modules() if isinstance(layer, nn.Linear)}
