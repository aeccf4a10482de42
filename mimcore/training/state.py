"""What a run in progress is: model, objective, optimiser, and where it has come to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mimcore import registry
from mimcore.definition import resolve
from mimcore.models import encoder as encoders
from mimcore.training.optimizer import build_optimizer
from mimcore.training.randomness import derive
from mimcore.training.schedule import Schedule


@dataclass
class Run:
    """Everything of a run in progress; what ``state`` returns is all that a resumed run needs."""

    encoder: encoders.Encoder
    objective: Any
    optimizer: torch.optim.AdamW
    schedule: Schedule
    seed: str
    device: torch.device
    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    #: Sum of the training losses since the last point of the curve, and of how many steps.
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    loss_steps: int = 0
    gradient_norm: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, bit for bit."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "curve": self.curve,
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "gradient_norm": self.gradient_norm,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.objective.load_state_dict(state["objective"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve = state["step"], state["curve"]
        self.loss_sum, self.loss_steps = state["loss_sum"].to(self.device), state["loss_steps"]
        self.gradient_norm = state["gradient_norm"].to(self.device)


def start_run(definition: Mapping[str, Any], device: torch.device) -> Run:
    """Build the model, the objective and the optimiser of a definition; the weights are a function of its seed."""
    seed = str(definition["seed"])
    schedule = resolve(Schedule, definition["schedule"], "schedules")
    options = dict(definition["objective"])
    module = registry.load("objective", options.pop("module"))
    torch.manual_seed(derive(seed, "weights"))
    encoder = encoders.build(resolve(encoders.Config, definition["model"], "models"))
    objective = module.Objective(encoder, resolve(module.Config, options, "objectives"))
    encoders.place(objective, device)
    objective.train()
    optimizer = build_optimizer(objective, schedule)
    return Run(encoder, objective, optimizer, schedule, seed, device)
