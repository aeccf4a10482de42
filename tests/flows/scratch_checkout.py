"""A small DVC pipeline whose commands write a line outside of the repository: what was executed is counted there."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from dvc.repo import Repo

ROOT = Path(__file__).parents[2]

WORK = '''
"""work.py NAME [DEPENDENCY ...]: says that it runs, waits as long as the file 'seconds' says, and writes what it read."""
import os, sys, time
from pathlib import Path

name, *needed = sys.argv[1:]
with open(os.environ["RAN"], "a") as log:
    log.write(f"{name} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.environ.get('OMP_NUM_THREADS')}\\n")
print("working on", name, flush=True)
seconds = Path(os.environ["RAN"]).with_name("seconds")
time.sleep(float(seconds.read_text()) if seconds.exists() else 0)
if name in os.environ.get("FAIL", "").split():
    print("the disk of", name, "is on fire", file=sys.stderr)
    sys.exit(1)
out = Path("out") / name
out.mkdir(parents=True)
(out / "data.txt").write_text(name + "".join((Path("out") / n / "data.txt").read_text() for n in needed))
'''
DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
PARAMS = """\
# A small study.
pools:
  digits: {format: digits, images: 100, val_images: 10}
subsets:
  n16: {pool: digits, images: 16}
models:
  tiny: {architecture: vit_tiny_patch16_224, image_size: 32, patch_size: 8, embed_dim: 64, depth: 1, num_heads: 2}
  small: {architecture: vit_tiny_patch16_224, image_size: 32, patch_size: 8, embed_dim: 128, depth: 1, num_heads: 2}
objectives:
  mae: {mask_ratio: 0.75}
schedules:
  short: {images_seen: 512, batch_size: 64, warmup_images: 64}
features:
  all: {pool: digits, train_images: 50}
tasks:
  linear: {features: all}
study:
  title: Small
  pools: [digits]
  subsets: [n16]
  models: [tiny, small]
  objectives: [mae]
  schedules: [short]
  seeds: [s0]
  features: [all]
  probes: [linear]
  tasks: []
  phases: {}
fit: {}
execution: {}
"""
STUDY_PIPELINE = """\
stages:
  pretrain:
    matrix: {model: "${study.models}"}
    cmd: python work.py ${item.model}
    params: ["models.${item.model}", schedules.short]
    deps: [work.py]
    outs: ["out/${item.model}"]
"""


#: Processes that tests started; a fixture ends those that a failed test left.
STARTED: "list[subprocess.Popen[str]]" = []


@dataclass(frozen=True)
class Scratch:
    """A checkout; ``log`` names what was executed."""

    root: Path

    @property
    def log(self) -> Path:
        return self.root.parent / "ran.log"

    def ran(self) -> list[str]:
        """Names of what was executed so far, in order."""
        return [line.split()[0] for line in self.lines()]

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def take(self, seconds: float) -> None:
        """Let every command take so long from now on."""
        (self.root.parent / "seconds").write_text(str(seconds))

    def repro(self, *targets: str) -> None:
        """``dvc repro``, in this process; it takes paths from the working directory."""
        with chdir(self.root), Repo() as repo:
            repo.reproduce(list(targets) or None)

    def status(self) -> dict[str, Any]:
        """``dvc status``."""
        with chdir(self.root), Repo() as repo:
            found: dict[str, Any] = repo.status()
        return found

    def experiments(self) -> set[str]:
        """Names that ``dvc exp list`` prints."""
        with chdir(self.root), Repo() as repo:
            return {name for found in repo.experiments.ls().values() for name, _ in found}

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True
        ).stdout.strip()

    def start(self, code: str) -> "subprocess.Popen[str]":
        """Run Python code in a process of its own, with this code first on its path."""
        # Pieces of code come indented from the tests.
        STARTED.append(
            process := subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code)],
                cwd=self.root,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return process


def write_stages(root: Path, stages: dict[str, list[str]], meta: str = "") -> None:
    lines = ["stages:"]
    for name, needed in stages.items():
        deps = ", ".join(["work.py", *(f"out/{n}" for n in needed)])
        lines += [f"  {name}:", f"    cmd: python work.py {' '.join([name, *needed])}", f"    deps: [{deps}]"]
        lines += [f"    outs: [out/{name}]"] + ([f"    meta: {meta}"] if meta else [])
    (root / "dvc.yaml").write_text("\n".join(lines) + "\n")


def ended(pid: int) -> bool:
    """Whether a process does nothing any more; one that nobody waits for still has its number."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def until(what: Callable[[], bool], seconds: float = 240) -> None:
    """Wait until ``what`` holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)
