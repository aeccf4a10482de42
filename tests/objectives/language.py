"""Small towers, and images that are easy to tell apart by their captions."""

from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mimcore.models import encoder as encoders
from mimcore.models.objective import Trained, drawn_for
from mimcore.training.state import Run, start_run
from mimcore.training.step import train_step

SIDE, P = 16, 4
MODEL: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "image_size": SIDE,
    "patch_size": P,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
}
TOWER: dict[str, Any] = {
    "tokenizer": "bytes",
    "context_length": 12,
    "text_width": 32,
    "text_depth": 1,
    "text_num_heads": 2,
    "projection_dim": 16,
}
SCHEDULE: dict[str, Any] = {
    "images_seen": 64 * 48,
    "batch_size": 48,
    "base_learning_rate": 1.6e-2,
    "warmup_images": 48,
    "precision": "float32",
    "crop_scale": (1.0, 1.0),
    "horizontal_flip": False,
    "validations": 1,
}
CPU = torch.device("cpu")
COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 230, 20),
    "blue": (20, 20, 230),
    "white": (240, 240, 240),
    "black": (9, 9, 9),
}
COLOURS |= {"yellow": (230, 230, 20), "cyan": (20, 230, 230), "pink": (230, 20, 230)}


def encoder(**options: Any) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(encoders.Config(**MODEL | options))


def coloured(batch: int, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Images of a colour and some noise, uint8 ``(B, 3, H, W)``, and the name of the colour; each in turn."""
    generator = torch.Generator().manual_seed(seed)
    names = [list(COLOURS)[i % len(COLOURS)] for i in range(batch)]
    plain = torch.tensor([COLOURS[name] for name in names]).view(batch, 3, 1, 1).expand(-1, -1, SIDE, SIDE)
    noise = torch.randint(-9, 10, (batch, 3, SIDE, SIDE), generator=generator)
    return (plain + noise).clamp(0, 255).byte(), names


def run_of(objective: dict[str, Any], model: dict[str, Any] | None = None, **schedule: Any) -> Run:
    declared = {
        "objective": objective,
        "model": MODEL | (model or {}),
        "schedule": SCHEDULE | schedule,
        "seed": "s0",
    }
    return start_run(declared, CPU)


def rows(captions: list[str | None]) -> pa.Table:
    return pa.table({"caption": pa.array(captions, pa.string())})


def steps(run: Run, count: int, images: Tensor, table: pa.Table) -> Run:
    read = run.objective.read(table)
    for _ in range(count):
        train_step(run, images, read)
        run.objective.after_step(run.step, run.schedule.steps)
    return run


def drawn(objective: Trained, table: pa.Table, seed: int = 0) -> Any:
    return drawn_for(objective, len(table), torch.Generator().manual_seed(seed), table)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
