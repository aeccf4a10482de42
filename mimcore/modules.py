"""Stage ``modules``: the files of this package that each stage, each objective and each task can reach, with their digests.

A stage's code would be half a hundred dependencies of it, and DVC cannot look up a module by a definition's name. So a stage depends
on what this light stage says of its verb and of its definition: an edit makes stale what can reach it, and nothing else.
"""

from collections.abc import Mapping
from pathlib import Path

from mimcore import artifacts, registry
from mimcore.imports import ROOT, closure, verb_imports

#: Verbs of stages, with the kind of module that they find by a name that DVC does not see: any of the kind may be named.
STAGES: dict[str, registry.Kind | None] = {
    "index": "format",
    "sample": "strategy",
    "fit": "law",
    "report": "law",
    **dict.fromkeys(("examples", "prepare", "pretrain", "extract", "extract-floor"), None),
    **dict.fromkeys(("probe", "probe-floor", "evaluate", "floor", "collect"), None),
}

#: By the name of a file below ``artifacts/modules``: each file of this package that it speaks of, and the SHA-256 of that.
Code = dict[str, dict[str, str]]


def read_code(objectives: Mapping[str, str], tasks: Mapping[str, str]) -> Code:
    """Read what the code is now.

    Args:
        objectives: definition to module.
        tasks: definition to module, of a task or a probe.

    Returns:
        ``stages/<verb>.json``, ``objectives/<name>.json``, ``tasks/<name>.json``; and ``needs/<name>.json``, what a task needs to
        be known of every image, which is all that the choice of its images reads of it.

    Raises:
        UserError: there is no such module.
    """
    entries = {f"stages/{verb}": verb_imports(verb) | _all(kind) for verb, kind in STAGES.items()}
    entries |= {f"objectives/{name}": {_source(["objective"], module)} for name, module in objectives.items()}
    entries |= {f"tasks/{name}": {_source(["task", "probe"], module)} for name, module in tasks.items()}
    code = {
        name: {file: artifacts.file_digest(ROOT / file) for file in sorted(closure(of))} for name, of in entries.items()
    }
    known = registry.names("task")
    for name, module in tasks.items():
        if module in known:
            needs = str(registry.constant("task", module, "NEEDS"))
            code[f"needs/{name}"] = {f"{_source(['task'], module)}: NEEDS": needs}
    return {f"{name}.json": files for name, files in code.items()}


def write_modules(code: Code, output: Path) -> None:
    """Write what ``read_code`` found as JSON files of the folder ``output``, whole or not at all."""
    with artifacts.directory(output) as part:
        for name, files in code.items():
            artifacts.write_json(part / name, files)


def _all(kind: registry.Kind | None) -> set[str]:
    return {f"mimcore/{registry.FOLDERS[kind]}/{name}.py" for name in registry.names(kind)} if kind else set()


def _source(kinds: list[registry.Kind], module: str) -> str:
    return registry.source(kinds, module).relative_to(ROOT).as_posix()
