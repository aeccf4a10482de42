"""What a stage of ``dvc.yaml`` declares is what its work imports: no less, or a result is old; no more, or work is done twice."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from closure import ROOT, closure, verb_imports
from dvc.repo import Repo
from dvc.stage import PipelineStage

from mimcore import layout, registry
from mimcore.study import KINDS, Study

pytestmark = pytest.mark.filterwarnings("ignore")  # of DVC's own libraries

#: What a stage of this name does: the verb of its command, and the kind of module that it finds by name.
FINDS: dict[str, registry.Kind] = {
    "index": "format",
    "sample": "strategy",
    "prepare": "objective",
    "pretrain": "objective",
    "probe": "probe",
    "probe-floor": "probe",
    "evaluate": "task",
    "floor": "task",
    "fit": "law",
    "report": "law",
}
#: What a stage of this name reads a constant of, without importing it.
READS: dict[str, registry.Kind] = {"examples": "task"}
#: Folders that a stage of this name declares whole, though today's modules do not reach all of it.
WHOLE: dict[str, tuple[str, ...]] = {
    "prepare": ("mimcore/models/",),
    "modules": ("mimcore/objectives/", "mimcore/evaluation/"),
}
#: Where it is said which module a definition is of: who depends on that depends on the module.
SAID: dict[str, tuple[str, tuple[registry.Kind, ...]]] = {
    "artifacts/modules/objectives/": ("objectives", ("objective",)),
    "artifacts/modules/tasks/": ("tasks", ("task", "probe")),
}

#: Where templates lie that no stage fills: of pages that a verb writes by itself.
NO_STAGES = ("mimcore/look/", "mimcore/weights/", "mimcore/scaling/table.html.j2")


@pytest.fixture(scope="module")
def stages(quiet_tools: pytest.MonkeyPatch) -> Iterator[list[PipelineStage]]:
    with chdir(ROOT), Repo() as repo:
        yield list(repo.index.stages)


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.read(ROOT / "params.yaml")


def verb_of(stage: PipelineStage) -> str:
    return str(stage.cmd.split()[3])


def modules(kind: registry.Kind) -> dict[str, str]:
    return {name: f"mimcore/{registry.FOLDERS[kind]}/{name}.py" for name in registry.names(kind)}


def found_by_name(stage: PipelineStage, study: Study) -> set[str]:
    """The modules that this instance may load by name."""
    verb, arguments = verb_of(stage), stage.cmd.split()[4:]
    if verb not in FINDS:
        return set()
    known = modules(FINDS[verb])
    if FINDS[verb] in ("task", "probe"):
        return {known[study.module("tasks", arguments[-1])]}
    if verb == "prepare":
        return {known[study.module("objectives", study.prepared[arguments[0]][0])]}
    if FINDS[verb] == "objective":
        return {known[study.module("objectives", study.runs[arguments[0]].objective)]}
    return set(known.values())  # a folder is declared: any may be named


def read_by_name(stage: PipelineStage, study: Study) -> set[str]:
    """The module that this instance reads a constant of."""
    if verb_of(stage) not in READS or stage.cmd.split()[4] in study.grid.features:  # study.py asks what probes need
        return set()
    return {modules("task")[study.module("tasks", stage.cmd.split()[4])]}


def declared(stage: PipelineStage, study: Study) -> set[str]:
    """Declared files of the package; folders are walked through, and what is said of a definition stands for its module."""
    found: set[str] = set()
    for name in (dep.def_path for dep in stage.deps):
        path = ROOT / name
        folder, _, definition = name.rpartition("/")
        if (said := SAID.get(f"{folder}/")) is not None:
            module = study.module(said[0], definition.removesuffix(".json"))
            file = registry.source(said[1], module)
            found |= {str(one.relative_to(ROOT)) for one in (file, *registry.built_on(file))}
        if name.startswith("mimcore/"):
            inside = path.rglob("*") if path.is_dir() else [path]
            found |= {
                str(f.relative_to(ROOT)) for f in inside if f.suffix in {".py", ".j2"} and f.name != "__init__.py"
            }
    return found


def test_what_the_work_imports_is_declared(stages: list[PipelineStage], study: Study) -> None:
    for stage in stages:
        if verb_of(stage) != "check":
            needed = closure(*verb_imports(verb_of(stage)), *found_by_name(stage, study)) | read_by_name(stage, study)
            assert needed - declared(stage, study) == set(), stage.addressing


def test_what_is_declared_is_reached_by_some_instance(stages: list[PipelineStage], study: Study) -> None:
    by_verb: dict[str, set[str]] = defaultdict(set)
    for stage in stages:
        by_verb[verb_of(stage)] |= declared(stage, study)
    for verb, files in by_verb.items():
        if verb != "check":
            every = modules(FINDS[verb]).values() if verb in FINDS else ()
            reached = closure(*verb_imports(verb), *every)
            reached |= set(modules(READS[verb]).values()) if verb in READS else set()
            templates = {
                f"{Path(file).parent}/{path.name}" for file in reached for path in (ROOT / file).parent.glob("*.j2")
            }
            unreached = files - reached - templates
            assert {file for file in unreached if not file.startswith(WHOLE.get(verb, ("/",)))} == set(), verb


def test_templates_are_declared(stages: list[PipelineStage], study: Study) -> None:
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "mimcore").rglob("*.j2")}
    templates -= {name for name in templates if name.startswith(NO_STAGES)}
    assert set().union(*(declared(stage, study) for stage in stages)) >= templates


def test_dvc_sees_every_file_of_the_package(stages: list[PipelineStage], quiet_tools: pytest.MonkeyPatch) -> None:
    with chdir(ROOT), Repo() as repo:
        hidden = [
            str(file)
            for file in Path("mimcore").rglob("*")
            if file.is_file() and file.suffix in {".py", ".j2"} and repo.dvcignore.is_ignored_file(str(file.absolute()))
        ]
        assert hidden == []
        assert repo.dvcignore.is_ignored_dir(str(ROOT / "data"))


def test_commands_run_the_code_of_the_checkout(stages: list[PipelineStage]) -> None:
    assert {stage.cmd.rpartition("mimcore ")[0] for stage in stages} == {"python -m "}


def test_parameters_are_definitions(stages: list[PipelineStage]) -> None:
    for stage in stages:
        params = [p for dep in stage.deps if dep.def_path == "params.yaml" for p in dep.params]
        assert all(p.partition(".")[0] in {*KINDS, "study", "fit"} for p in params), "execution is nobody's parameter"
        if "@" in stage.addressing:
            assert all("." in p for p in params), f"{stage.addressing} sees other definitions than its own"


def outputs(study: Study) -> dict[str, set[Path]]:
    """Every stage's output, as the command line writes it."""
    grid = study.grid
    of = {
        "index": {layout.index(pool) for pool in grid.pools},
        "sample": {layout.subset(subset, seed) for subset in grid.subsets for seed in grid.seeds},
        "examples": {layout.examples(name) for name in (*grid.features, *grid.tasks)},
        "prepare": {layout.prepared(name) for name in study.prepared},
        "pretrain": {layout.run(run) for run in study.runs},
        "extract": {layout.features(run, name) for run in study.runs for name in grid.features},
        "extract-floor": {layout.features(model, name) for model in grid.models for name in grid.features},
        "probe": {layout.evaluation(run, probe) for run in study.runs for probe in grid.probes},
        "probe-floor": {layout.floor(model, probe) for model in grid.models for probe in grid.probes},
        "evaluate": {layout.evaluation(run, task) for run in study.runs for task in grid.tasks},
        "floor": {layout.floor(model, task) for model in grid.models for task in grid.tasks},
    }
    with_records = {verb: paths | {layout.provenance(path) for path in paths} for verb, paths in of.items()}
    return with_records | {
        "check": {layout.CHECK},
        "modules": {layout.MODULES},
        "fit": {layout.FIT},
        "report": {layout.REPORT},
    }


def test_outputs_lie_where_the_layout_says(stages: list[PipelineStage], study: Study) -> None:
    by_verb: dict[str, set[Path]] = defaultdict(set)
    for stage in stages:
        by_verb[verb_of(stage)] |= {Path(out.def_path) for out in stage.outs}
    results = by_verb.pop("collect")
    assert {path.parent for path in results} == {layout.RESULTS}
    assert by_verb == outputs(study)
    assert {d.def_path for s in stages if verb_of(s) == "index" for d in s.deps} >= {
        str(layout.listing(pool)) for pool in study.grid.pools
    }


def test_nothing_depends_on_provenance(stages: list[PipelineStage]) -> None:
    provenance = layout.ARTIFACTS / "provenance"
    for stage in stages:
        for dep in (Path(dep.def_path) for dep in stage.deps):
            assert not dep.is_relative_to(provenance), stage.addressing
            assert not provenance.is_relative_to(dep), stage.addressing


def test_every_input_is_made_by_a_stage(stages: list[PipelineStage]) -> None:
    made = {Path(out.def_path) for stage in stages for out in stage.outs}
    for stage in stages:
        for dep in (Path(dep.def_path) for dep in stage.deps):
            if dep.is_relative_to(layout.ARTIFACTS):
                assert any(dep.is_relative_to(out) or out.is_relative_to(dep) for out in made), (stage.addressing, dep)


@pytest.mark.parametrize("file", ["params.yaml", *(f"studies/{f.name}" for f in (ROOT / "studies").glob("*.yaml"))])
def test_a_study_that_is_shipped_is_whole(file: str) -> None:
    Study.read(ROOT / file).check()


def test_every_run_of_a_study_is_a_stage(stages: list[PipelineStage], study: Study) -> None:
    trained = {stage.addressing.partition("@")[2] for stage in stages if verb_of(stage) == "pretrain"}
    assert trained == set(study.runs)
