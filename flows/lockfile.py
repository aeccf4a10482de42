"""``dvc.lock`` of a large study: of one stage it is read, and one stage is replaced, as text.

DVC reads all of it for each stage, and parses and writes all of it with every comment that it might have, under the lock of the
repository. The text that comes out is the same here, byte for byte.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimcore import artifacts

if TYPE_CHECKING:
    from dvc.dvcfile import Lockfile
    from dvc.stage import PipelineStage

#: How a file of DVC's own begins.
HEAD = "schema: '2.0'\nstages:\n"
#: The first line of a stage, and whatever else has two spaces before it.
STAGE = re.compile(r"^  (?=\S)", re.MULTILINE)


def quick(dump: Callable[..., None]) -> Callable[..., None]:
    """A ``Lockfile.dump_stages`` that does as ``dump``, DVC's own; a file that DVC has not written as it stands is left to it."""

    def dump_stages(lockfile: "Lockfile", stages: "Iterable[PipelineStage]", **how: Any) -> None:
        from dvc.dvcfile import logger
        from dvc.stage.serialize import to_lockfile
        from dvc.utils.serialize import dumps_yaml

        stages, path = list(stages), Path(lockfile.path)
        found = text = path.read_text(encoding="utf-8") if path.is_file() else HEAD
        for stage in stages:
            block = dumps_yaml({"stages": to_lockfile(stage, **how)}).removeprefix("stages:\n")
            if (replaced := replace(found, block)) is None:
                dump(lockfile, stages, **how)
                return
            found = replaced
        if found != text:
            logger.info("Updating lock file '%s'", lockfile.relpath)
            with artifacts.file(path) as part:
                part.write_text(found, encoding="utf-8")
            lockfile.repo.scm_context.track_file(lockfile.relpath)

    return dump_stages


def of_stage(load: Callable[..., Any], stage: str) -> Callable[..., Any]:
    """A ``Lockfile._load_yaml`` that knows no other stage; a file that DVC has not written as it stands is left to ``load``."""

    def load_yaml(lockfile: "Lockfile", **how: Any) -> Any:
        from dvc.utils.serialize import parse_yaml

        text = Path(lockfile.path).read_text(encoding="utf-8")
        if how or not plain(text):
            return load(lockfile, **how)
        start, end = span(text, f"  {stage}:\n")
        data = parse_yaml(HEAD + text[start:end], lockfile.path) if end else {"schema": "2.0", "stages": {}}
        return lockfile.validate(data, lockfile.relpath), text

    return load_yaml


def plain(text: str) -> bool:
    """Whether nobody but DVC has written in it, as far as its lines show."""
    whole = text.startswith(HEAD) and text.endswith("\n")
    return whole and all(line[:2] == "  " and line.lstrip()[:1] != "#" for line in text[len(HEAD) :].splitlines())


def span(text: str, name: str) -> tuple[int, int]:
    """Where the lines of a stage begin and end, of which ``name`` is the first; at the end, and 0, if it has none."""
    start = text.find(f"\n{name}") + 1
    if not start:
        return len(text), 0
    following = STAGE.search(text, start + len(name))
    return start, following.start() if following else len(text)


def replace(text: str, block: str) -> str | None:
    """The text with this block in the place of that of the same stage, or at the end; None if the text is not plainly of DVC.

    Args:
        text: of ``dvc.lock``.
        block: a stage's lines, two spaces before its name.
    """
    if not plain(text):
        return None
    start, end = span(text, block[: block.index("\n") + 1])
    return text[:start] + block + text[end or len(text) :]
