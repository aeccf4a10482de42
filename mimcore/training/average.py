"""An exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mimcore.training.ranks import as_parts, forget_gathered


class Average:
    """Averages the trained parameters of a module, step by step: a = decay * a + (1 - decay) * w."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self._module = decay, module
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        #: float32, by the names of the parameters.
        self.weights = {name: p.detach().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after a step."""
        now = [p.detach() for p in self._trained.values()]
        torch._foreach_lerp_(list(self.weights.values()), now, 1 - self.decay)

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Go back to saved averages: whole ones, or parts as the module has them."""
        for name, weight in self.weights.items():
            weight.copy_(as_parts(weights[name], weight))

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Within the block, the module has the average as its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self.weights.items():
            kept = self._trained[name].detach().clone()
            self._trained[name].copy_(weight)
            weight.copy_(kept)
        forget_gathered(self._module)
