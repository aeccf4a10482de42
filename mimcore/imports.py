"""Which files of this package work can reach, read from their source: imports at the head of a file and inside functions."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from mimcore.errors import UserError

#: The folder of the package; files are named by their paths below it.
ROOT = Path(__file__).resolve().parents[1]

#: Ours, but no stage's code: they translate, and what they hand over is a parameter, or changes no result.
TRANSLATORS = {
    *(
        f"mimcore/{name}.py"
        for name in ("study", "runs", "__main__", "layout", "explain", "progress", "execution", "launch")
    ),
    *(file.relative_to(ROOT).as_posix() for file in (ROOT / "mimcore/cli").glob("*.py")),
}


def closure(entries: Iterable[str]) -> set[str]:
    """The entries, every file of the package that they reach, and the templates; package markers are left out.

    Raises:
        UserError: a file is not Python.
    """
    reached: set[str] = set()
    waiting = list(entries)
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting += imports(file) | _templates(file)
    return {file for file in reached if Path(file).name != "__init__.py"}


@cache
def imports(file: str) -> frozenset[str]:
    """Files of the package that ``file`` imports anywhere, type checking aside; of a template, none."""
    return frozenset() if file.endswith(".j2") else frozenset(_imported(_tree(ROOT / file)))


def verb_imports(verb: str) -> set[str]:
    """What a verb of the command line imports inside its function: the entries of its stage."""
    return _imported([_verbs()[verb.replace("-", "_")]]) - TRANSLATORS


@cache
def _verbs() -> dict[str, ast.stmt]:
    functions = [node for file in (ROOT / "mimcore/cli").glob("*.py") for node in _tree(file)]
    return {node.name: node for node in functions if isinstance(node, ast.FunctionDef) and node.decorator_list}


def _tree(file: Path) -> list[ast.stmt]:
    try:
        return ast.parse(file.read_text(encoding="utf-8")).body
    except SyntaxError as error:
        where = f"{file.relative_to(ROOT).as_posix()} is not Python at line {error.lineno}"
        raise UserError(f"{where}: {error.msg}; mend it.") from None


def _imported(body: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in _statements(body):
        if isinstance(node, ast.Import):
            found |= {file for alias in node.names for file in _file(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                found |= _file(f"{node.module}.{alias.name}") or _file(node.module)
    return found


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Every statement, those inside others too; what stands under ``if TYPE_CHECKING`` is not run."""
    for node in body:
        yield node
        parts = ["body", "handlers", "cases", "orelse", "finalbody"]
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            parts.remove("body")
        for part in parts:
            yield from _statements(getattr(node, part, ()))


def _file(module: str) -> set[str]:
    """The file of a module or package of ours, or nothing."""
    if module.partition(".")[0] == "mimcore":
        for name in (f"{module.replace('.', '/')}{end}" for end in (".py", "/__init__.py")):
            if (ROOT / name).is_file():
                return {name}
    return set()


def _templates(file: str) -> set[str]:
    """The templates beside a file that it names."""
    beside = list((ROOT / file).parent.glob("*.j2"))
    text = (ROOT / file).read_text(encoding="utf-8") if beside else ""
    return {path.relative_to(ROOT).as_posix() for path in beside if path.name in text}
