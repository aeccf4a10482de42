"""How many images fit into memory at once."""

from pathlib import Path

import torch
from torch import Tensor

from mimcore.models.objective import drawn_for, moved
from mimcore.training.randomness import generator
from mimcore.training.state import Run
from mimcore.training.validation import autocast

#: Part of the memory at hand that activations may take; the rest is for what a step needs in passing.
SHARE = 0.6


def fitting_micro_batch(run: Run, images: Tensor, batch: int) -> int:
    """The largest half, quarter, ... of the batch whose activations fit.

    On a CPU it follows from the whole memory of the machine (or of its control group), not from what is free, so that a run
    repeated on a machine is the same bit for bit.

    Args:
        run: is not changed.
        images: a few, uint8 ``(B, C, H, W)``.
        batch: images of a step on this device.
    """
    fixed = sum(4 * 4 * p.numel() for p in run.objective.parameters())  # weight, gradient, two moments
    on_gpu = run.device.type == "cuda"
    room = (
        torch.cuda.mem_get_info(run.device)[0] if on_gpu else machine_memory()
    ) - fixed  # the moments are not made yet
    each = activation_bytes(run, images)
    micro_batch = batch
    while micro_batch > 1 and micro_batch * each > SHARE * room:
        micro_batch = (micro_batch + 1) // 2
    return micro_batch


def activation_bytes(run: Run, images: Tensor) -> float:
    """Bytes that autograd keeps for the backward pass of one image; weights aside."""
    own = {p.untyped_storage().data_ptr() for p in run.objective.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that kept its own output as it is would never be freed

    images = images.to(run.device)
    drawn = moved(drawn_for(run.objective, len(images), generator("memory", "mask")), run.device)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        autocast(run.device, run.schedule.precision),
    ):
        loss = run.objective(run.encoder.normalize(images), drawn)["loss"]
    del loss
    return sum(kept.values()) / len(images)


def machine_memory() -> int:
    """Bytes of the machine, or of the control group that this process may use."""
    pages = Path("/proc/meminfo").read_text(encoding="utf-8").split("MemTotal:")[1].split()[0]
    found = int(pages) << 10
    limits = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    for file in limits:
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            found = min(found, int(text))
    return found
