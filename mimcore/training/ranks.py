"""Several processes that train one run: each has its rows of every batch, and all have the same weights."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

Parallel = Literal["auto", "ddp", "fsdp"]

#: Bytes that a float32 parameter takes in training: itself, its gradient, and AdamW's two moments.
BYTES_PER_PARAMETER = 16


@dataclass(frozen=True)
class Ranks:
    """A process among those that train the run."""

    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what the run writes."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """The rows of a global batch that are this rank's."""
        part = batch_size // self.world_size
        return slice(self.rank * part, (self.rank + 1) * part)

    def sum(self, *values: float) -> list[float]:
        """Sums over the ranks, in float64."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def any(self, *flags: bool) -> list[bool]:
        """Which flags some rank has raised."""
        return [bool(flag) for flag in self._reduced([float(flag) for flag in flags], dist.ReduceOp.MAX)]

    def any_on_device(self, flag: Tensor) -> Tensor:
        """Whether some rank has raised the flag, a bool scalar that stays on its device."""
        if self.world_size == 1:
            return flag
        found = flag.float()
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found > 0

    def told(self, value: Any) -> Any:
        """What the first rank has as ``value``."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Wait until every rank has come here."""
        self.sum(0.0)

    def _reduced(self, values: Any, how: Any) -> list[float]:
        if self.world_size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)  # on the CPU: a GPU's queue need not run empty for it
        dist.all_reduce(found, how)
        return found.tolist()


ALONE = Ranks()


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the ranks that the environment tells of (RANK, WORLD_SIZE, ... as ``torchrun`` sets them).

    Yields:
        The ranks, and this one's device: of the GPUs of a machine, the one with its LOCAL_RANK.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    backend = "gloo"
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()


def spread(objective: nn.Module, ranks: Ranks, parallel: Parallel, device: torch.device) -> nn.Module:
    """Return what a step calls instead of the objective, so that gradients are means over the ranks.

    With ``fsdp`` the objective's own parameters, and whatever optimiser is built on them later, are parts of tensors
    (Zhao et al. 2023, 'PyTorch FSDP'; Rajbhandari et al. 2020, 'ZeRO', stage 3); ``auto`` does so where the training state
    would fill more than half of a GPU's memory.
    """
    if ranks.world_size == 1:
        return objective
    if parallel == "fsdp" or (parallel == "auto" and _too_large(objective, device)):
        for block in _blocks(objective):
            fully_shard(block)
        fully_shard(objective)
        if hasattr(objective, "reconstruct"):
            register_fsdp_forward_method(objective, "reconstruct")
        return objective
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)


def forget_gathered(module: nn.Module) -> None:
    """Let what a forward has gathered of the weights be gathered anew, as they have been changed by hand."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def sharded(objective: nn.Module) -> bool:
    """Whether each rank has only a part of every parameter."""
    return isinstance(objective, FSDPModule)


def accumulating(replica: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Around forward and backward of a micro-batch: gradients are reduced over the ranks with the last one only."""
    if isinstance(replica, FSDPModule):
        replica.set_requires_gradient_sync(last)
    elif isinstance(replica, DistributedDataParallel) and not last:
        return replica.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be a part of one, such as a norm of gradients, as every rank would have it alone."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def as_parts(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, in the parts that ranks have of ``like``, where they have parts; every rank must come here."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def _too_large(objective: nn.Module, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    needed = BYTES_PER_PARAMETER * sum(p.numel() for p in objective.parameters())
    return needed > torch.cuda.get_device_properties(device).total_memory / 2


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost blocks, which timm and this package name so; each is gathered while it works."""
    for child in module.children():
        if type(child).__name__.endswith("Block"):
            yield child
        else:
            yield from _blocks(child)
