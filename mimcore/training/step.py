"""One optimiser step: augment, forward and backward in micro-batches, update; nothing here waits for the device."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from mimcore.data.crops import random_flip, random_resized_crop
from mimcore.errors import UserError
from mimcore.models.attention import forget_weights
from mimcore.models.objective import Drawn, moved, rows_of, together, unknown
from mimcore.models.whole_batch import WholeBatch
from mimcore.training.cached import accumulate_cached
from mimcore.training.memory import fitting_micro_batch
from mimcore.training.optimizer import set_learning_rate
from mimcore.training.randomness import derive, generator
from mimcore.training.ranks import accumulating, whole
from mimcore.training.state import Run
from mimcore.training.validation import autocast

if TYPE_CHECKING:
    from mimcore.execution import Execution


def speed_up(run: Run, execution: "Execution", images: Tensor) -> None:
    """Apply what changes only speed and memory: attention, checkpointing of activations, the micro-batch, the compiler.

    Args:
        run: is changed.
        execution: says what to do.
        images: a few of the training images, uint8 ``(B, C, H, W)``, to measure the memory of one with.

    Raises:
        UserError: an option does not go with the objective or this machine.
    """
    if run.device.type == "cpu":
        for part in run.objective.modules():
            forget_weights(part)
    if execution.activation_checkpointing:
        checkpoint_blocks(run.objective)
    whole_batch, ranks = run.objective.whole_batch, run.ranks.world_size
    at_once = whole_batch and not isinstance(run.objective, WholeBatch)
    batch = run.schedule.batch_size // ranks
    if whole_batch and ranks > 1 and not run.objective.gathers:
        raise UserError(
            f"the loss of this objective needs the whole batch at once, and {ranks} processes train with a part of it each; "
            "set execution.ranks to 1."
        )
    if execution.micro_batch != "auto":
        run.micro_batch = min(execution.micro_batch, batch)
    elif not at_once:
        run.micro_batch = fitting_micro_batch(run, images, batch)
    if at_once and run.micro_batch < batch:
        raise UserError(
            f"execution.micro_batch: {run.micro_batch} is less than the batch of {batch}, and the loss of this objective "
            "needs the whole batch at once; leave it at 'auto', or lower batch_size in the run's schedule."
        )
    if ranks > 1:
        run.spread(execution.parallel)
    if execution.compile != "off":
        run.replica = compiled(run.replica, execution.compile, run.device)


def checkpoint_blocks(objective: nn.Module) -> None:
    """Keep only the inputs of transformer blocks and compute them again for the backward pass (Chen et al. 2016, section 3)."""
    for part in objective.modules():
        if isinstance(blocks := getattr(part, "blocks", None), nn.ModuleList | nn.Sequential):
            for block in blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compiled(objective: Any, mode: str, device: torch.device) -> Callable[..., dict[str, Tensor]]:
    """The objective's forward, compiled for fixed shapes by torch (a backward follows from it).

    Raises:
        UserError: a CPU's compiled code needs a C++ compiler, and there is none.
    """
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except (InvalidCxxCompiler, RuntimeError):
            raise UserError(
                f"execution.compile: '{mode}' needs a C++ compiler on a CPU; install g++, or set it to 'off'."
            ) from None
    made: Callable[..., dict[str, Tensor]] = torch.compile(objective, dynamic=False, mode=mode)
    return made


def train_step(run: Run, images: Tensor, read: Mapping[str, Tensor] | None = None) -> None:
    """One optimiser step.

    A step whose loss or gradient is not finite changes no weight and is counted in ``run.skipped``, on the device.

    Args:
        run: is changed.
        images: this rank's part of the batch, uint8 ``(B, C, H, W)``.
        read: what the objective read of their rows; None for images of which nothing is known.
    """
    set_learning_rate(run.optimizer, run.schedule.learning_rate(run.step))
    with record_function("augment"):
        pixels = augmented(run, images.to(run.device))
    drawn = run.objective.draw(run.schedule.batch_size, generator(run.seed, "mask", run.step))
    first = run.ranks.rows(run.schedule.batch_size).start
    drawn = rows_of(drawn, slice(first, first + len(images)))
    if run.objective.columns:
        drawn = together(drawn, run.objective.read(unknown(run.objective, len(images))) if read is None else read)
    loss = backward(run, pixels, moved(drawn, run.device))
    with record_function("optimiser"):
        update(run, loss)
    run.step += 1


def augmented(run: Run, images: Tensor) -> Tensor:
    """Crop and flip at random, and normalise: float32 ``(B, C, H, W)``."""
    schedule, draws = run.schedule, generator(run.seed, "augment", run.step)
    batch, first = schedule.batch_size, run.ranks.rows(schedule.batch_size).start
    if schedule.crop_from == "image":
        pixels = random_flip(images, draws, batch, first) if schedule.horizontal_flip else images
    else:
        how = (schedule.crop_scale, schedule.crop_ratio, schedule.horizontal_flip)
        pixels = random_resized_crop(images, *how, draws, batch, first, schedule.crop_interpolation)
    return run.encoder.normalize(pixels)


def backward(run: Run, pixels: Tensor, drawn: Drawn) -> Tensor:
    """Leave the batch's gradients in the parameters and return its loss, float32 scalar.

    Where a GPU's memory runs out, the micro-batch is halved, for good, and the batch is begun again.

    Raises:
        UserError: not even one image fits, or the objective needs the whole batch.
    """
    while True:
        # Drop path and dropout draw from the global generator, each rank and micro-batch for itself.
        layers = f"layers/{run.ranks.rank}" if run.ranks.rank else "layers"
        torch.manual_seed(derive(run.seed, layers, run.step))
        try:
            return accumulate(run, pixels, drawn)
        except torch.OutOfMemoryError:
            pass  # the error holds tensors: they are free only out here
        run.optimizer.zero_grad(set_to_none=True)
        if run.ranks.world_size > 1:  # the others wait for this one's gradients, and may not begin again
            raise UserError(
                f"the {run.device} of rank {run.ranks.rank} ran out of memory with {run.micro_batch} images at once; set "
                f"execution.micro_batch to {max(run.micro_batch // 2, 1)}, or execution.activation_checkpointing."
            )
        if run.micro_batch == 1 or (run.objective.whole_batch and not isinstance(run.objective, WholeBatch)):
            raise UserError(
                f"the {run.device} has too little memory for {run.micro_batch} images of this model at once; set "
                "execution.activation_checkpointing, or take a smaller model or image_size."
            )
        run.micro_batch = (min(run.micro_batch, len(pixels)) + 1) // 2
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


def accumulate(run: Run, pixels: Tensor, drawn: Drawn) -> Tensor:
    """Sum the gradients of the micro-batches, each with the weight of its images."""
    if isinstance(run.objective, WholeBatch) and run.micro_batch < len(pixels):
        return accumulate_cached(run, pixels, drawn)
    total = torch.zeros((), device=run.device)
    for start in range(0, len(pixels), run.micro_batch):
        at = slice(start, start + run.micro_batch)
        part, rows = pixels[at], rows_of(drawn, at)
        with accumulating(run.reducer, last=start + run.micro_batch >= len(pixels)):
            with record_function("forward"), autocast(run.device, run.schedule.precision):
                loss = run.replica(part, rows)["loss"] * (len(part) / len(pixels))
            with record_function("backward"):
                loss.backward()
        total = total + loss.detach()
    return total


def update(run: Run, loss: Tensor) -> None:
    """Clip, update and count; the fused optimiser takes ``found_inf`` and ``grad_scale`` as it does from ``GradScaler``."""
    gradients = [p.grad for p in run.objective.parameters() if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients))
    lost = run.ranks.any_on_device(~torch.isfinite(norm + loss))
    run.optimizer.found_inf = lost.float()  # type: ignore[attr-defined]
    if run.schedule.clip_grad is not None:
        run.optimizer.grad_scale = (norm / run.schedule.clip_grad).clamp(min=1)  # type: ignore[attr-defined]
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.gradient_norm = norm
    run.loss_sum = run.loss_sum + torch.where(lost, 0.0, loss)
    run.loss_steps = run.loss_steps + ~lost
    run.skipped = run.skipped + lost
    run.skipped_in_a_row = torch.where(lost, run.skipped_in_a_row + 1, 0)
