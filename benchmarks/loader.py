"""Crops for MAE out of JPEGs: ours, beside MAE's own input pipeline, webdataset with our decoder, and decoding alone.

python benchmarks/loader.py --photographs FOLDER_OF_TARS

Images per second of CPU time, one thread each: what a core does, however busy the others are. With --workers, images per
second of the clock as well, by kind and number of workers, which says something on an idle machine only.
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import v2

from mimcore.data import processes
from mimcore.data.crops import random_flip
from mimcore.data.draws import draw_boxes
from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.loader import Batches, Images
from mimcore.data.pool import load_pool
from mimcore.data.splits import read_split
from mimcore.data.views import RandomCrops, decode_scaled, shrink
from mimcore.execution import Execution
from mimcore.models.encoder import IMAGENET_MEAN, IMAGENET_STD

SIZE, BATCH = 224, 64
SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
#: Width, height, photographs on a side of the mosaic, images; None for the photographs as they are.
SETTINGS: dict[str, tuple[int, int, int, int] | None] = {
    "256 px": None,
    "500 px": (500, 375, 2, 320),
    "1200 px": (1200, 900, 4, 128),
}
DEFAULT = Path(__file__).resolve().parents[2] / "shared/data/websample"
PEERS = ("MAE", "webdataset", "decoding alone")
Work = Callable[[], Iterator[torch.Tensor]]


def photographs(folder: Path) -> list[bytes]:
    """The JPEGs of all tars of a folder or, without one, crops of scikit-learn's two sample photographs."""
    found = []
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as tar:
            found += [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]
    if found:
        return found
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    for number in range(512):
        picture = Image.fromarray(load_sample_images().images[number % 2])
        left, top = (int(random.integers(0, side - 256)) for side in picture.size)
        found.append(encoded(picture.crop((left, top, left + 256, top + 256))))
    return found


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def mosaics(photos: list[bytes], width: int, height: int, side: int, count: int) -> list[bytes]:
    """Larger JPEGs with as much detail as photographs have: ``side`` times ``side`` photographs each."""
    made = []
    tile = width // side, height // side
    for number in range(count):
        sheet = Image.new("RGB", (width, height))
        for place in range(side * side):
            photo = Image.open(io.BytesIO(photos[(number * side * side + place) % len(photos)])).convert("RGB")
            scale = max(tile[0] / photo.width, tile[1] / photo.height)
            grown = tuple(max(least, round(length * scale)) for least, length in zip(tile, photo.size, strict=True))
            photo = photo.resize((grown[0], grown[1]), Image.Resampling.BICUBIC).crop((0, 0, *tile))
            sheet.paste(photo, (place % side * tile[0], place // side * tile[1]))
        made.append(encoded(sheet))
    return made


def write(folder: Path, images: list[bytes]) -> None:
    """The same images as a folder of one class, and as a tar."""
    (folder / "folder/all").mkdir(parents=True)
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars/00000.tar", "w") as tar:
        for number, data in enumerate(images):
            (folder / f"folder/all/{number:06d}.jpg").write_bytes(data)
            info = tarfile.TarInfo(f"{number:06d}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def mae(folder: Path) -> Work:
    """``main_pretrain.py`` of He et al. 2022: torchvision's transforms on Pillow's images, float batches."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=SCALE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    loader: DataLoader[Any] = DataLoader(
        datasets.ImageFolder(str(folder / "folder"), transform), BATCH, shuffle=True, drop_last=True
    )
    return lambda: (images for images, _ in loader)


def web(folder: Path) -> Work:
    """webdataset with our decoder, and torchvision's transforms on the tensor."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=SCALE, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def read(sample: tuple[bytes]) -> torch.Tensor:
        pixels, _ = decode_scaled(sample[0], 1, 3)
        found: torch.Tensor = transform(torch.from_numpy(pixels).permute(2, 0, 1))
        return found

    dataset = webdataset.WebDataset(str(folder / "tars/00000.tar"), shardshuffle=False, empty_check=False)
    dataset = dataset.shuffle(256).to_tuple("jpg").map(read)
    loader: DataLoader[Any] = DataLoader(dataset, BATCH, drop_last=True)
    return lambda: iter(loader)


def table_of(folder: Path) -> Images:
    options = {"format": "tar", "path": "tars", "val_images": 1, "perceptual_hash": False}
    scan(load_pool("photographs", options, folder), folder / "listing.json")
    build_index("photographs", options, folder / "listing.json", folder / "index", folder, folder / "scratch")
    return Images(options, read_split(folder / "index", "train"), SIZE, folder)


def ours(images: Images, count: int) -> dict[str, Work]:
    batches = Batches(images, BATCH, "s0", view=RandomCrops("s0", SCALE, RATIO))
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    generator = torch.Generator().manual_seed(0)

    def normalised() -> Iterator[torch.Tensor]:
        for batch in batches.stream(0, count):
            yield (random_flip(torch.from_numpy(batch), generator).float() / 255 - mean) / std

    positions = np.arange(len(images))
    tall, wide = images.sizes(positions)
    boxes = draw_boxes("s0", positions, tall, wide, SCALE, RATIO)
    divisors = shrink(boxes[:, None], (SIZE, SIZE)).tolist()
    data = [encoded for _, encoded in images.encoded(positions)]

    def decoding() -> Iterator[torch.Tensor]:
        for step in range(count):
            for place in range(step * BATCH, (step + 1) * BATCH):
                pixels, _ = decode_scaled(data[place % len(data)], divisors[place % len(data)], 3)
            yield torch.from_numpy(pixels)

    return {
        "mimcore": lambda: (torch.from_numpy(batch) for batch in batches.stream(0, count)),
        "mimcore, flip and normalisation too": normalised,
        "decoding alone": decoding,
    }


def images_per_second(work: Work) -> float:
    start = time.process_time()
    batches = sum(1 for _ in work())
    return batches * BATCH / (time.process_time() - start)


def by_workers(images: Images, most: int, repeats: int, seconds: float = 3) -> dict[str, float]:
    """Images per second of the clock, once the workers are under way."""
    rates: dict[str, list[float]] = {}
    for _ in range(repeats):
        for workers in range(1, most + 1):
            for kind, stream in (("thread", Batches.stream), ("process", processes.stream)):
                batches = Batches(images, BATCH, "s0", workers, RandomCrops("s0", SCALE, RATIO))
                made = stream(batches, 0, 1 << 20)
                for _ in range(3 * workers):
                    next(made)
                done, start = 0, time.perf_counter()
                while time.perf_counter() - start < seconds:
                    done += len(next(made))
                name = f"{workers} {kind}{'' if workers == 1 else 'es' if kind == 'process' else 's'}"
                rates.setdefault(name, []).append(done / (time.perf_counter() - start))
                made.close()  # type: ignore[attr-defined]
    return {name: median(found) for name, found in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--photographs", type=Path, default=DEFAULT, help="folder of tars with JPEGs")
    parser.add_argument("--repeats", type=int, default=5, help="how often all are timed, in turns")
    parser.add_argument("--workers", type=int, default=0, help="time 1 to so many threads and processes too")
    arguments = parser.parse_args()
    # As a training process does it; one thread, since a worker has one.
    Execution(device="cpu", threads=1).start()
    photos = photographs(arguments.photographs)
    rows = []
    table = Table("setting", "ours, images/s", *(f"over {peer}" for peer in PEERS), "flip, normalise too: over MAE")
    workers = Table("setting", "workers", "images/s by the clock", "over 1 thread")
    for setting, mosaic in SETTINGS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            images = photos if mosaic is None else mosaics(photos, *mosaic)
            write(folder, images)
            indexed = table_of(folder)
            ways = ours(indexed, len(images) // BATCH) | {"MAE": mae(folder), "webdataset": web(folder)}
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(arguments.repeats + 1):  # in turns, so that a slow minute strikes all
                for way, work in ways.items():
                    rate = images_per_second(work)
                    rates[way] += [rate] if turn else []  # the first warms up
            clock = by_workers(indexed, arguments.workers, arguments.repeats) if arguments.workers else {}
        medians = {way: median(found) for way, found in rates.items()}
        for name, value in clock.items():
            row = {"benchmark": "loader", "setting": f"{setting}, by the clock", "implementation": name}
            rows.append(row | {"value": value, "unit": "images/s"})
            workers.add_row(setting, name, f"{value:,.0f}", f"{value / clock['1 thread']:.2f}")
        for way, value in medians.items():
            rows.append(
                {"benchmark": "loader", "setting": setting, "implementation": way, "value": value, "unit": "images/s"}
            )
        ratios = [
            median(mine / theirs for mine, theirs in zip(rates[way], rates[peer], strict=True))
            for way, peer in (*(("mimcore", peer) for peer in PEERS), ("mimcore, flip and normalisation too", "MAE"))
        ]
        table.add_row(setting, f"{medians['mimcore']:,.0f}", *(f"{ratio:.2f}" for ratio in ratios))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    Console().print(table)
    if arguments.workers:
        Console().print(workers)


if __name__ == "__main__":
    main()
