"""Changes to a study file that keep its comments and its order."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from mimcore import artifacts


def add_runs(path: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Add runs to ``study.extra``; those that are there stay as they are.

    Args:
        path: the study file.
        runs: name to coordinates and module.
    """
    yaml, content = _read(path)
    # An empty mapping is written as {}, and would go on in braces.
    extra = content["study"].get("extra") or CommentedMap()
    for name, coordinates in runs.items():
        if name not in extra:
            line = CommentedMap(coordinates)
            line.fa.set_flow_style()
            extra[name] = line
    content["study"]["extra"] = extra
    _write(yaml, content, path)


def add_definitions(path: Path, kind: str, definitions: Mapping[str, Mapping[str, Any]]) -> None:
    """Add definitions to a block; those that are there stay as they are.

    Args:
        path: the study file.
        kind: the block, such as ``schedules``.
        definitions: name to options.
    """
    yaml, content = _read(path)
    for name, options in definitions.items():
        if name not in content[kind]:
            content[kind][name] = CommentedMap(options)
    _write(yaml, content, path)


def _read(path: Path) -> tuple[YAML, Any]:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml, yaml.load(path.read_text(encoding="utf-8"))


def _write(yaml: YAML, content: Any, path: Path) -> None:
    stream = StringIO()
    yaml.dump(content, stream)
    with artifacts.file(path) as part:
        part.write_text(stream.getvalue(), encoding="utf-8")
