"""Runs that could be made, for the verbs that say what to run next: what they are, and what they would cost."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimcore.cli.plan import _subset_images
from mimcore.errors import UserError
from mimcore.runs import Coordinates
from mimcore.study import Study

if TYPE_CHECKING:
    import numpy as np

    from mimcore.plan.work import Counter
    from mimcore.scaling.estimate import Fit
    from mimcore.scaling.table import Run


@dataclass(frozen=True)
class Candidates:
    """Runs that could be made.

    ``runs`` has the coordinates of each that params.yaml has definitions for, else None; ``variables`` are each float64
    ``(N,)``, ``flops`` of training ``(N,)``, and ``precisions`` those of the matrix products.
    """

    names: tuple[str, ...]
    runs: tuple[Coordinates | None, ...]
    variables: "dict[str, np.ndarray]"
    flops: "np.ndarray"
    precisions: tuple[str, ...]

    def only(self, mask: "np.ndarray") -> "Candidates":
        """Those of a mask ``(N,)``."""
        index = [int(i) for i in mask.nonzero()[0]]
        return Candidates(
            tuple(self.names[i] for i in index),
            tuple(self.runs[i] for i in index),
            {name: values[index] for name, values in self.variables.items()},
            self.flops[index],
            tuple(self.precisions[i] for i in index),
        )


def of_study(study: Study, objective: str, taken: Collection[str], counter: "Counter") -> Candidates:
    """Every run that params.yaml has definitions for and that is not ``taken``; of an epoch at least.

    A run that never sees some of its images is none of that many.
    """
    study.options("objectives", objective)
    axes = (study.definitions["models"], study.grid.subsets, study.definitions["schedules"], study.grid.seeds)
    runs = [
        Coordinates(objective=objective, model=model, subset=subset, schedule=schedule, seed=seed)
        for model in axes[0]
        for subset in axes[1]
        for schedule in axes[2]
        for seed in axes[3]
    ]
    left = [
        at
        for at in runs
        if at.name not in taken and _subset_images(study, at.subset, at.seed) <= _length(study, at.schedule)
    ]
    if not left:
        raise UserError(
            f"{study.file}: every run of '{objective}' that its definitions allow, and that sees all of its images, is made or "
            "in the study; define another model, schedule or seed, or a larger subset."
        )
    variables, flops = variables_of(study, left, counter)
    precisions = tuple(_precision(study, at.schedule) for at in left)
    return Candidates(tuple(at.name for at in left), tuple(left), variables, flops, precisions)


def of_table(
    study: Study, path: Path, mapping: Path | None, fit: "Fit", made: "Sequence[Run]", taken: Collection[str]
) -> Candidates:
    """The runs of a table that are not ``taken``; FLOPs are its variable ``flops``, else read off those of runs that state them."""
    import numpy as np

    from mimcore.scaling.frontier import Price
    from mimcore.scaling.mapping import CANDIDATES_MAP, read_candidates, read_map
    from mimcore.scaling.pools import PREFIX

    meaning = CANDIDATES_MAP if mapping is None else read_map(mapping)
    variables, names = read_candidates(path, meaning)
    if meaning.pool is not None:
        others = (v.name for v in fit.law.variables if v.name.startswith(PREFIX) and v.name not in variables)
        variables |= {name: np.zeros(len(names)) for name in others}
    for variable in fit.law.variables:
        if variable.name not in variables:
            if variable.name.startswith(PREFIX):
                raise UserError(
                    f"{path}: the runs that were made are of several pools; say by 'pool' in the mapping of which each of these is."
                )
            raise UserError(
                f"{path}: the law '{fit.law.name}' is in {variable.name}, which the mapping's 'variables' do not give."
            )
    if "flops" in variables:
        flops = variables["flops"]
    else:
        for name in ("encoder_params", "images_seen"):
            if name not in variables:
                raise UserError(f"{path}: give {name} under the mapping's 'variables', or flops: a run has a cost.")
        priced = [run for run in made if run.flops > 0 and run.name in fit.observations.labels]
        if not priced:
            raise UserError(
                f"{path}: give flops under the mapping's 'variables': no run that was made states how many it took."
            )
        price = Price.of([run.encoder_params for run in priced], [run.flops / run.images_seen for run in priced])
        flops = price(variables["encoder_params"]) * variables["images_seen"]
    runs = tuple(_defined(study, name) for name in names)
    precision = _precision(study, study.grid.schedules[0])
    precisions = tuple(precision if at is None else _precision(study, at.schedule) for at in runs)
    found = Candidates(names, runs, variables, flops, precisions)
    left = np.array([name not in taken for name in names])
    if not left.any():
        raise UserError(f"{path}: every run of it is made or in the study; add others.")
    return found.only(left)


def target_of(study: Study, objective: str, target: str | None, allowed: Sequence[str]) -> Coordinates:
    """The run to forecast: as asked, else the largest of each that params.yaml defines.

    Args:
        study: the study.
        objective: whose law it is.
        target: MODEL-SUBSET-SCHEDULE.
        allowed: schedules, of which the longest is taken.
    """
    seed = study.grid.seeds[0]
    if target is not None:
        parts = target.split("-")
        if len(parts) != 3:
            raise UserError(f"--target: '{target}' is not MODEL-SUBSET-SCHEDULE, such as small-n8192-long.")
        model, subset, schedule = parts
        for kind, name in (("models", model), ("subsets", subset), ("schedules", schedule)):
            study.options(kind, name)
        return Coordinates(objective=objective, model=model, subset=subset, schedule=schedule, seed=seed)
    from mimcore.plan.work import parameters

    return Coordinates(
        objective=objective,
        model=max(study.definitions["models"], key=lambda name: parameters(study.options("models", name))),
        subset=max(study.grid.subsets, key=lambda name: _subset_images(study, name, seed)),
        schedule=max(allowed, key=lambda name: _length(study, name)),
        seed=seed,
    )


def schedules_of_length(study: Study, images_seen: float | None) -> list[str]:
    """Schedules of a length; all of them if none is given."""
    names = list(study.definitions["schedules"])
    return [name for name in names if images_seen is None or _length(study, name) == images_seen] or names


def variables_of(
    study: Study, runs: Sequence[Coordinates], counter: "Counter"
) -> "tuple[dict[str, np.ndarray], np.ndarray]":
    """What a law is asked with, with an indicator of each pool, and the training FLOPs of each run."""
    import numpy as np

    from mimcore.scaling.pools import PREFIX

    pools = [study.pool_of("subsets", at.subset) for at in runs]
    costs = [counter.cost(_definition(study, at)) for at in runs]
    seen = np.array([float(_length(study, at.schedule)) for at in runs])
    variables = {
        "encoder_params": np.array([float(cost.encoder_params) for cost in costs]),
        "unique_images": np.array([float(_subset_images(study, at.subset, at.seed)) for at in runs]),
        "images_seen": seen,
        **{PREFIX + pool: np.array([float(of == pool) for of in pools]) for pool in study.grid.pools},
    }
    return variables, np.array([cost.training for cost in costs]) * seen


def gpu_hours(candidates: Candidates, gpu: str, utilisation: float) -> "np.ndarray":
    """Hours of one GPU for the training of each, as ``mimcore plan`` prices it."""
    import numpy as np

    from mimcore.plan.price import on_gpu
    from mimcore.plan.work import Counted

    pairs = zip(candidates.flops.tolist(), candidates.precisions, strict=True)
    seconds = [on_gpu(Counted(flops=flops, precision=precision), gpu, utilisation) for flops, precision in pairs]
    return np.array(seconds) / 3600


def _defined(study: Study, name: str) -> Coordinates | None:
    """Coordinates of a run's name, if params.yaml defines all of them."""
    parts = name.split("-")
    if len(parts) != 5:
        return None
    at = Coordinates(**dict(zip(("objective", "model", "subset", "schedule", "seed"), parts, strict=True)))
    known = all(
        getattr(at, kind.removesuffix("s")) in study.definitions[kind] for kind in ("objectives", "models", "schedules")
    )
    return at if known and at.subset in study.grid.subsets and at.seed in study.grid.seeds else None


def _length(study: Study, schedule: str) -> int:
    return int(study.options("schedules", schedule)["images_seen"])


def _precision(study: Study, schedule: str) -> str:
    from mimcore.training.schedule import Schedule

    return str(study.options("schedules", schedule).get("precision", Schedule.model_fields["precision"].default))


def _definition(study: Study, at: Coordinates) -> Mapping[str, Any]:
    objective = {"module": study.module("objectives", at.objective)} | study.options("objectives", at.objective)
    return {"objective": objective, "model": study.options("models", at.model)}
