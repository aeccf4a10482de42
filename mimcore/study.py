"""``params.yaml``: definitions by name, and the study, which lists names. Only the command line and the flows read it.

``Study.read`` imports no torch: it checks structure and names. ``Study.check`` checks every option as well, and
needs the modules that declare them.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from mimcore import registry
from mimcore.definition import Definition, nearest, problems
from mimcore.errors import UserError
from mimcore.execution import Execution
from mimcore.runs import Coordinates, Phase, in_order, phase_mistakes

#: Blocks of named definitions; the study's list of each kind has the same name.
KINDS = ("pools", "subsets", "models", "objectives", "schedules", "features", "tasks")
NAME = re.compile(r"[A-Za-z0-9_]+")
SEED = re.compile(r"s[0-9]+")


class Grid(Definition):
    """The ``study`` block: names only."""

    title: str = "A scaling study"
    pools: list[str] = Field(min_length=1)
    subsets: list[str] = Field(min_length=1)
    models: list[str] = Field(min_length=1)
    objectives: list[str] = Field(min_length=1)
    schedules: list[str] = Field(min_length=1)
    seeds: list[str] = Field(min_length=1)
    #: What goes through each encoder once, for the probes.
    features: list[str]
    #: Tasks on frozen features alone.
    probes: list[str]
    #: Tasks that work with the encoder itself.
    tasks: list[str]
    extra: dict[str, Coordinates] = Field(default_factory=dict)
    #: Runs that follow a run, by name; DVC needs the line even where there is none.
    phases: dict[str, Phase]

    @model_validator(mode="after")
    def _measured(self) -> "Grid":
        if not self.probes and not self.tasks:
            raise ValueError("probes and tasks are both empty; name at least one of either")
        return self

    @property
    def measures(self) -> list[str]:
        """Probes and tasks: everything that runs are measured by."""
        return [*self.probes, *self.tasks]


@dataclass(frozen=True)
class Study:
    """A study, its names checked."""

    file: Path
    definitions: dict[str, dict[str, dict[str, Any]]]
    grid: Grid
    fit: dict[str, Any]
    execution: Execution

    @classmethod
    def read(cls, file: Path) -> "Study":
        """Read a study file and check its structure and names.

        Raises:
            UserError: with all mistakes at once, each with its dotted path.
        """
        content = _read_yaml(file)
        known = {*KINDS, "study", "fit", "execution"}
        wrong = [f"{key}: unknown block; {nearest(key, known)}" for key in content if key not in known]
        definitions: dict[str, dict[str, dict[str, Any]]] = {}
        for kind in KINDS:
            block = content.get(kind) or {}
            if not isinstance(block, dict):
                wrong.append(f"{kind}: must map names to options.")
                block = {}
            wrong += [
                f"{kind}.{n}: must be a mapping of options." for n, d in block.items() if not isinstance(d or {}, dict)
            ]
            wrong += [
                f"{kind}.{n}: a name has letters, digits and '_' only." for n in block if not NAME.fullmatch(str(n))
            ]
            wrong += [f"{kind}.{n}: {message}" for n, d in block.items() for message in _unkeyed(d or {})]
            definitions[kind] = {str(name): dict(options or {}) for name, options in block.items()}
        wrong += problems(Grid, {"phases": {}} | (content.get("study") or {}), "study")
        if isinstance(content.get("study"), Mapping) and "phases" not in content["study"]:
            wrong.append(
                "study.phases: dvc.yaml reads it in every study; add the line 'phases: {}' to the block 'study'."
            )
        wrong += problems(Execution, content.get("execution") or {}, "execution")
        if wrong:
            raise UserError(_list(file, wrong))
        study = cls(
            file,
            definitions,
            Grid.model_validate(content["study"]),
            dict(content.get("fit") or {}),
            Execution.model_validate(content.get("execution") or {}),
        )
        if wrong := list(study._unknown_names()):
            raise UserError(_list(file, wrong))
        return study

    @property
    def runs(self) -> dict[str, Coordinates]:
        """Every run of the study by its name: the grid, the extra ones, then the phases, each after the run it follows."""
        g = self.grid
        axes = itertools.product(g.objectives, g.models, g.subsets, g.schedules, g.seeds)
        keys = ("objective", "model", "subset", "schedule", "seed")
        grid = (Coordinates(**dict(zip(keys, names, strict=True))) for names in axes)
        return {c.name: c for c in grid} | self.grid.extra | in_order(self.grid.phases)

    @property
    def prepared(self) -> dict[str, tuple[str, str, str]]:
        """Objective, subset and seed of everything that is prepared, by its name: the grid's, then that of each run beside it."""
        g = self.grid
        found = {"-".join(names): names for names in itertools.product(g.objectives, g.subsets, g.seeds)}
        beside = {**g.extra, **g.phases}
        return found | {name: (at.objective, at.subset, at.seed) for name, at in beside.items()}

    def prepared_for(self, run: str) -> str:
        """The name of what is prepared for a run."""
        at = self.runs[run]
        return run if run in {**self.grid.extra, **self.grid.phases} else "-".join((at.objective, at.subset, at.seed))

    def options(self, kind: str, name: str) -> dict[str, Any]:
        """The declared options of a definition.

        Raises:
            UserError: there is none of this name.
        """
        block = self.definitions[kind]
        if name not in block:
            raise UserError(f"{self.file}: {kind} has no '{name}'; {nearest(name, block)}")
        return dict(block[name])

    def pool_of(self, kind: str, name: str) -> str:
        """The pool that a subset, features or a task names."""
        return str(self.options(kind, name)["pool"])

    def shifted_of(self, kind: str, name: str) -> list[str]:
        """The other pools whose images a task is tested on as well."""
        named = self.options(kind, name).get("shifted") if kind == "tasks" else None
        return [str(pool) for pool in named] if isinstance(named, list) else []

    def examples_kind(self, name: str) -> str:
        """Whether ``name`` is of ``features`` or of ``tasks``: both choose images from a pool.

        Raises:
            UserError: it is neither, or a probe, which has the images of its features.
        """
        both = {**self.definitions["tasks"], **self.definitions["features"]}
        if name not in both:
            raise UserError(f"{self.file}: tasks and features have no '{name}'; {nearest(name, both)}")
        if name in self.definitions["features"]:
            return "features"
        if self.module("tasks", name) in registry.names("probe"):
            raise UserError(f"{self.file}: '{name}' is a probe, which has the images of its features.")
        return "tasks"

    def needs_of(self, kind: str, name: str) -> dict[str, str]:
        """What must be known of every image of a task or of features: needs by the name of the task or probe that has them."""
        if kind == "tasks":
            return {name: str(registry.constant("task", self.module("tasks", name), "NEEDS"))}
        probes = (probe for probe in self.grid.probes if self.options("tasks", probe).get("features") == name)
        return {probe: str(registry.constant("probe", self.module("tasks", probe), "NEEDS")) for probe in probes}

    def module(self, kind: str, name: str) -> str:
        """The module of an objective or a task: its ``module``, or its own name."""
        return str(self.options(kind, name).get("module", name))

    @property
    def modules(self) -> dict[str, dict[str, str]]:
        """The modules of all objectives and tasks, listed by the study or not, by their names."""
        return {
            kind: {name: self.module(kind, name) for name in self.definitions[kind]} for kind in ("objectives", "tasks")
        }

    def declared_run(self, name: str) -> dict[str, Any]:
        """Everything that is declared of a run, the pool's place aside; of a phase, with that of the run that it follows.

        Raises:
            UserError: the study has no run of this name.
        """
        if name not in self.runs:
            raise UserError(f"{self.file}: the study has no run '{name}'; {nearest(name, self.runs)}")
        at = self.runs[name]
        return {
            "objective": self.declared_objective(at.objective),
            "model": self.options("models", at.model),
            "schedule": self.options("schedules", at.schedule),
            "subset": {"name": at.subset} | self.options("subsets", at.subset),
            "seed": at.seed,
        } | ({"use": at.use, "after": self.declared_run(at.after)} if isinstance(at, Phase) else {})

    def declared_objective(self, name: str) -> dict[str, Any]:
        """Everything that is declared of an objective."""
        return {"module": self.module("objectives", name)} | self.options("objectives", name)

    def declared_task(self, name: str) -> dict[str, Any]:
        """Everything that is declared of a task or a probe."""
        return {"module": self.module("tasks", name)} | self.options("tasks", name)

    def features_of(self, probe: str) -> str:
        """The features that a probe names.

        Raises:
            UserError: it names none that are defined.
        """
        name = str(self.options("tasks", probe).get("features"))
        self.options("features", name)
        return name

    def declared_probe(self, name: str) -> dict[str, Any]:
        """Everything that is declared of a probe and its features."""
        return {"task": self.declared_task(name), "features": self.options("features", self.features_of(name))}

    def declared_measure(self, name: str) -> dict[str, Any]:
        """Everything that is declared of a task or a probe that the study lists."""
        return self.declared_probe(name) if name in self.grid.probes else {"task": self.declared_task(name)}

    def _unknown_names(self) -> Iterator[str]:
        for listed in (*KINDS, "probes"):
            kind = "tasks" if listed == "probes" else listed
            known = self.definitions[kind]
            for i, name in enumerate(getattr(self.grid, listed)):
                if name not in known:
                    yield f"study.{listed}.{i}: there is no {kind}.{name}; {nearest(name, known)}"
        yield from self._misplaced()
        for i, seed in enumerate(self.grid.seeds):
            if not SEED.fullmatch(seed):
                yield f"study.seeds.{i}: '{seed}' must be 's' and a number, such as s0."
        for kind in ("subsets", "features", "tasks"):
            for name in getattr(self.grid, kind):
                pool = self.definitions[kind].get(name, {}).get("pool")
                if name in self.definitions[kind] and pool not in self.grid.pools:
                    yield f"{kind}.{name}.pool: '{pool}' is not among study.pools; {nearest(str(pool), self.grid.pools)}"
        for name in (task for task in self.grid.tasks if task in self.definitions["tasks"]):
            for i, pool in enumerate(self.shifted_of("tasks", name)):
                if pool not in self.grid.pools:
                    where = f"tasks.{name}.shifted.{i}"
                    yield f"{where}: '{pool}' is not among study.pools; {nearest(pool, self.grid.pools)}"
        for name in self.grid.subsets:
            overlap = self.definitions["subsets"].get(name, {}).get("overlap")
            for i, pool in enumerate((overlap.get("pools") if isinstance(overlap, dict) else None) or []):
                if pool not in self.grid.pools:
                    where = f"subsets.{name}.overlap.pools.{i}"
                    yield f"{where}: '{pool}' is not among study.pools; {nearest(str(pool), self.grid.pools)}"
        for name, extra in self.grid.extra.items():
            for sentence in self._extra_mistakes(extra):
                yield f"study.extra.{name}{sentence}"
            if name != extra.name:
                yield f"study.extra.{name}: a run's name is its coordinates; call it {extra.name}."
        for name, phase in self.grid.phases.items():
            for sentence in self._extra_mistakes(phase):
                yield f"study.phases.{name}{sentence}"
        others = {name: at for name, at in self.runs.items() if not isinstance(at, Phase)}
        yield from (f"study.phases{sentence}" for sentence in phase_mistakes(self.grid.phases, others))

    def _misplaced(self) -> Iterator[str]:
        """Probes among the tasks and the other way round, and probes without their features."""
        probes, tasks = registry.names("probe"), registry.names("task")
        for i, name in enumerate(self.grid.tasks):
            if name in self.definitions["tasks"] and self.module("tasks", name) in probes:
                yield (
                    f"study.tasks.{i}: '{name}' works on frozen features; list it under study.probes, and give tasks.{name} the name"
                    " of a definition of features ('features: NAME'), which has 'pool', 'train_images' and 'test_images' in its place."
                )
        for i, name in enumerate(self.grid.probes):
            options = self.definitions["tasks"].get(name)
            if options is None:
                continue
            if self.module("tasks", name) in tasks:
                yield f"study.probes.{i}: '{name}' works with the encoder itself; list it under study.tasks."
            elif "features" in options and options["features"] not in self.grid.features:
                wrong = options["features"]
                yield f"tasks.{name}.features: '{wrong}' is not among study.features; {nearest(str(wrong), self.grid.features)}"
        for i, name in enumerate(self.grid.features):
            if name in self.grid.tasks:  # the images of both are written under their name
                yield f"study.features.{i}: '{name}' is the name of a task as well; call the features by another."

    def _extra_mistakes(self, extra: Coordinates) -> Iterator[str]:
        for key in ("objective", "model", "subset", "schedule"):
            value, known = getattr(extra, key), self.definitions[f"{key}s"]
            if value not in known:
                yield f".{key}: there is no {key}s.{value}; {nearest(value, known)}"
        for key, listed in (("subset", self.grid.subsets), ("seed", self.grid.seeds)):
            if getattr(extra, key) not in listed:
                yield f".{key}: '{getattr(extra, key)}' must also be in study.{key}s, which draws the subset."

    def check(self) -> None:
        """Check every option of every definition, used or not, and what must fit together. Imports torch.

        Raises:
            UserError: with all mistakes at once, each with its dotted path.
        """
        from mimcore.study_check import mistakes_of

        if wrong := mistakes_of(self):
            raise UserError(_list(self.file, wrong))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing; put a study in force with 'mimcore use studies/quick.yaml'.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{file} must hold blocks such as 'models:' and 'study:'.")
    return dict(content)


def _unkeyed(options: Any) -> Iterator[str]:
    """Names of options that DVC's run-cache leaves out of its key: a change of them would restore an old result."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            if key in {"size", "nfiles"}:
                yield f"an option may not be called '{key}': DVC's run-cache does not see it change."
            yield from _unkeyed(value)


def _list(file: Path, wrong: list[str]) -> str:
    return f"{file} has {len(wrong)} mistake{'s' if len(wrong) > 1 else ''}:\n" + "\n".join(f"  {w}" for w in wrong)
