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

#: Scalars of a run that are kept on its device, so that no step waits for it.
_ON_DEVICE = ("loss_sum", "loss_steps", "gradient_norm", "skipped", "skipped_in_a_row")


@dataclass
class Run:
    """Everything of a run in progress; what ``state`` returns is all that a resumed run needs."""

    encoder: encoders.Encoder
    objective: Any
    optimizer: torch.optim.AdamW
    schedule: Schedule
    seed: str
    device: torch.device
    #: What a step calls: the objective, or what was made of it for speed.
    replica: Any
    #: Images of a step that go through the model at once.
    micro_batch: int
    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    #: Sum of the training losses since the last point of the curve, and of how many steps.
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    loss_steps: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    gradient_norm: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    #: Steps that changed no weight, as their gradient was not finite: in all, and in a row up to now; int64 scalars.
    skipped: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    skipped_in_a_row: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    def __post_init__(self) -> None:
        for name in _ON_DEVICE:
            setattr(self, name, getattr(self, name).to(self.device))

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, bit for bit."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "curve": self.curve,
            **{name: getattr(self, name) for name in _ON_DEVICE},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.objective.load_state_dict(state["objective"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve = state["step"], state["curve"]
        for name in _ON_DEVICE:
            setattr(self, name, state[name].to(self.device))


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
    return Run(encoder, objective, optimizer, schedule, seed, device, objective, schedule.batch_size)
