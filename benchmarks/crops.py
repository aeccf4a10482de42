"""Random resized crop and flip: ours, for a whole batch, beside torchvision's, image by image. On one CPU process."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torchvision.transforms import v2

from mimcore.data.crops import random_resized_crop

SETTINGS = ((32, 256), (64, 256), (224, 32))


def images_per_second(work: Callable[[], object], images: int, repeats: int = 7) -> float:
    """Median rate after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return images / median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    rows = []
    table = Table("setting", "torchvision, images/s", "ours, images/s", "ratio")
    for size, batch in SETTINGS:
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        generator = torch.Generator().manual_seed(0)
        peer = v2.Compose(
            [
                v2.RandomResizedCrop(
                    size, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True
                ),
                v2.RandomHorizontalFlip(),
            ]
        )
        rates = {}
        for _ in range(2):  # A B A B: the faster of two, so that a slow moment of the machine hits neither alone
            for name, work in (
                ("torchvision", lambda: torch.stack([peer(image) for image in images]).float()),  # noqa: B023
                ("mimcore", lambda: random_resized_crop(images, (0.2, 1.0), (3 / 4, 4 / 3), True, generator)),  # noqa: B023
            ):
                rates[name] = max(rates.get(name, 0.0), images_per_second(work, batch))
        setting = f"{size} px, batch {batch}"
        for name, rate in rates.items():
            rows.append(
                {"benchmark": "crops", "setting": setting, "implementation": name, "value": rate, "unit": "images/s"}
            )
        ratio = rates["mimcore"] / rates["torchvision"]
        table.add_row(setting, f"{rates['torchvision']:,.0f}", f"{rates['mimcore']:,.0f}", f"{ratio:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
