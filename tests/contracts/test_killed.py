"""Killing ``dvc`` leaves nothing behind, and one run is trained by one process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mimcore.errors import UserError
from mimcore.imports import ROOT
from mimcore.training.scratch import scratch

CHILD = """
import os, sys, time
from pathlib import Path
from mimcore.lifetime import die_with_parent
die_with_parent()
Path("child.pid.part").write_text(str(os.getpid()))
Path("child.pid.part").rename("child.pid")
if not Path("quick").exists():
    time.sleep(60)
Path("out.txt").write_text("done")
"""


def wait_for(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.1)
    return what()


def gone(process: int) -> bool:
    """Ended, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's end on Linux only")
@pytest.mark.parametrize("command", ["python child.py", "true; python child.py; true"], ids=["exec", "shell between"])
def test_a_killed_dvc_leaves_no_training_behind(tmp_path: Path, quiet_tools: pytest.MonkeyPatch, command: str) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  train:\n    cmd: {command}\n    outs: [out.txt]\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SHELL": "/bin/sh"}
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, env=environment, check=True)
    repro = subprocess.Popen([*dvc, "repro", "--quiet"], cwd=tmp_path, env=environment)
    try:
        assert wait_for((tmp_path / "child.pid").exists, 60), "the stage did not start"
        child = int((tmp_path / "child.pid").read_text())
        assert not gone(child)
    finally:
        repro.send_signal(signal.SIGKILL)
        repro.wait()
    assert wait_for(lambda: gone(child), 5), "the training outlived dvc"
    (tmp_path / "quick").touch()
    subprocess.run([*dvc, "repro", "--quiet"], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "out.txt").read_text() == "done"


def test_one_process_trains_a_run(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path; from mimcore.training.scratch import scratch\n"
        "with scratch(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"trained already, by process {process.pid} ") as refused,
            scratch(tmp_path),
        ):
            pass
        assert str(tmp_path / "lock") in str(refused.value)
        process.stdin.close()
        process.wait()
    with scratch(tmp_path) as folder:
        assert folder == tmp_path


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4000000")  # what a killed process leaves
    with scratch(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())
