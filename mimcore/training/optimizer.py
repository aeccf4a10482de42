"""AdamW with decay on matrices only."""

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from mimcore.training.schedule import Schedule


def build_optimizer(objective: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with MAE's betas; biases, norms and other vectors are not decayed."""
    groups = param_groups_weight_decay(objective, schedule.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=schedule.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
