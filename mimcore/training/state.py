"""What a run in progress is: model, objective, optimiser, and where it has come to."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict as parts

from mimcore import registry
from mimcore.data.paths import main_checkout
from mimcore.definition import resolve
from mimcore.models import encoder as encoders
from mimcore.models.continued import begin, begin_after
from mimcore.models.objective import NOTHING, Given
from mimcore.models.whole_batch import WholeBatch
from mimcore.training.average import Average
from mimcore.training.optimizer import build_optimizer
from mimcore.training.randomness import derive
from mimcore.training.ranks import ALONE, Parallel, Ranks, sharded, spread, whole
from mimcore.training.schedule import Schedule

#: Scalars of a run that are kept on its device, so that no step waits for it.
_ON_DEVICE = ("loss_sum", "loss_steps", "gradient_norm", "skipped", "skipped_in_a_row")


@dataclass
class Run:
    """Everything of a run in progress; ``counts`` and ``tensors`` are all that a resumed run needs."""

    encoder: encoders.Encoder
    objective: Any
    optimizer: torch.optim.AdamW
    schedule: Schedule
    seed: str
    device: torch.device
    #: What a step calls: the objective, or what was made of it for ranks and for speed.
    replica: Any
    #: Images of a step that go through the model at once.
    micro_batch: int
    ranks: Ranks = ALONE
    #: The objective, or what reduces its gradients over the ranks.
    reducer: Any = None
    average: Average | None = None
    given: Given = NOTHING
    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    #: Sum of the training losses of this rank since the last point of the curve, and of how many steps.
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    loss_steps: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    gradient_norm: Tensor = field(default_factory=lambda: torch.zeros(()))
    #: Steps that changed no weight, as their gradient was not finite: in all, and in a row up to now; int64 scalars.
    skipped: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    skipped_in_a_row: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    def __post_init__(self) -> None:
        self.start_average()
        for name in _ON_DEVICE:
            setattr(self, name, getattr(self, name).to(self.device))

    def start_average(self) -> None:
        """Begin the average of the weights, where the schedule asks for one."""
        decay = self.schedule.ema_decay
        self.average = Average(self.objective, decay) if decay else None

    def spread(self, parallel: Parallel) -> None:
        """Reduce gradients over the ranks from now on; before the first step, as it may replace the parameters."""
        self.reducer = self.replica = spread(self.objective, self.ranks, parallel, self.device)
        if isinstance(self.objective, WholeBatch):
            self.objective.gathering = True
        self.optimizer = build_optimizer(self.objective, self.schedule)
        self.start_average()

    @property
    def images_seen(self) -> int:
        """Images of all steps taken."""
        return self.step * self.schedule.batch_size

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block, the objective has the weights that are validated and saved."""
        return self.average.in_force() if self.average else nullcontext()

    def counts(self) -> dict[str, Any]:
        """What is the same on every rank, and small. Every rank must ask for it at once."""
        found = {name: getattr(self, name).cpu() for name in _ON_DEVICE}
        if self.ranks.world_size > 1:
            found["loss_sum"] = torch.tensor(self.ranks.sum(float(self.loss_sum))[0] / self.ranks.world_size)
        return {"step": self.step, "curve": list(self.curve), **found}

    def tensors(self) -> dict[str, Any]:
        """Weights, moments and averages, by the names of the parameters; views, and this rank's parts of them."""
        found = {
            "objective": parts.get_model_state_dict(self.objective),
            "optimizer": parts.get_optimizer_state_dict(self.objective, self.optimizer),
        }
        return found | ({"average": dict(self.average.weights)} if self.average else {})

    def whole_tensors(self) -> dict[str, Any]:
        """What ``tensors`` tells of, whole and on the CPU where ranks have parts; every rank must come here."""
        if not sharded(self.objective):
            return self.tensors()
        options = parts.StateDictOptions(full_state_dict=True, cpu_offload=True)
        found = {
            "objective": parts.get_model_state_dict(self.objective, options=options),
            "optimizer": parts.get_optimizer_state_dict(self.objective, self.optimizer, options=options),
        }
        average = self.average.weights.items() if self.average else ()
        return found | ({"average": {name: whole(weight) for name, weight in average}} if self.average else {})

    def restore(self, counts: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        """Go back to a saved state: whole tensors, or parts as ``tensors`` has them."""
        in_parts = any(hasattr(weight, "full_tensor") for weight in tensors["objective"].values())
        options = parts.StateDictOptions(full_state_dict=sharded(self.objective) and not in_parts)
        parts.set_model_state_dict(self.objective, dict(tensors["objective"]), options=options)
        parts.set_optimizer_state_dict(self.objective, self.optimizer, dict(tensors["optimizer"]), options=options)
        if self.average:
            self.average.load(tensors["average"])
        self.step, self.curve = counts["step"], list(counts["curve"])
        for name in _ON_DEVICE:
            setattr(self, name, counts[name].to(self.device))

    def finished(self, definition: Mapping[str, Any]) -> "Run":
        """The run with the weights that are saved, whole and in no way spread; every rank must come here."""
        if self.ranks.world_size == 1 and not self.average:
            return self
        with self.averaged():
            options = parts.StateDictOptions(full_state_dict=True)
            weights = parts.get_model_state_dict(self.objective, options=options)
            model = {name: value for name, value in definition["model"].items() if name != "initial"}
            found = start_run({**definition, "model": model}, self.device, given=self.given)
            found.objective.load_state_dict(weights, strict=True)
        found.step, found.curve = self.step, self.curve
        return found


def start_run(
    definition: Mapping[str, Any],
    device: torch.device,
    ranks: Ranks = ALONE,
    given: Given = NOTHING,
    after: Path | None = None,
    root: Path | None = None,
) -> Run:
    """Build the model, the objective and the optimiser of a definition; the weights are a function of its seed.

    Args:
        definition: of the run.
        device: where to train.
        ranks: that train together.
        given: to the objective.
        after: folder of the run that a phase follows. Without it the encoder of a phase begins afresh, for those that only count
            or load weights themselves.
        root: relative paths start here, or in a git worktree at its counterpart in the main checkout; by default the
            working folder.
    """
    seed = str(definition["seed"])
    schedule = resolve(Schedule, definition["schedule"], "schedules")
    options = dict(definition["objective"])
    module = registry.load("objective", options.pop("module"))
    torch.manual_seed(derive(seed, "weights"))
    model = resolve(encoders.Config, definition["model"], "models")
    encoder = encoders.build(model)
    objective = module.Objective(encoder, resolve(module.Config, options, "objectives"), given)
    if definition.get("use") in ("weights", "state"):
        if definition["use"] == "weights" and after is not None:
            begin_after(encoder, after)
    else:
        begin(encoder, objective, model, main_checkout(root or Path.cwd()))
    objective.started()
    encoders.place(objective, device)
    objective.train()
    optimizer = build_optimizer(objective, schedule)
    mine = schedule.batch_size // ranks.world_size
    return Run(encoder, objective, optimizer, schedule, seed, device, objective, mine, ranks, objective, given=given)
