"""What a stage of ``dvc.yaml`` depends on: of code, what the stage ``modules`` says of its verb and of its definition."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage

from mimcore import layout, registry
from mimcore.imports import ROOT, verb_imports
from mimcore.modules import STAGES, Code, read_code
from mimcore.study import KINDS, Study

pytestmark = pytest.mark.filterwarnings("ignore")  # of DVC's own libraries

#: Of what else than its verb the code of a stage is told: the folder of ``artifacts/modules``, by verb.
OF_DEFINITION = {
    **dict.fromkeys(("prepare", "pretrain"), "objectives"),
    **dict.fromkeys(("probe", "probe-floor", "evaluate", "floor"), "tasks"),
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


@pytest.fixture(scope="module")
def code() -> Code:
    """Of each verb, and of every objective, task and probe that there is; needs are no code."""
    objectives, tasks = registry.names("objective"), [*registry.names("task"), *registry.names("probe")]
    code = read_code({name: name for name in objectives}, {name: name for name in tasks})
    return {name: files for name, files in code.items() if not name.startswith("needs/")}


def verb_of(stage: PipelineStage) -> str:
    return str(stage.cmd.split()[3])


def told(stage: PipelineStage, study: Study) -> set[str]:
    """What is to be told of the code of this instance."""
    verb, arguments = verb_of(stage), stage.cmd.split()[4:]
    found = {f"stages/{verb}.json"}
    if OF_DEFINITION.get(verb) == "tasks":
        found.add(f"tasks/{arguments[-1]}.json")
    elif verb == "prepare":
        found.add(f"objectives/{study.prepared[arguments[0]][0]}.json")
    elif verb == "pretrain":
        found.add(f"objectives/{study.runs[arguments[0]].objective}.json")
    elif verb == "examples" and arguments[0] in study.grid.tasks:
        found.add(f"needs/{arguments[0]}.json")
    return {(layout.MODULES / name).as_posix() for name in found}


def test_a_stage_depends_on_the_code_of_its_verb_and_of_its_definition(
    stages: list[PipelineStage], study: Study
) -> None:
    for stage in stages:
        names = [dep.def_path for dep in stage.deps]
        of_code = [name for name in names if name.startswith(("mimcore", f"{layout.MODULES}/"))]
        expected = {"mimcore"} if verb_of(stage) in ("check", "modules") else told(stage, study)
        assert (len(of_code), set(of_code)) == (len(expected), expected), stage.addressing
    assert {verb_of(stage) for stage in stages} == {"check", "modules", *STAGES}


#: Imports each group of modules in a fork of its own, and prints the files of the package that are loaded then.
LOADED = """
import json, os, sys
import torch, timm, sklearn, scipy, polars
from importlib import import_module
for name, modules in json.load(sys.stdin).items():
    reader, writer = os.pipe()
    if not os.fork():
        for module in modules:
            import_module(module)
        files = {getattr(m, "__file__", None) for n, m in list(sys.modules.items()) if n.split(".")[0] == "mimcore"}
        with open(writer, "w") as file:
            json.dump(sorted(filter(None, files)), file)
        os._exit(0)
    os.close(writer)
    print(json.dumps([name, json.loads(open(reader).read())]))
    os.wait()
"""


def entries(name: str) -> set[str]:
    """Where what a file of ``artifacts/modules`` tells of begins."""
    folder, stem = name.removesuffix(".json").split("/")
    if folder != "stages":
        return {f"mimcore/{'objectives' if folder == 'objectives' else 'evaluation'}/{stem}.py"}
    kind = STAGES[stem]
    found = {f"mimcore/{registry.FOLDERS[kind]}/{module}.py" for module in registry.names(kind)} if kind else set()
    return verb_imports(stem) | found


def test_what_is_loaded_is_told(code: Code) -> None:
    """A Python that imports where a stage's work begins loads nothing else of ours than what is told."""
    asked = {name: [file.removesuffix(".py").replace("/", ".") for file in entries(name)] for name in code}
    done = subprocess.run(
        [sys.executable, "-c", LOADED], input=json.dumps(asked), capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = dict(map(json.loads, done.stdout.splitlines()))
    assert loaded.keys() == code.keys()
    for name, paths in loaded.items():
        files = {Path(path).relative_to(ROOT).as_posix() for path in paths if not path.endswith("/__init__.py")}
        assert files >= entries(name), name
        assert files - code[name].keys() == set(), name


def test_what_is_told_is_imported_from_there(code: Code) -> None:
    """Whatever is told of but is no entry is named by an import, or as a template, in another file that is."""
    for name, files in code.items():
        text = "\n".join((ROOT / file).read_text() for file in files)
        for file in files.keys() - entries(name):
            *folders, last = Path(file).parts
            package, module = re.escape(".".join(folders)), re.escape(last.removesuffix(".py"))
            named = rf'from {package}\.{module} import |from {package} import .*\b{module}\b|"{module}"'
            assert re.search(named, text), (name, file)


def test_templates_are_told(code: Code) -> None:
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mimcore").rglob("*.j2")}
    templates -= {name for name in templates if name.startswith(NO_STAGES)}
    assert {file for file in code["stages/report.json"] if file.endswith(".j2")} == templates
    assert not [f for name, files in code.items() if name != "stages/report.json" for f in files if f.endswith(".j2")]


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
