"""One optimiser step."""

import torch

from mimcore.data.crops import random_flip, random_resized_crop
from mimcore.training.optimizer import set_learning_rate
from mimcore.training.randomness import derive, generator
from mimcore.training.state import Run
from mimcore.training.validation import autocast


def train_step(run: Run, images: torch.Tensor) -> None:
    """One optimiser step.

    Args:
        run: is changed.
        images: uint8 ``(B, C, H, W)``.
    """
    schedule, step = run.schedule, run.step
    set_learning_rate(run.optimizer, schedule.learning_rate(step))
    torch.manual_seed(derive(run.seed, "layers", step))  # drop path and dropout draw from the global generator
    images, draws = images.to(run.device), generator(run.seed, "augment", step)
    if schedule.crop_from == "image":
        pixels = random_flip(images, draws) if schedule.horizontal_flip else images
    else:
        pixels = random_resized_crop(images, schedule.crop_scale, schedule.crop_ratio, schedule.horizontal_flip, draws)
    with autocast(run.device, schedule.precision):
        loss = run.objective(run.encoder.normalize(pixels), generator(run.seed, "mask", step))["loss"]
    loss.backward()
    gradients = [p.grad for p in run.objective.parameters() if p.grad is not None]
    run.gradient_norm = torch.nn.utils.get_total_norm(gradients)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.loss_sum = run.loss_sum + loss.detach()
    run.loss_steps += 1
    run.step += 1
