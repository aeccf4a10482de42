"""Cost of growth: seconds of a step against tokens, width and depth; memory against the micro-batch; time to the first step.

python benchmarks/growth.py --plot docs/images/growth.png

Each figure is the median of a few steps of a ViT of width 192, depth 6 and 64 px with patch 8, batch 16, one of these changed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import altair
import torch
from rich.console import Console
from rich.table import Table

from mimcore.execution import Execution
from mimcore.training.flops import training_flops_per_image
from mimcore.training.memory import activation_bytes
from mimcore.training.state import Run, start_run
from mimcore.training.step import train_step

BASE = {"width": 192, "depth": 6, "image_size": 64, "batch": 16}
AXES: dict[str, tuple[str, list[int], Callable[[int], float]]] = {
    "tokens": ("image_size", [32, 64, 128, 192], lambda side: (side // 8) ** 2),
    "width": ("width", [96, 192, 384, 768], float),
    "depth": ("depth", [3, 6, 12, 24], float),
}
MICRO_BATCHES = [1, 2, 4, 8, 16, 32]

FIRST_STEP = """
import time; begun = time.perf_counter()
import sys, torch
from mimcore.execution import Execution
from mimcore.training.step import train_step
from mimcore.training.state import start_run
device = Execution(device="cpu").start()
run = start_run({"seed": "s0", "model": {"image_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2},
    "objective": {"module": "mae", "decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2},
    "schedule": {"images_seen": 64, "batch_size": 16, "warmup_images": 16, "precision": "float32"}}, device)
train_step(run, torch.zeros(16, 3, 32, 32, dtype=torch.uint8))
print(time.perf_counter() - begun)
"""


def run_of(precision: str, device: torch.device, **changed: int) -> tuple[Run, torch.Tensor]:
    at = BASE | changed
    definition = {
        "seed": "s0",
        "model": {
            "image_size": at["image_size"],
            "patch_size": 8,
            "embed_dim": at["width"],
            "depth": at["depth"],
            "num_heads": at["width"] // 32,
        },
        "objective": {"module": "mae", "decoder_embed_dim": 128, "decoder_depth": 2, "decoder_num_heads": 4},
        "schedule": {
            "images_seen": at["batch"] << 10,
            "batch_size": at["batch"],
            "warmup_images": at["batch"],
            "precision": precision,
        },
    }
    side = at["image_size"]
    images = torch.randint(0, 256, (at["batch"], 3, side, side), dtype=torch.uint8, device=device)
    return start_run(definition, device), images


def seconds(run: Run, images: torch.Tensor, steps: int) -> float:
    found = []
    for _ in range(steps + 2):
        begun = time.perf_counter()
        train_step(run, images)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return median(found[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--plot", type=Path, help="write the picture here")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    device = Execution(device=arguments.device, threads=arguments.threads).start()
    rows: list[dict[str, Any]] = []

    def add(setting: str, x: float, what: str, value: float, unit: str) -> None:
        rows.append(
            {
                "benchmark": "growth",
                "setting": f"{setting} {x:g}",
                "implementation": what,
                "value": value,
                "unit": unit,
                "axis": setting,
                "x": x,
            }
        )

    for axis, (name, values, place) in AXES.items():
        for value in values:
            run, images = run_of(arguments.precision, device, **{name: value})
            flops = training_flops_per_image(run.objective, run.encoder, images[:2]) * len(images)
            spent = seconds(run, images, arguments.steps)
            add(axis, place(value), "step", spent, "s")
            add(axis, place(value), "products", flops / spent / 1e9, "GFLOP/s")
    run, images = run_of(arguments.precision, device)
    for micro_batch in MICRO_BATCHES:
        kept = activation_bytes(run, images[: min(micro_batch, len(images))]) * micro_batch
        add("micro-batch", micro_batch, "activations", kept / 2**20, "MiB")
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    starts = [
        float(
            subprocess.run(
                [sys.executable, "-c", FIRST_STEP], env=environment, capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(3)
    ]
    add("process", 1, "first step", min(starts), "s")
    table = Table("axis", "at", "what", "value", "unit")
    for row in rows:
        table.add_row(row["axis"], f"{row['x']:g}", row["implementation"], f"{row['value']:,.3g}", row["unit"])
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    panels = []
    for axis, what, title in (
        ("tokens", "step", "seconds of a step"),
        ("width", "step", "seconds of a step"),
        ("depth", "step", "seconds of a step"),
        ("micro-batch", "activations", "MiB kept for backward"),
    ):
        values = [row for row in rows if row["axis"] == axis and row["implementation"] == what]
        x = altair.X("x:Q", title=axis, scale=altair.Scale(type="log", base=2, nice=False))
        y = altair.Y("value:Q", title=title, scale=altair.Scale(type="log"))
        chart = altair.Chart(altair.Data(values=values)).mark_line(point=True).encode(x=x, y=y)
        panels.append(chart.properties(width=180, height=180))
    altair.hconcat(*panels).save(str(file), scale_factor=2)


if __name__ == "__main__":
    main()
