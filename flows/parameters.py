"""What can be set in a flow's form, and what each setting changes in the study file.

Prefect's page makes its form of these models and refuses what they refuse. ``StudyParameters.changes`` refuses again, by
the rules of mimcore: it alone imports torch.
"""

import ast
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from mimcore import registry
from mimcore.definition import nearest
from mimcore.errors import UserError
from mimcore.study import KINDS, Study

CURRENT = "current"
BLOCKS = (*KINDS, "study", "fit", "execution")
#: Kinds that the form can thin out, and the key that names one of them among a run's coordinates, if one does.
KEPT = {"subsets": "subset", "models": "model", "schedules": "schedule", "probes": None, "tasks": None}

#: Options of the form that every schedule in use takes, under the same name.
OF_SCHEDULES = ("images_seen", "batch_size", "base_learning_rate", "warmup_images")
OF_TASKS = ("train_images", "test_images")


def studies(root: Path) -> list[str]:
    """Names of a checkout's studies: ``current`` for its ``params.yaml``, then the files below ``studies``, such as ``lu2023/mini``."""
    folder = root / "studies"
    return [CURRENT, *sorted(f.relative_to(folder).with_suffix("").as_posix() for f in folder.rglob("*.yaml"))]


def study_file(root: Path, study: str) -> Path:
    """The file of a study of a checkout."""
    return root / "params.yaml" if study == CURRENT else root / "studies" / f"{study}.yaml"


def _known_study(name: str) -> str:
    known = studies(Path.cwd())
    if name not in known:
        raise ValueError(f"there is no study '{name}'; {nearest(name, known)}")
    return name


def _offer_studies(schema: dict[str, Any]) -> None:
    schema["enum"] = studies(Path.cwd())


def _may_be_empty(schema: dict[str, Any]) -> None:
    """An empty field of the form is left out; with a default of null, Prefect would offer a choice of types instead."""
    schema.pop("default", None)


def _optional(title: str, description: str) -> Any:
    return Field(None, title=title, description=description, json_schema_extra=_may_be_empty)


# A bound stands within its type: on the union with nothing, the form's schema would lose it.
Nothing = SkipJsonSchema[None]
Names = Annotated[list[str], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class Form(BaseModel):
    """Fields of a form: an unknown one is refused, and so is a number in quotes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Overrides(Form):
    """Changes to the study of this one flow run; a field that is left empty changes nothing."""

    images_seen: Count | Nothing = _optional(
        "Images seen", "Length of pretraining in images, repeats and all: a whole number of batches."
    )
    batch_size: Count | Nothing = _optional("Batch size", "Images of one step, over all devices.")
    base_learning_rate: Annotated[float, Field(gt=0)] | Nothing = _optional(
        "Base learning rate", "For a batch of 256; the rate used is this times the batch size / 256."
    )
    warmup_images: Annotated[int, Field(ge=0)] | Nothing = _optional(
        "Warmup images", "Length of the linear warmup in images: less than the images seen."
    )
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] | Nothing = _optional(
        "Mask ratio", "Part of the patches that is hidden, of every objective that hides patches."
    )
    replicates: Annotated[int, Field(ge=1, le=100)] | Nothing = _optional(
        "Replicates", "How many seeds each run is made with; each draws its own subset."
    )
    subsets: Names | Nothing = _optional("Subsets", "Names of the subsets to keep, such as n64; all if empty.")
    models: Names | Nothing = _optional("Models", "Names of the models to keep, such as tiny; all if empty.")
    schedules: Names | Nothing = _optional("Schedules", "Names of the schedules to keep, such as short; all if empty.")
    probes: Names | Nothing = _optional("Probes", "Names of the probes to keep, such as linear; all if empty.")
    tasks: Names | Nothing = _optional("Tasks", "Names of the tasks to keep, such as finetune; all if empty.")
    train_images: Count | Nothing = _optional("Training images", "Images that every task and probe trains on.")
    test_images: Count | Nothing = _optional("Test images", "Images that every task and probe is tested on.")
    more: dict[str, JsonValue] | Nothing = _optional(
        "More",
        'Anything else: the dotted path of an option in the study file, and its value, such as {"models.tiny.depth": 6}.',
    )

    def dotted(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Translate to dotted paths of a study file and their new values; ``params`` is the file's content.

        Raises:
            UserError: for all that does not apply to this study, at once, with the nearest names.
        """
        wrong: list[str] = []
        found = self._grid(params, wrong)
        grid = dict(_block(params, "study")) | {
            path.removeprefix("study."): value for path, value in found.items() if path.startswith("study.")
        }
        for option in OF_SCHEDULES:
            found |= self._everywhere(option, "schedules", _used(grid, "schedules", "schedule"))
        with_mask = [o for o in _used(grid, "objectives", "objective") if _has(params, o, "mask_ratio")]
        found |= self._everywhere("mask_ratio", "objectives", with_mask)
        if self.mask_ratio is not None and not with_mask:
            wrong.append("overrides.mask_ratio: no objective of this study has a mask ratio.")
        for option in OF_TASKS:
            found |= self._everywhere(option, "tasks", _used(grid, "tasks"))
            found |= self._everywhere(option, "features", _used(grid, "features"))
        more = self.more or {}
        wrong += [f"overrides.more: {s}" for path in more for s in _path_mistakes(params, path)]
        wrong += [f"overrides.more: {sentence}" for sentence in _overlaps(found, more)]
        if wrong:
            raise UserError("\n".join(wrong))
        return found | more

    def _everywhere(self, option: str, kind: str, names: Iterable[str]) -> dict[str, Any]:
        value = getattr(self, option)
        return {} if value is None else {f"{kind}.{name}.{option}": value for name in names}

    def _grid(self, params: Mapping[str, Any], wrong: list[str]) -> dict[str, Any]:
        """The study's lists of names and, where these lose one, its runs beside the grid."""
        grid = _block(params, "study")
        found: dict[str, Any] = {}
        for kind in KEPT:
            wanted, known = getattr(self, kind), list(grid.get(kind) or [])
            if wanted is None:
                continue
            wrong += [
                f"overrides.{kind}: the study has no '{name}'; {nearest(name, known)}"
                for name in wanted
                if name not in known
            ]
            found[f"study.{kind}"] = [name for name in known if name in wanted]
        if self.probes is not None:  # what no probe is left to use need not be computed
            used = {_block(_block(params, "tasks"), probe).get("features") for probe in found["study.probes"]}
            used_features = [name for name in grid.get("features") or [] if name in used]
            found |= {} if used_features == grid.get("features") else {"study.features": used_features}
        if self.replicates is not None:
            found["study.seeds"] = _seeds(list(grid.get("seeds") or []), self.replicates)
        beside = {block: dict(grid.get(block) or {}) for block in ("extra", "phases")}
        kept = {name: run for runs in beside.values() for name, run in runs.items() if not _dropped(run, found)}
        while left := [name for name, run in kept.items() if _follows_a_dropped_one(run, kept, beside, found)]:
            kept = {name: run for name, run in kept.items() if name not in left}
        thinned = {block: {name: run for name, run in runs.items() if name in kept} for block, runs in beside.items()}
        return found | {f"study.{block}": runs for block, runs in thinned.items() if runs != beside[block]}


class StudyParameters(Form):
    """A study and what to change in it for one flow run."""

    study: Annotated[str, AfterValidator(_known_study)] = Field(
        CURRENT,
        title="Study",
        description="'current' is params.yaml as it is in the checkout; the others are the ready ones of studies/.",
        json_schema_extra=_offer_studies,
    )
    overrides: Overrides = Field(
        default_factory=Overrides,
        title="Overrides",
        description="With any of these the run works in a copy of the checkout and ends as a DVC experiment.",
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=80)] | Nothing = _optional(
        "Name of the experiment", "As 'dvc exp show' will list it; made up if empty."
    )

    def params(self, root: Path) -> dict[str, Any]:
        """Content of the study's file, before the overrides.

        Raises:
            UserError: it is missing or is not a study.
        """
        file = study_file(root, self.study)
        Study.read(file)
        content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        return content

    def changes(self, root: Path) -> dict[str, Any]:
        """The overrides as dotted paths and values, once mimcore has found no mistake in the study that they make.

        Raises:
            UserError: with all mistakes at once, each with its dotted path.
        """
        params = self.params(root)
        dotted = self.overrides.dotted(params)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "params.yaml"
            file.write_text(yaml.safe_dump(overridden(params, dotted), sort_keys=False), encoding="utf-8")
            try:
                Study.read(file).check()
            except UserError as error:
                name = study_file(root, self.study).relative_to(root)
                raise UserError(str(error).replace(str(file), f"{name} with these overrides")) from None
        return dotted


def overridden(params: Mapping[str, Any], dotted: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a study file's content with other values at the dotted paths."""
    changed = deepcopy(dict(params))
    for path, value in dotted.items():
        *parents, last = path.split(".")
        block = changed
        for part in parents:
            block[part] = block.get(part) or {}
            block = block[part]
        block[last] = deepcopy(value)
    return changed


def _block(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return params.get(name) or {}


def _used(grid: Mapping[str, Any], kind: str, coordinate: str | None = None) -> list[str]:
    """Names of a kind that the study's grid or its runs beside it use, in order."""
    runs = [*(grid.get("extra") or {}).values(), *(grid.get("phases") or {}).values()]
    beside = [run[coordinate] for run in runs] if coordinate else []
    return list(dict.fromkeys([*(grid.get(kind) or []), *beside]))


def _has(params: Mapping[str, Any], objective: str, option: str) -> bool:
    """Whether an objective has an option; read off its source, since importing it takes torch."""
    module = _block(_block(params, "objectives"), objective).get("module", objective)
    if module not in registry.names("objective"):
        return False
    file = Path(registry.__file__).parent / registry.FOLDERS["objective"] / f"{module}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    config = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config")
    fields = [line.target for line in config.body if isinstance(line, ast.AnnAssign)]
    return any(isinstance(field, ast.Name) and field.id == option for field in fields)


def _seeds(declared: list[str], count: int) -> list[str]:
    """The declared seeds first, so that their runs are not made again, then the smallest free ones."""
    free = (f"s{i}" for i in range(len(declared) + count) if f"s{i}" not in declared)
    return [*declared[:count], *(next(free) for _ in range(count - len(declared)))]


def _dropped(run: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    keys = {kind: key for kind, key in KEPT.items() if key} | {"seeds": "seed"}
    return any(run[key] not in found.get(f"study.{kind}", [run[key]]) for kind, key in keys.items())


def _follows_a_dropped_one(
    run: Mapping[str, Any], kept: Mapping[str, Any], beside: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any]
) -> bool:
    """Whether a run is a phase after one that the study will not have any more."""
    after = run.get("after")
    if after is None or any(after in runs for runs in beside.values()):
        return after is not None and after not in kept
    keys = ("objective", "model", "subset", "schedule", "seed")
    return _dropped(dict(zip(keys, after.split("-"), strict=True)), found)


def _path_mistakes(params: Mapping[str, Any], path: str) -> Iterator[str]:
    """What keeps a path from naming a place in the study file; its last part may be new, for mimcore to judge."""
    if not re.fullmatch(r"[^.]+(\.[^.]+)*", path):
        yield f"'{path}' is not a dotted path such as models.tiny.depth."
        return
    parts = path.split(".")
    if parts[0] not in BLOCKS:
        yield f"{path}: a study file has no block '{parts[0]}'; {nearest(parts[0], BLOCKS)}"
        return
    block: Any = _block(params, parts[0])
    for depth, part in enumerate(parts[1:], 1):
        where = ".".join(parts[:depth])
        if not isinstance(block, Mapping):
            yield f"{path}: {where} is no mapping; give {where} whole."
            return
        if depth == len(parts) - 1:
            return
        if part not in block:
            yield f"{path}: {where} has no '{part}'; {nearest(part, map(str, block))}"
            return
        block = block[part] if block[part] is not None else {}


def _overlaps(typed: Mapping[str, Any], more: Mapping[str, Any]) -> Iterator[str]:
    """Two settings of one place: which one would win, depends on their order, and JSON has none."""
    for path in more:
        for other in [*typed, *more]:
            if other == path and path in typed:
                yield f"{path} is set by a field of the form as well; leave one out."
            elif path.startswith(f"{other}."):
                yield f"{path} lies within {other}, which is set as well; leave one out."
            elif other in typed and other.startswith(f"{path}."):
                yield f"{path} contains {other}, which a field of the form sets; leave one out."
