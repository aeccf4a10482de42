"""Where a training step goes: a trace, and one table of its parts."""

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from mimcore.training.state import Run
from mimcore.training.step import train_step

#: Parts of a step that the table has a row for.
PARTS = ("augment", "forward encoder", "forward decoder and loss", "backward", "optimiser")


def profiled(run: Run, batches: Iterable[Tensor], trace: Path, steps: int = 5) -> dict[str, float]:
    """Take a few steps and write what each kernel took to ``trace``, for Perfetto or chrome://tracing.

    The encoder's part is told apart by its modules; a step that is compiled has its forward pass in one.

    Args:
        run: is changed.
        batches: uint8 ``(B, C, H, W)`` each; at least ``steps + 2``.
        trace: JSON file to write.
        steps: that are measured, after two that are not.

    Returns:
        Part to milliseconds a step, in order; ``other`` is what no part accounts for.
    """
    arriving = iter(batches)
    for _ in range(2):
        train_step(run, next(arriving))
    hooks = list(_mark_encoder(run.objective.encoder))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.device.type == "cuda" else [])]
    waited = 0.0
    with profile(activities=activities) as seen:
        begun = time.perf_counter()
        for _ in range(steps):
            start = time.perf_counter()
            with record_function("data wait and copy"):
                batch = next(arriving).to(run.device)
            waited += time.perf_counter() - start
            train_step(run, batch)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        total = time.perf_counter() - begun
    for hook in hooks:
        hook.remove()
    seen.export_chrome_trace(str(trace))
    spent: dict[str, float] = defaultdict(float)
    for event in seen.events():
        if event.name in {"augment", "forward", "forward encoder", "backward", "optimiser"}:
            # On a GPU, that of the kernels begun within.
            micros = event.device_time_total if run.device.type == "cuda" else event.cpu_time_total
            spent[event.name] += micros / 1e6
    spent["forward decoder and loss"] = spent["forward"] - spent["forward encoder"]
    found = {"data wait and copy": waited} | {part: spent[part] for part in PARTS}
    found["other"] = total - sum(found.values())
    return {part: 1e3 * seconds / steps for part, seconds in found.items()}


def _mark_encoder(encoder: nn.Module) -> Iterable[Any]:
    """Mark the time inside the encoder's direct parts and blocks, whoever calls them."""
    for part in encoder.children():
        for module in part if isinstance(part, nn.Sequential | nn.ModuleList) else [part]:
            open_: list[Any] = []

            def enter(*_: Any, open_: list[Any] = open_) -> None:
                open_.append(record_function("forward encoder").__enter__())

            def leave(*_: Any, open_: list[Any] = open_) -> None:
                open_.pop().__exit__(None, None, None)

            yield module.register_forward_pre_hook(enter)
            yield module.register_forward_hook(leave)
