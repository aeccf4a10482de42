"""Stage ``modules``: which module a definition names, and a digest of that module's source.

DVC cannot look up a module by a definition's name. So a run or an evaluation depends on what this light stage says of its one
definition: an edit of an objective then makes stale the runs of its definitions, whatever they are called, and no other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mimcore import artifacts, registry


def write_modules(objectives: Mapping[str, str], tasks: Mapping[str, str], output: Path) -> None:
    """Write ``objectives/<name>.json`` and ``tasks/<name>.json``: ``module``, ``sha256``, and ``built_on`` where it imports others.

    Args:
        objectives: definition to module.
        tasks: definition to module, of a task or a probe.
        output: folder to write, whole or not at all.

    Raises:
        UserError: there is no such module.
    """
    with artifacts.directory(output) as part:
        _write(part / "objectives", objectives, ["objective"])
        _write(part / "tasks", tasks, ["task", "probe"])


def _write(folder: Path, modules: Mapping[str, str], kinds: Sequence[registry.Kind]) -> None:
    for name, module in modules.items():
        file = registry.source(kinds, module)
        said: dict[str, object] = {"module": module, "sha256": artifacts.file_digest(file)}
        if others := registry.built_on(file):
            said["built_on"] = {other.stem: artifacts.file_digest(other) for other in others}
        artifacts.write_json(folder / f"{name}.json", said)
