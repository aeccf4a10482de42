"""OpenMP's waiting: MAE steps of processes that share the cores, with its default and with the shorter wait that mimcore sets."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

#: (width of the encoder, processes at once, threads of each)
SETTINGS = tuple((width, *shape) for width in (64, 160) for shape in ((1, 2), (2, 2), (2, 1)))
WAITS = {"default of OpenMP": None, "mimcore": "10000"}

WORKER = """
import sys, time, torch
from mimcore.execution import Execution
from mimcore.training.state import start_run
from mimcore.training.step import train_step
width, threads, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
device = Execution(device="cpu", threads=threads).start()
run = start_run({
    "seed": "s0",
    "model": {"architecture": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 4, "embed_dim": width, "depth": 4,
              "num_heads": 2},
    "objective": {"module": "mae", "decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 2},
    "schedule": {"images_seen": 3200, "batch_size": 32, "warmup_images": 32, "precision": "float32"},
}, device)
images = torch.randint(0, 255, (32, 3, 32, 32), dtype=torch.uint8)
for _ in range(3):
    train_step(run, images)
print("ready", flush=True)
sys.stdin.readline()
start, steps = time.perf_counter(), 0
while time.perf_counter() - start < seconds:
    train_step(run, images)
    steps += 1
print(32 * steps / (time.perf_counter() - start), flush=True)
"""


def images_per_second(width: int, processes: int, threads: int, spin: str | None, seconds: float) -> float:
    """Images/s of all processes together; they start at the same moment."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    if spin is not None:
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, "-c", WORKER, str(width), str(threads), str(seconds)]
    started = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--seconds", type=float, default=5, help="length of each of the measurements")
    arguments = parser.parse_args()
    rows = []
    table = Table("setting", *(f"{name}, images/s" for name in WAITS), "ratio")
    for width, processes, threads in SETTINGS:
        rates = dict.fromkeys(WAITS, 0.0)
        for _ in range(2):  # A B A B: the faster of two, so that a slow moment of the machine hits neither alone
            for name, spin in WAITS.items():
                rates[name] = max(rates[name], images_per_second(width, processes, threads, spin, arguments.seconds))
        setting = f"width {width}, {processes} process{'es' if processes > 1 else ''} of {threads} thread{'s' if threads > 1 else ''}"
        for name, rate in rates.items():
            rows.append(
                {"benchmark": "threads", "setting": setting, "implementation": name, "value": rate, "unit": "images/s"}
            )
        table.add_row(
            setting,
            *(f"{rate:,.0f}" for rate in rates.values()),
            f"{rates['mimcore'] / rates['default of OpenMP']:.2f}",
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
