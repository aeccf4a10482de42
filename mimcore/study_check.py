"""Whether every option of a study is right, and what must fit together does: what ``Study.check`` asks."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from mimcore import registry
from mimcore.definition import nearest, problems
from mimcore.errors import UserError
from mimcore.evaluation.features import FeaturesConfig
from mimcore.evaluation.task import metrics_of
from mimcore.models.encoder import Config as ModelConfig
from mimcore.runs import Phase
from mimcore.sampling.draw import mistakes
from mimcore.scaling.claim import Claim, Coordinate
from mimcore.scaling.claim import mistakes as mistakes_of_claim
from mimcore.scaling.fit_options import Config as FitConfig
from mimcore.scaling.table import PRETRAIN, VAL_LOSS
from mimcore.training.schedule import Schedule, branch_start

if TYPE_CHECKING:
    from mimcore.study import Study


def mistakes_of(study: "Study") -> list[str]:
    """Mistakes in the options of all definitions, used or not, and in what must fit together, each with its dotted path."""
    wrong = problems(FitConfig, study.fit, "fit") or list(_names_of_nothing(study))
    for kind, config in (("models", ModelConfig), ("schedules", Schedule), ("features", FeaturesConfig)):
        for name, options in study.definitions[kind].items():
            wrong += problems(config, options, f"{kind}.{name}")
    if not wrong:
        for name, phase in study.grid.phases.items():
            wrong += [f"study.phases.{name}: {sentence}" for sentence in _unfit(study, phase)]
    for name, options in study.definitions["subsets"].items():
        wrong += mistakes(options, f"subsets.{name}")
    for kind, what in (("objectives", "objective"), ("tasks", "task"), ("pools", "format")):
        for name, options in study.definitions[kind].items():
            given = dict(options)
            module = given.pop("format", None) if kind == "pools" else given.pop("module", name)
            meant = kind == "tasks" and ("features" in given or module in registry.names("probe"))
            found = "probe" if meant else what
            try:
                config = registry.load(cast("registry.Kind", found), str(module)).Config
            except UserError as error:
                wrong.append(f"{kind}.{name}: {error}")
                continue
            wrong += problems(config, given if kind != "pools" else options, f"{kind}.{name}")
            if module == "metadata" and name in study.grid.pools:
                wrong.append(
                    f"pools.{name}: it has no images, and a subset or task of the study is drawn from it; fetch those of a"
                    " list that 'mimcore export' writes, and name the pool of what arrived."
                )
    wrong += _videos_as_images(study)
    return wrong


def _names_of_nothing(study: "Study") -> Iterator[str]:
    """Names in the claims and metrics of ``fit`` that are none of the study's."""
    coordinates: tuple[Coordinate, ...] = ("objective", "model", "subset", "schedule", "seed")
    known = {name: {str(getattr(at, name)) for at in study.runs.values()} for name in coordinates}
    known["pool"] = {study.pool_of("subsets", name) for name in known["subset"]}
    kinds: dict[registry.Kind, list[str]] = {"task": study.grid.tasks, "probe": study.grid.probes}
    metrics = {
        name: metrics_of(registry.load(kind, study.module("tasks", name)), study.options("tasks", name))
        for kind, names in kinds.items()
        for name in names
    }
    headlines = [f"{PRETRAIN}/{VAL_LOSS[1]}", *(f"{task}/{next(iter(of))}" for task, of in metrics.items())]
    for option in ("outlook", "guess"):
        for name in study.fit.get(option) or ():
            if name not in headlines:
                yield f"fit.{option}: '{name}' is the headline of no task of the study; {nearest(name, headlines)}"
    for name, options in (study.fit.get("claims") or {}).items():
        yield from mistakes_of_claim(Claim.model_validate(options), known, metrics, f"fit.claims.{name}")


def _unfit(study: "Study", phase: Phase) -> Iterator[str]:
    """What keeps a phase from taking what it uses of the run before it; every option is right by itself."""
    at = study.runs[phase.after]
    if phase.use == "weights":
        free = {"image_size", "drop_path_rate", "initial"}
        own, other = (
            ModelConfig.model_validate(study.options("models", m)).model_dump(exclude=free)
            for m in (phase.model, at.model)
        )
        if differ := [name for name, value in own.items() if other[name] != value]:
            yield (
                f"models.{phase.model} differs from models.{at.model} in {', '.join(differ)}; weights fit into a model that differs "
                f"in {', '.join(sorted(free))} alone."
            )
    elif phase.use == "state":
        own, other = (study.options("schedules", name) for name in (phase.schedule, at.schedule))
        try:
            branch_start(Schedule.model_validate(other), Schedule.model_validate(own))
        except ValueError as error:
            yield f"schedules.{phase.schedule} cannot branch off schedules.{at.schedule}: {error}."


def _videos_as_images(study: "Study") -> Iterator[str]:
    """What needs images, and is to take them from a pool of videos."""
    tasks = [name for name in study.grid.tasks if "clips" not in study.needs_of("tasks", name).values()]
    for kind, names in (("subsets", study.grid.subsets), ("features", study.grid.features), ("tasks", tasks)):
        for name in names:
            pool = study.pool_of(kind, name)
            if study.options("pools", pool).get("format") == "video_folder":
                yield (
                    f"{kind}.{name}.pool: '{pool}' has videos, and images are needed; take their frames by a pool of the format"
                    " 'packed' (docs/pools.md)."
                )
