"""The process of one stage: ``dvc repro --single-item``, which ends with the flow that started it.

Run by its path, from the root of the workspace: ``child.py PARENT MARK STAGE``. ``MARK`` is touched if the stage's command
is executed, which DVC's exit status does not tell from a restored result.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from flows import forking
from mimcore.lifetime import end_with_parent


def main(parent: int, mark: Path, stage: str) -> int:
    """Bring one stage up to date; returns DVC's exit status."""
    end_with(parent)
    from dvc import cli
    from dvc.stage import run
    from dvc.stage.exceptions import StageCmdFailedError

    execute, start = run.cmd_run, run._run

    def marked(*args: Any, **kwargs: Any) -> None:
        mark.touch()
        execute(*args, **kwargs)

    def forked(shell: str | None, command: str, /, **how: Any) -> None:
        status = forking.run(command, how["cwd"], how["env"])
        if status is None:
            start(shell, command, **how)
        elif status:
            raise StageCmdFailedError(command, status)

    run.cmd_run, run._run = marked, forked
    # Of a stale lock that it clears; flows.graph.mend has cleared and logged it already.
    logging.getLogger("dvc.rwlock").setLevel(logging.ERROR)
    return int(cli.main(["--wait-for-lock", "repro", "--single-item", stage]))


def end_with(parent: int) -> None:
    """End this process group, whose leader this process is, when the parent ends in any way (Linux only)."""

    def end(number: int, frame: object) -> None:
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    end_with_parent(signal.SIGTERM, parent)


if __name__ == "__main__":
    # Python puts the folder of a script first: its modules would hide others of the same name.
    sys.path.pop(0)
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
