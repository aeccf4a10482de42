"""The gradient of a loss that compares a whole batch, from micro-batches: gradient caching.

Gao et al. 2021, 'Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup', section 3.2: what the images bring to the
comparison is computed without a graph, then the gradient of the loss by it, then each micro-batch again, with a graph and that gradient.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.profiler import record_function

from mimcore.models.objective import Drawn, rows_of
from mimcore.models.whole_batch import Embedded
from mimcore.training.randomness import derive
from mimcore.training.ranks import accumulating
from mimcore.training.state import Run
from mimcore.training.validation import autocast


def accumulate_cached(run: Run, pixels: Tensor, drawn: Drawn) -> Tensor:
    """Leave the batch's gradients in the parameters and return its loss, float32 scalar.

    It takes a forward pass more than a batch at once, and the memory of a micro-batch.

    Args:
        run: its objective is a ``WholeBatch``.
        pixels: of this rank, ``(B, C, H, W)``.
        drawn: their rows.
    """
    with record_function("forward"), torch.no_grad():
        parts: list[Embedded] = []
        for at in _parts(run, len(pixels)):
            with autocast(run.device, run.schedule.precision):
                parts.append(run.replica(pixels[at], rows_of(drawn, at), {}))
    leaves = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
    loss: Tensor = run.objective.compare_all(leaves)["loss"]
    loss.backward()
    weights = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    for at in _parts(run, len(pixels)):
        with accumulating(run.reducer, last=at.stop >= len(pixels)):
            with record_function("forward"), autocast(run.device, run.schedule.precision):
                mine = {name: weight[at] for name, weight in weights.items()}
                surrogate = run.replica(pixels[at], rows_of(drawn, at), mine)["loss"]
            with record_function("backward"):
                surrogate.backward()
    return loss.detach()


def _parts(run: Run, batch: int) -> Iterator[slice]:
    """The micro-batches; what drop path draws in one is the same in both passes."""
    for start in range(0, batch, run.micro_batch):
        torch.manual_seed(derive(run.seed, f"layers/{run.ranks.rank}/{start}", run.step))
        yield slice(start, start + run.micro_batch)
