"""Which way imports point. The table of rooms is in docs/architecture.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mimcore.imports import ROOT, TRANSLATORS, closure, imports, verb_imports
from mimcore.modules import STAGES

GROUND = {"errors", "definition", "registry", "artifacts", "execution", "imports", "lifetime", "launch", "startup"}
#: What a room may import beside itself and the ground floor. Its own line in docs/architecture.md says the same.
MAY = {
    "data": set(),
    "sampling": {"data"},
    "models": set(),
    "objectives": {"models"},
    "weights": {"models", "objectives"},
    "training": {"objectives", "models", "data"},
    "evaluation": {"models", "data"},
    "scaling": set(),
    "look": {"data", "sampling", "scaling"},
    "bench": {"data", "training"},
    "plan": {"data", "evaluation", "models", "training", "status"},
    "yaml_edit": set(),
    "api": {"models", "data", "sampling", "training", "evaluation", "progress"},
    "progress": set(),
    "setaside": set(),
    "modules": set(),
    "layout": set(),
    "status": {"layout"},
    "explain": {"layout", "status"},
    "runs": set(),
    "study": {"runs", "study_check"},
    "study_check": {"models", "runs", "sampling", "scaling", "study", "training", "evaluation"},
    **{name: set() for name in GROUND},
}
FILES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "mimcore").rglob("*.py"))


def room(file: str) -> str:
    parts = Path(file).with_suffix("").parts
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("file", [file for file in FILES if room(file) not in {"cli", "__main__", "__init__"}])
def test_rooms_import_downwards_only(file: str) -> None:
    here = room(file)
    above = {other for other in imports(file) if room(other) not in MAY[here] | GROUND | {here, "__init__"}}
    assert above == set()


def test_the_ground_floor_knows_no_room() -> None:
    reached = closure(f"mimcore/{name}.py" for name in GROUND)
    assert reached == {f"mimcore/{name}.py" for name in GROUND}


@pytest.mark.parametrize("file", FILES)
def test_the_core_imports_neither_prefect_nor_dvc(file: str) -> None:
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides from the reading of imports"
            found.add(str(node.module).partition(".")[0])
    assert found.isdisjoint({"prefect", "dvc", "flows"})


@pytest.mark.parametrize("verb", STAGES)
def test_no_stage_depends_on_what_only_translates(verb: str) -> None:
    assert closure(verb_imports(verb)).isdisjoint(TRANSLATORS)


def loaded(code: str) -> set[str]:
    """Top packages that are loaded after ``code``, in a fresh process."""
    code += "\nimport sys; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


LIGHT = [
    "mimcore.study",
    "mimcore.modules",
    "mimcore.data.index",
    *(
        file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in FILES
        if file.startswith(("mimcore/sampling/", "mimcore/scaling/", "mimcore/data/formats/"))
    ),
]
HELP = "import sys; sys.argv = ['mimcore', {}'--help']\nfrom mimcore.cli import app\ntry:\n    app()\nexcept SystemExit: pass"


def test_light_stages_load_no_torch() -> None:
    assert loaded("\n".join(f"import {module}" for module in LIGHT)).isdisjoint({"torch", "prefect", "dvc"})


def test_help_loads_no_torch() -> None:
    assert loaded(HELP.format("")).isdisjoint({"torch", "prefect", "dvc", "polars", "sklearn", "timm"})
