"""A run small enough to be made many times: digits of 32 pixels, one block of width 32, one thread."""

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from mimcore import artifacts
from mimcore.execution import Execution
from mimcore.training import loop
from mimcore.training import pretrain as stage
from mimcore.training.checkpoint import Checkpoints
from mimcore.training.state import Run

POOL = {"format": "digits", "path": "data/digits", "images": 200, "image_size": 32, "seed": 0, "val_images": 40}
SUBSET = {"pool": "digits", "images": 150}
MODEL = {
    "architecture": "vit_tiny_patch16_224",
    "image_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
}
OBJECTIVE = {"module": "mae", "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
SCHEDULE = {
    "images_seen": 480,
    "batch_size": 16,
    "base_learning_rate": 1e-2,
    "warmup_images": 64,
    "precision": "float32",
    "validations": 3,
    "validation_images": 24,
}
STEPS = 30
FILES = {"encoder.safetensors", "model.json", "metrics.json", "curve.parquet", "reconstructions.png"}


def make_subset(root: Path, seed: str = "s0") -> Path:
    """List and index the embedded pool below ``root`` and draw a subset of it."""
    from mimcore.data.index import build_index
    from mimcore.data.listing import scan
    from mimcore.data.pool import load_pool
    from mimcore.sampling.draw import sample

    listing, index = root / "listings/digits.json", root / "artifacts/index/digits"
    scan(load_pool("digits", POOL, root), listing)
    build_index("digits", POOL, listing, index, root, root / ".mimcore")
    output = root / f"artifacts/subsets/n150-{seed}"
    sample("n150", SUBSET, seed, POOL, index, output, root)
    return output


def definition(seed: str = "s0", **schedule: Any) -> dict[str, Any]:
    """What is declared of the run, with other options of its schedule."""
    subset = {"name": "n150", **SUBSET}
    return {
        "objective": OBJECTIVE,
        "model": MODEL,
        "schedule": SCHEDULE | schedule,
        "subset": subset,
        "seed": seed,
    }


def execution(**options: Any) -> Execution:
    """One thread; no checkpoint unless told."""
    return Execution.model_validate({"device": "cpu", "threads": 1, "workers": 0, "checkpoint_seconds": 3600} | options)


@dataclass
class Trained:
    """The folder of an artifact, and the numbers of images seen that the run told of."""

    folder: Path
    told: list[int] = field(default_factory=list)

    def bytes(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(self.folder.iterdir()) if file.is_file()}

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text())
        return found


def provenance(root: Path, name: str) -> Path:
    return root / f"artifacts/provenance/runs/{name}.json"


def train(
    root: Path,
    name: str,
    declared: Mapping[str, Any] | None = None,
    after: Path | None = None,
    prepared: Path | None = None,
    **options: Any,
) -> Trained:
    """Pretrain in this process; ``after`` is the run that a phase follows, ``options`` are those of execution."""
    declared = definition() if declared is None else declared
    torch.set_num_threads(1)
    trained = Trained(root / "artifacts/runs" / name)
    stage.pretrain(
        name,
        declared,
        POOL,
        root / "artifacts/subsets/n150-s0",
        trained.folder,
        provenance(root, name),
        root / ".mimcore/runs",
        root,
        execution(**options),
        torch.device("cpu"),
        lambda phase, done, total, words: trained.told.append(done),
        prepared,
        after,
    )
    return trained


def digest(run: Run) -> str:
    """Of this rank's tensors of the objective."""
    state = run.objective.state_dict()
    parts = {name: getattr(tensor, "to_local", lambda _t=tensor: _t)() for name, tensor in state.items()}
    return artifacts.digest({name: part.tolist() for name, part in parts.items()})


def train_in_child(
    root: Path,
    name: str,
    save_at: int = -1,
    kill_at: int = -1,
    objective: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[int, Trained]:
    """Pretrain in a process of its own, that may be killed.

    Args:
        root: the folder of the study.
        name: of the run.
        save_at: finished steps at which the one checkpoint is written.
        kill_at: finished steps at which the process is killed, right after the checkpoint if it is the same step.
        objective: another one than ``OBJECTIVE``.
        options: of execution.

    Returns:
        The exit status and, if it is 0, what was trained.
    """
    context = get_context("forkserver")  # imports torch once, for all children
    context.set_forkserver_preload(["mimcore.training.pretrain", "mimcore.objectives.mae"])
    child = context.Process(target=_child, args=(root, name, save_at, kill_at, objective, options))
    child.start()
    child.join(120)
    told = root / f"{name}.told.json"
    trained = Trained(root / "artifacts/runs" / name, json.loads(told.read_text()) if told.exists() else [])
    assert child.exitcode is not None
    return child.exitcode, trained


def _child(
    root: Path,
    name: str,
    save_at: int,
    kill_at: int,
    objective: Mapping[str, Any] | None,
    options: dict[str, Any],
) -> None:
    save, step = Checkpoints.save, loop.train_step

    def save_once(checkpoints: Checkpoints, run: Run) -> None:
        if run.step == save_at:
            save(checkpoints, run)
            checkpoints.finish()
            _kill_if(save_at == kill_at)

    def step_and_die(run: Run, images: torch.Tensor, read: None) -> None:
        _kill_if(run.step == kill_at)
        step(run, images, read)

    Checkpoints.save, loop.train_step = save_once, step_and_die  # type: ignore[method-assign]
    declared = definition() | ({"objective": objective} if objective else {})
    trained = train(root, name, declared, checkpoint_seconds=1e-9, **options)
    (root / f"{name}.told.json").write_text(json.dumps(trained.told))


def _kill_if(now: bool) -> None:
    if now:
        os.kill(os.getpid(), signal.SIGKILL)
