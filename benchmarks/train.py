"""The training step beside its peers: images per second and peak memory, same architecture, batch and precision.

python benchmarks/train.py --mae CHECKOUT --simmim CHECKOUT --swin CHECKOUT --settings small B swin_tiny swinv2_tiny

The checkouts are of facebookresearch/mae, microsoft/SimMIM and (for SwinV2) microsoft/Swin-Transformer; transformers and lightly
take part where they are installed. Each implementation has a process of its own; they take turns (A B C A B C ...), one at a
time. Ours takes uint8 images, flips and normalises them and measures the gradient's norm as in training; peers are given
normalised float images. With --photographs both read JPEGs: ours by its loader, peers by the transforms of MAE's and SimMIM's
scripts in torch's DataLoader, one worker each. On a GPU: --device cuda, with --settings of the larger models; MFU is
the part of the matrix rate measured there that the counted products of ours come to.
"""

import argparse
import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table


def vit(width: int, depth: int, heads: int, patch: int = 16, size: int = 224) -> dict[str, int]:
    """The encoder of a setting."""
    return {"image_size": size, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}


#: Encoder, batch on a CPU and on a GPU. The decoder is the paper's but for the small one, whose is as wide as the encoder.
SMALL_DECODER = {"decoder_embed_dim": 192, "decoder_depth": 2, "decoder_num_heads": 3}
SETTINGS: dict[str, tuple[dict[str, int], dict[str, int], int, int]] = {
    "small": (vit(192, 12, 3, patch=4, size=32), SMALL_DECODER, 64, 4096),
    "S": (vit(384, 12, 6), {}, 16, 1024),
    "B": (vit(768, 12, 12), {}, 16, 512),
    "L": (vit(1024, 24, 16), {}, 8, 256),
    "H": (vit(1280, 32, 16, patch=14), {}, 4, 128),
}


@dataclass(frozen=True)
class Swin:
    """SimMIM over a Swin: the released code's options and ours, and the batch on a CPU and on a GPU."""

    kind: str
    architecture: str
    embed_dim: int
    depths: list[int]
    num_heads: list[int]
    window_size: int
    cpu_batch: int
    gpu_batch: int
    target_window: int | None = None

    @property
    def released(self) -> dict[str, Any]:
        shape = {name: getattr(self, name) for name in ("embed_dim", "depths", "num_heads", "window_size")}
        return shape | {"img_size": 192, "patch_size": 4, "drop_path_rate": 0.0}

    @property
    def model(self) -> dict[str, Any]:
        return {"architecture": self.architecture, "image_size": 192, "window_size": self.window_size}


TINY: tuple[Any, ...] = (96, [2, 2, 6, 2], [3, 6, 12, 24])
BASE: tuple[Any, ...] = (128, [2, 2, 18, 2], [4, 8, 16, 32])
#: 192 px, a mask unit of 32 (SimMIM, section 4.1), windows of its and of its data-scaling study's configurations.
SWIN = {
    "swin_tiny": Swin("swin", "swin_tiny_patch4_window7_224", *TINY, 6, 8, 256),
    "swin_base": Swin("swin", "swin_base_patch4_window7_224", *BASE, 6, 8, 128),
    "swinv2_tiny": Swin("swinv2", "swinv2_tiny_window8_256", *TINY, 12, 8, 256, 47),
    "swinv2_base": Swin("swinv2", "swinv2_base_window12_192", *BASE, 12, 8, 128, 47),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mae", type=Path, help="a checkout of facebookresearch/mae")
    parser.add_argument("--simmim", type=Path, help="a checkout of microsoft/SimMIM")
    parser.add_argument("--swin", type=Path, help="a checkout of microsoft/Swin-Transformer, for SwinV2")
    parser.add_argument("--settings", nargs="+", default=["small", "B"], choices=[*SETTINGS, *SWIN])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each implementation")
    parser.add_argument("--seconds", type=float, default=5, help="length of a turn, about")
    parser.add_argument("--batch-size", type=int, help="instead of the setting's own")
    parser.add_argument("--micro-batch", type=int, help="images at once, of ours")
    parser.add_argument("--compile", default="off", choices=["off", "default", "reduce-overhead"], help="of ours")
    parser.add_argument("--only", nargs="+", help="these implementations")
    parser.add_argument("--photographs", type=Path, help="a folder of tars of JPEGs to read, instead of random pixels")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    rows: list[dict[str, Any]] = []
    for setting in arguments.settings:
        for precision in arguments.precisions:
            if precision == "bfloat16" and (why := slow(arguments.device)):
                print(f"{setting}, bfloat16: left out, {why}", file=sys.stderr)
                continue
            rows += compare(arguments, setting, precision)
            Console().print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def slow(device: str) -> str | None:
    """Why a precision is not worth measuring here."""
    import torch

    from mimcore.execution import slow_precision

    return slow_precision(torch.device(device), "bfloat16")


def checkout_of(arguments: argparse.Namespace, setting: str) -> Path | None:
    """The released code of a setting."""
    name = "mae" if setting not in SWIN else "swin" if SWIN[setting].kind == "swinv2" else "simmim"
    found: Path | None = getattr(arguments, name)
    return found


def implementations(arguments: argparse.Namespace, setting: str) -> list[str]:
    """Ours, and the peers that can run a setting."""
    import peers

    checkout = checkout_of(arguments, setting)
    found = [
        "mimcore",
        *(["official"] if checkout else []),
        *([] if setting in SWIN else peers.names([])),
    ]
    return [name for name in found if not arguments.only or name in arguments.only]


def compare(arguments: argparse.Namespace, setting: str, precision: str) -> list[dict[str, Any]]:
    """Rates, peak memory and, of ours, the part of the matrix rate."""
    label = f"{setting}, {precision}" + (", JPEGs" if arguments.photographs else "")
    started = {name: start(arguments, name, setting, precision) for name in implementations(arguments, setting)}
    rates: dict[str, list[float]] = {name: [] for name in started}
    for _ in range(arguments.rounds):
        for name, process in started.items():
            rates[name].append(float(ask(process, "go")))
            print(f"{label}: {name} {rates[name][-1]:.2f} images/s", file=sys.stderr, flush=True)
    rows = []
    for name, process in started.items():
        facts = json.loads(ask(process, "end"))
        process.wait()
        facts["images/s"] = median(rates[name])
        if "FLOPs/image" in facts:
            facts["MFU"] = facts["images/s"] * facts["FLOPs/image"] / facts["matrix rate, FLOP/s"]
        rows += [
            {"benchmark": "train", "setting": label, "implementation": name, "value": value, "unit": unit}
            for unit, value in facts.items()
        ]
    return rows


def start(arguments: argparse.Namespace, name: str, setting: str, precision: str) -> "subprocess.Popen[str]":
    """A process that has taken its first steps and waits to be told; the next one starts then."""
    command = [sys.executable, __file__, "--worker", name, "--settings", setting, "--precisions", precision]
    for option in (
        "mae",
        "simmim",
        "swin",
        "photographs",
        "device",
        "threads",
        "seconds",
        "batch_size",
        "micro_batch",
        "compile",
    ):
        if (value := getattr(arguments, option)) is not None:
            command += [f"--{option.replace('_', '-')}", str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert read(process) == "ready"
    return process


def ask(process: "subprocess.Popen[str]", what: str) -> str:
    assert process.stdin is not None
    process.stdin.write(f"{what}\n")
    process.stdin.flush()
    return read(process)


def read(process: "subprocess.Popen[str]") -> str:
    """The next line that is meant for us: libraries print too."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("> "):
            return line[2:].strip()
    raise SystemExit("an implementation ended early; its message is above.")


def table(rows: list[dict[str, Any]]) -> Table:
    found = {(row["setting"], row["implementation"], row["unit"]): row["value"] for row in rows}
    shown = Table(
        "setting", "implementation", "images/s", "mimcore's over it", "peak memory, MiB", "mimcore's over it", "MFU"
    )
    for setting, name in dict.fromkeys((row["setting"], row["implementation"]) for row in rows):
        rate, memory = found[setting, name, "images/s"], found[setting, name, "peak memory, MiB"]
        ours = [found.get((setting, "mimcore", unit)) for unit in ("images/s", "peak memory, MiB")]
        mfu = found.get((setting, name, "MFU"))
        shown.add_row(
            setting,
            name,
            f"{rate:,.2f}",
            f"{ours[0] / rate:.2f}" if ours[0] else "",
            f"{memory:,.0f}",
            f"{ours[1] / memory:.2f}" if ours[1] else "",
            f"{mfu:.0%}" if mfu else "",
        )
    return shown


def work(arguments: argparse.Namespace) -> None:
    """Take steps for as long as told, each time it is asked for."""
    import torch

    (setting,), (precision,) = arguments.settings, arguments.precisions
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    cpu_batch, gpu_batch = (
        (SWIN[setting].cpu_batch, SWIN[setting].gpu_batch) if setting in SWIN else SETTINGS[setting][2:]
    )
    batch_size = arguments.batch_size or (gpu_batch if on_gpu else cpu_batch)
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    step, facts = (
        ours(arguments, setting, precision, batch_size)
        if arguments.worker == "mimcore"
        else peer(arguments, setting, precision, batch_size)
    )

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    for _ in range(5 if on_gpu or setting == "small" else 2):
        step()
    wait()
    print("> ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        begun, steps = time.perf_counter(), 0
        while True:
            for _ in range(10 if on_gpu else 1):
                step()
                steps += 1
            wait()
            if time.perf_counter() - begun >= arguments.seconds:
                break
        print(f"> {steps * batch_size / (time.perf_counter() - begun)}", flush=True)
    print("> " + json.dumps({"peak memory, MiB": peak_memory(on_gpu)} | facts()), flush=True)


def peak_memory(on_gpu: bool) -> float:
    """Of the GPU's tensors, or of this process."""
    import resource

    import torch

    if on_gpu:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def peer(arguments: argparse.Namespace, setting: str, precision: str, batch_size: int) -> tuple[Any, Any]:
    import peers
    import torch

    device = torch.device(arguments.device)
    if setting in SWIN:
        swin, checkout = SWIN[setting], checkout_of(arguments, setting) or Path()
        step = peers.official_simmim(swin.kind, swin.released, checkout, device, precision)
    else:
        encoder, decoder, *_ = SETTINGS[setting]
        shape = peers.Shape(**encoder, **decoder)
        makers = {
            "official": lambda: peers.official_mae(shape, arguments.mae, device, precision),
            "transformers": lambda: peers.transformers_mae(shape, device, precision),
            "lightly": lambda: peers.lightly_mae(shape, device, precision),
        }
        step = makers[arguments.worker]()
    size = image_size(setting)
    if arguments.photographs:
        made = photographs_of_peers(arguments.photographs, size, batch_size, setting in SWIN)
        return lambda: step(next(made).to(device)), dict
    images = torch.randn(batch_size, 3, size, size, device=device)
    return lambda: step(images), dict


def image_size(setting: str) -> int:
    return 192 if setting in SWIN else SETTINGS[setting][0]["image_size"]


def photographs_of_peers(folder: Path, size: int, batch_size: int, simmim: bool) -> Any:
    """Batches as ``main_pretrain.py`` of MAE makes them, or ``data_simmim.py`` of SimMIM, for ever."""
    from loader import photographs, write
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    scratch = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    write(scratch, photographs(folder))
    filter_ = transforms.InterpolationMode.BILINEAR if simmim else transforms.InterpolationMode.BICUBIC
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.67 if simmim else 0.2, 1.0), interpolation=filter_),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = datasets.ImageFolder(str(scratch / "folder"), transform)
    loader: Any = DataLoader(images, batch_size, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True)
    while True:
        yield from (batch for batch, _ in loader)


def photographs_of_ours(run: Any, folder: Path, execution: Any) -> Any:
    """Batches as in training, uint8."""
    from loader import photographs, write

    from mimcore.data.index import build_index
    from mimcore.data.listing import scan
    from mimcore.data.loader import Images
    from mimcore.data.pool import load_pool
    from mimcore.data.splits import read_split
    from mimcore.training.loop import arriving, training_batches

    scratch = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    write(scratch, photographs(folder))
    options = {"format": "tar", "path": "tars", "val_images": 1, "perceptual_hash": False}
    scan(load_pool("photographs", options, scratch), scratch / "listing.json")
    build_index("photographs", options, scratch / "listing.json", scratch / "index", scratch, scratch / "parts")
    images = Images(options, read_split(scratch / "index", "train"), run.encoder.image_size, scratch)
    return arriving(run, training_batches(run, images, execution), execution, 0, run.schedule.steps)


def ours(arguments: argparse.Namespace, setting: str, precision: str, batch_size: int) -> tuple[Any, Any]:
    import torch

    from mimcore.startup import prepare

    prepare()  # as the command does

    from mimcore.execution import Execution
    from mimcore.training.flops import training_flops_per_image
    from mimcore.training.live import matrix_rate
    from mimcore.training.state import start_run
    from mimcore.training.step import speed_up, train_step

    execution = Execution(
        device=arguments.device,
        threads=arguments.threads,
        compile=arguments.compile,
        micro_batch=arguments.micro_batch or "auto",
        workers=1,
    )
    device = execution.start()
    schedule: dict[str, Any] = {
        "images_seen": batch_size << 20,
        "batch_size": batch_size,
        "warmup_images": batch_size,
        "precision": precision,
        "crop_from": "image",
    }
    if setting in SWIN:
        swin = SWIN[setting]
        model: dict[str, Any] = swin.model
        objective: dict[str, Any] = {"module": "simmim", "mask_unit": 32, "target_window": swin.target_window}
        schedule |= {"crop_scale": (0.67, 1.0), "crop_interpolation": "bilinear", "clip_grad": 5.0}
    else:
        encoder, decoder, *_ = SETTINGS[setting]
        model, objective = {"architecture": "vit_base_patch16_224"} | encoder, {"module": "mae"} | decoder
    run = start_run({"seed": "s0", "model": model, "objective": objective, "schedule": schedule}, device)
    size = image_size(setting)
    images = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8, device=device)
    speed_up(run, execution, images[:2])

    def facts() -> dict[str, float]:
        return {
            "FLOPs/image": training_flops_per_image(run.objective, run.encoder, images[:2]),
            "matrix rate, FLOP/s": matrix_rate(device, precision),
        }

    if arguments.photographs:
        made = photographs_of_ours(run, arguments.photographs, execution)
        return lambda: train_step(run, next(made)), facts
    return lambda: train_step(run, images), facts


if __name__ == "__main__":
    main()
