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
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    content = yaml.load(path.read_text(encoding="utf-8"))
    # An empty mapping is written as {}, and would go on in braces.
    extra = content["study"].get("extra") or CommentedMap()
    for name, coordinates in runs.items():
        if name not in extra:
            line = CommentedMap(coordinates)
            line.fa.set_flow_style()
            extra[name] = line
    content["study"]["extra"] = extra
    stream = StringIO()
    yaml.dump(content, stream)
    with artifacts.file(path) as part:
        part.write_text(stream.getvalue(), encoding="utf-8")
