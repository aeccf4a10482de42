"""``dvc.lock`` of a large study: one stage of it is replaced as text, in place of all being parsed and written anew for each.

DVC parses and writes the file with every comment that it might have, in Python: 5 s of CPU for the 170 stages of a small study, under
the lock of the repository. The text that comes out is the same here, byte for byte.
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


def replace(text: str, block: str) -> str | None:
    """The text with this block in the place of that of the same stage, or at the end; None if the text is not plainly of DVC.

    Args:
        text: of ``dvc.lock``.
        block: a stage's lines, two spaces before its name.
    """
    plain = text.startswith(HEAD) and text.endswith("\n")
    if not plain or any(line[:2] != "  " or line.lstrip()[:1] == "#" for line in text[len(HEAD) :].splitlines()):
        return None
    name = block[: block.index("\n") + 1]
    start = text.find(name, len(HEAD))
    while start > 0 and text[start - 1] != "\n":
        start = text.find(name, start + 1)
    if start < 0:
        return text + block
    following = STAGE.search(text, start + len(name))
    return text[:start] + block + (text[following.start() :] if following else "")
