"""What a module imports from this package, read from the source: statically, and through imports inside functions."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Ours, but no stage's dependency: they translate, and what they hand over is a parameter, or changes no result.
TRANSLATORS = {
    *(
        f"mimcore/{name}.py"
        for name in ("study", "runs", "__main__", "layout", "explain", "progress", "execution", "launch")
    ),
    *(str(file.relative_to(ROOT)) for file in (ROOT / "mimcore/cli").glob("*.py")),
}


@cache
def imports(file: str) -> frozenset[str]:
    """Files of the package that ``file`` imports anywhere, type checking aside; paths below the root."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            node.body = [ast.Pass()]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= resolve(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                found |= resolve(f"{node.module}.{alias.name}") or resolve(node.module)
    return frozenset(found)


def resolve(module: str) -> set[str]:
    """The file of a module of ours, or nothing; a package's own file counts if it holds code."""
    if module != "mimcore" and not module.startswith("mimcore."):
        return set()
    path = Path(*module.split("."))
    if (ROOT / path.with_suffix(".py")).is_file():
        return {str(path.with_suffix(".py"))}
    return {str(path / "__init__.py")} if (ROOT / path / "__init__.py").is_file() else set()


def closure(*entries: str) -> set[str]:
    """Every file of the package that the entries reach; package markers without code are left out."""
    reached: set[str] = set()
    waiting = list(entries)
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting += imports(file)
    return {file for file in reached if Path(file).name != "__init__.py"}


def verb_imports(verb: str) -> set[str]:
    """What a verb of the command line imports inside its function: the entries of its stage."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "mimcore/cli").glob("*.py")]
    (function,) = [
        n for tree in trees for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == verb.replace("-", "_")
    ]
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= set().union(*(resolve(f"{node.module}.{a.name}") or resolve(node.module) for a in node.names))
    return found - TRANSLATORS
