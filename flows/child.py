"""The process of one stage: ``dvc repro --single-item``, which ends with the flow that started it.

Run by its path, from the root of the workspace: ``child.py PARENT MARK STAGE``. ``MARK`` is touched if the stage's command
is executed, which DVC's exit status does not tell from a restored result.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from flows import forking
from flows.lockfile import of_stage, quick
from mimcore.lifetime import end_with_parent

#: Seconds between two looks at DVC's lock.
LOOK = 0.02


def main(parent: int, mark: Path, stage: str) -> int:
    """Bring one stage up to date; returns DVC's exit status."""
    end_with(parent)
    from dvc import cli, lock
    from dvc.dvcfile import Lockfile
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

    run.cmd_run, run._run, lock.Lock.lock = marked, forked, look_often
    Lockfile.dump_stages, Lockfile._load_yaml = quick(Lockfile.dump_stages), of_stage(Lockfile._load_yaml, stage)
    # Of a stale lock that it clears; flows.graph.mend has cleared and logged it already.
    logging.getLogger("dvc.rwlock").setLevel(logging.ERROR)
    return int(cli.main(["--wait-for-lock", "repro", "--single-item", stage]))


def look_often(repository: Any) -> None:
    """Wait for the lock of a DVC repository as ``dvc.lock.Lock.lock`` does, with a look at it every 20 ms instead of every 500.

    Raises:
        LockError: another process has held it for as long as DVC waits, and DVC was not told to wait for longer.
    """
    from dvc.lock import DEFAULT_TIMEOUT, LockError

    begun = time.monotonic()
    while True:
        try:
            repository._do_lock()
            return
        except LockError:
            if not repository._wait and time.monotonic() - begun > DEFAULT_TIMEOUT:
                raise
            time.sleep(LOOK)


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
