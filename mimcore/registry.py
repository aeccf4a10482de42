"""A name in ``params.yaml`` is the name of a module; it is imported when asked for."""

import ast
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from mimcore.definition import nearest
from mimcore.errors import UserError

Kind = Literal["format", "strategy", "objective", "task", "probe", "law"]

#: Where each kind of module lives below ``mimcore``. A module that starts with an underscore is not offered.
FOLDERS: dict[Kind, str] = {
    "format": "data/formats",
    "strategy": "sampling/strategies",
    "objective": "objectives",
    "task": "evaluation",
    "probe": "evaluation",
    "law": "scaling/laws",
}

#: What a module of a kind must define, one of these, to be one; helpers in the same folder lack it and are not offered.
ENTRY: dict[Kind, tuple[str, ...]] = {
    "format": ("def list_shards",),
    "strategy": ("def order(", "def draw(", "def meets(", "def keep("),
    "objective": ("class Objective",),
    "task": ("def evaluate(",),
    "probe": ("def probe(",),
    "law": ("class Law",),
}


def names(kind: Kind) -> list[str]:
    """List the modules of a kind, without importing any."""
    folder = Path(__file__).parent / FOLDERS[kind]
    return sorted(
        file.stem for file in folder.glob("*.py") if not file.stem.startswith("_") and _defines(file, ENTRY[kind])
    )


def _defines(file: Path, entries: tuple[str, ...]) -> bool:
    text = file.read_text(encoding="utf-8")
    return any(f"\n{entry}" in text for entry in entries)


def load(kind: Kind, name: str) -> ModuleType:
    """Import the module called ``name``.

    Raises:
        UserError: if there is none, with the nearest names.
    """
    known = names(kind)
    if name not in known:
        raise UserError(f"there is no {kind} called '{name}'; {nearest(name, known)}")
    return importlib.import_module(f"mimcore.{FOLDERS[kind].replace('/', '.')}.{name}")


def source(kinds: Sequence[Kind], name: str) -> Path:
    """The file of a module that is of one of these kinds.

    Raises:
        UserError: there is none.
    """
    known = {other: kind for kind in kinds for other in names(kind)}
    if name not in known:
        raise UserError(f"there is no {' or '.join(kinds)} called '{name}'; {nearest(name, known)}")
    return Path(__file__).parent / FOLDERS[known[name]] / f"{name}.py"


def defines(kind: Kind, name: str, function: str) -> bool:
    """Whether a module has a function of this name, without importing the module (and torch).

    Raises:
        UserError: there is no such module.
    """
    return any(isinstance(line, ast.FunctionDef) and line.name == function for line in _body(kind, name))


def constant(kind: Kind, name: str, variable: str) -> Any:
    """Read a literal that a module assigns, such as a task's ``NEEDS``, without importing the module (and torch).

    Raises:
        UserError: there is no such module.
        KeyError: the module assigns no such literal.
    """
    for line in _body(kind, name):
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
                return ast.literal_eval(line.value)
    raise KeyError(f"the {kind} {name} assigns no {variable}")


def _body(kind: Kind, name: str) -> list[ast.stmt]:
    """The top level of a module, read off its source."""
    return ast.parse(source([kind], name).read_text(encoding="utf-8")).body
