"""Cost of growth: seconds of a step against tokens, width, depth and ranks; memory against the micro-batch; time to the first step.

python benchmarks/growth.py --json growth.json --plot growth.png

Each figure is the median of a few steps of a ViT of width 192, depth 6 and 64 px with patch 8, batch 16, one of these changed.
Ranks share the threads, as on a machine that they divide; theirs is the time of a run of so many steps without its start. The
first step is that of ``mimcore pretrain``, from the start of the process, second time and later. With --axes some of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
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
from mimcore.training.ranks import ALONE, Ranks
from mimcore.training.state import Run, start_run
from mimcore.training.step import train_step

BASE = {"width": 192, "depth": 6, "image_size": 64, "batch": 16}
AXES: dict[str, tuple[str, list[int], Callable[[int], float]]] = {
    "tokens": ("image_size", [32, 64, 128, 192], lambda side: (side // 8) ** 2),
    "width": ("width", [96, 192, 384, 768], float),
    "depth": ("depth", [3, 6, 12, 24], float),
}
MICRO_BATCHES = [1, 2, 4, 8, 16, 32]

#: Put ahead of a process's first step: it ends there, and says when.
STUDY = """
pools: {digits: {format: digits, images: 200, image_size: 32, val_images: 40}}
subsets: {n150: {pool: digits, images: 150}}
models: {tiny: {architecture: vit_tiny_patch16_224, image_size: 32, patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2}}
objectives: {mae: {decoder_embed_dim: 32, decoder_depth: 1, decoder_num_heads: 2}}
schedules:
  short: {images_seen: 64, batch_size: 16, warmup_images: 16, precision: float32, validations: 1, validation_images: 16}
features: {digits: {pool: digits}}
tasks: {linear: {features: digits}}
study: {title: one run, pools: [digits], subsets: [n150], models: [tiny], objectives: [mae], schedules: [short], seeds: [s0],
  features: [digits], probes: [linear], tasks: [], extra: {}, phases: {}}
execution: {device: cpu, workers: 0}
"""
RUN = "mae-tiny-n150-short-s0"
#: ``mimcore`` up to the first step of ``pretrain``.
UP_TO_A_STEP = """
import os, sys
from mimcore.cli import main
from mimcore.training import loop
step = loop.train_step
def first(*arguments):
    step(*arguments)
    os._exit(0)
loop.train_step = first
main()
"""
#: A rank's steps, in one of several processes.
RANKED = """
import json, sys, time, torch
sys.path.insert(0, sys.argv[1])
from growth import run_of
from mimcore.execution import Execution
from mimcore.launch import join_launcher
from mimcore.training.ranks import joined
from mimcore.training.step import train_step
join_launcher()
precision, threads, steps = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with joined(Execution(device="cpu", threads=threads).start()) as (ranks, device):
    run, images = run_of(precision, device, ranks)
    if ranks.world_size > 1:
        run.spread("ddp")
    mine = images[ranks.rows(len(images))]
    found = []
    for _ in range(steps + 2):
        begun = time.perf_counter()
        train_step(run, mine)
        found.append(time.perf_counter() - begun)
    if ranks.first:
        print("> " + str(sorted(found[2:])[steps // 2]), flush=True)
"""


def run_of(precision: str, device: torch.device, ranks: Ranks = ALONE, **changed: int) -> tuple[Run, torch.Tensor]:
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
    return start_run(definition, device, ranks), images


def seconds(run: Run, images: torch.Tensor, steps: int) -> float:
    found = []
    for _ in range(steps + 2):
        begun = time.perf_counter()
        train_step(run, images)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return median(found[2:])


def of_ranks(ranks: int, arguments: argparse.Namespace) -> float:
    """Seconds of a step of so many processes, which share the threads."""
    threads = max(1, arguments.threads // ranks)
    with tempfile.TemporaryDirectory() as folder:
        script, said = Path(folder) / "rank.py", Path(folder) / "said"
        script.write_text(RANKED)
        here = str(Path(__file__).parent)
        command = [sys.executable, str(script), here, arguments.precision, str(threads), str(arguments.steps)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        launcher = "import json, sys; from mimcore.launch import launch; sys.exit(launch(json.loads(sys.argv[1]), int(sys.argv[2]), 0))"
        whole = [sys.executable, "-c", launcher, json.dumps(command), str(ranks)] if ranks > 1 else command
        with said.open("w") as output:
            subprocess.run(whole, env=environment, stdout=output, check=True)
        answer = next(line for line in said.read_text().splitlines() if line.startswith("> "))
    return float(answer[2:])


def to_the_first_step(threads: int) -> list[float]:
    """Seconds from the start of ``mimcore pretrain`` to its first step, of a few processes after one that warms up."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(STUDY)
        (Path(folder) / "first.py").write_text(UP_TO_A_STEP)
        for verb in (["scan", "digits"], ["index", "digits"], ["sample", "n150", "s0"]):
            whole = [sys.executable, "-m", "mimcore", *verb]
            subprocess.run(whole, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        found = []
        for _ in range(4):
            begun = time.perf_counter()
            whole = [sys.executable, "first.py", "pretrain", RUN]
            subprocess.run(
                whole, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
            )
            found.append(time.perf_counter() - begun)
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--plot", type=Path, help="write the picture here")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--axes", nargs="+", choices=[*AXES, "ranks", "micro-batch", "start"], help="all if not given")
    arguments = parser.parse_args()
    wanted = arguments.axes or [*AXES, "ranks", "micro-batch", "start"]
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
        for value in values if axis in wanted else []:
            run, images = run_of(arguments.precision, device, **{name: value})
            flops = training_flops_per_image(run.objective, run.encoder, images[:2]) * len(images)
            spent = seconds(run, images, arguments.steps)
            add(axis, place(value), "step", spent, "s")
            add(axis, place(value), "products", flops / spent / 1e9, "GFLOP/s")
    if "ranks" in wanted and device.type == "cpu":
        for ranks in (1, 2, 4):
            add("ranks", ranks, "step", of_ranks(ranks, arguments), "s")
    if "micro-batch" in wanted:
        run, images = run_of(arguments.precision, device)
        for micro_batch in MICRO_BATCHES:
            kept = activation_bytes(run, images[: min(micro_batch, len(images))]) * micro_batch
            add("micro-batch", micro_batch, "activations", kept / 2**20, "MiB")
    if "start" in wanted:
        add("start", 1, "first step of mimcore pretrain", median(to_the_first_step(arguments.threads)), "s")
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
        ("ranks", "step", "seconds of a step"),
        ("micro-batch", "activations", "MiB kept for backward"),
    ):
        values = [row for row in rows if row["axis"] == axis and row["implementation"] == what]
        if not values:
            continue
        x = altair.X("x:Q", title=axis, scale=altair.Scale(type="log", base=2, nice=False))
        y = altair.Y("value:Q", title=title, scale=altair.Scale(type="log"))
        chart = altair.Chart(altair.Data(values=values)).mark_line(point=True).encode(x=x, y=y)
        panels.append(chart.properties(width=180, height=180))
    altair.hconcat(*panels).save(str(file), scale_factor=2)


if __name__ == "__main__":
    main()
