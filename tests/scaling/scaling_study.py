"""Artifacts of a whole study whose truth is known: power laws, seed noise, and over-fitting where it is asked for."""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LIBRARIES = {"numpy": "2.4.6", "timm": "1.0.20", "torch": "2.15.0"}


@dataclass(frozen=True)
class Truth:
    """``floor + amplitude * n ** -exponent`` for the loss, and for 1 - metric of each task."""

    floor: float
    amplitude: float
    exponent: float

    def __call__(self, n):
        return self.floor + self.amplitude * n**-self.exponent


#: task -> (metric, model -> truth of the error, untrained, pixels or None)
TASKS = {
    "linear": (
        "top1",
        {"tiny": Truth(0.40, 2.0, 0.30), "small": Truth(0.33, 2.6, 0.32), "base": Truth(0.30, 3.0, 0.33)},
        {"tiny": 0.24, "small": 0.26, "base": 0.25},
        0.29,
    ),
    "finetune": (
        "top1",
        {"tiny": Truth(0.20, 1.3, 0.33), "small": Truth(0.14, 1.9, 0.36), "base": Truth(0.11, 2.2, 0.37)},
        {"tiny": 0.52, "small": 0.50, "base": 0.51},
        None,
    ),
    "detection": (
        "ap50",
        {"tiny": Truth(0.45, 1.5, 0.30), "small": Truth(0.40, 1.8, 0.30), "base": Truth(0.38, 2.0, 0.30)},
        {"tiny": 0.21, "small": 0.2, "base": 0.2},
        None,
    ),
}
#: More tasks, alike, for a page that has to hold many.
MORE_TASKS = ("fewshot", "zeroshot", "segmentation", "robustness", "retrieval", "depth", "knn")
TASKS |= dict.fromkeys(MORE_TASKS, TASKS["linear"])
LOSS = {"tiny": Truth(0.46, 1.6, 0.42), "small": Truth(0.41, 2.0, 0.42), "base": Truth(0.385, 2.3, 0.42)}
PARAMETERS = {"tiny": 5_400_000, "small": 21_600_000, "base": 85_800_000}


@dataclass
class Plan:
    models: tuple = ("tiny", "small")
    sizes: tuple = (1024, 2048, 4096, 8192, 16384, 32768)
    schedules: dict = field(default_factory=lambda: {"short": 131_072, "long": 524_288})
    seeds: tuple = ("s0", "s1")
    objective: str = "mae"
    tasks: tuple = ("linear", "finetune", "detection")
    noise: float = 0.004
    overfit: float = 0.07
    pictures: bool = False


def truth_of_loss(plan, model, size, schedule):
    base = LOSS[model](size) + (0.03 if schedule == "short" else 0.0)
    return base - (0.015 if schedule == "long" and size == max(plan.sizes) else 0.0)


def build(root: Path, plan: Plan) -> dict:
    """Write every artifact below ``root`` and return what the command line would hand to ``collect``."""
    study = {"runs": {}, "tasks": {}, "models": list(plan.models), "evals": {}, "floors": {}}
    study["tasks"] = {task: {"task": task, "epochs": 10} for task in plan.tasks}
    for model in plan.models:
        study["floors"][model] = {}
        for task in plan.tasks:
            definition = {"task": study["tasks"][task], "model": {"name": model}}
            study["floors"][model][task] = definition
            metric, _, untrained, pixels = TASKS[task]
            subjects = {"untrained": {metric: entry(untrained[model], 0.004)}}
            if pixels is not None:
                subjects["pixels"] = {metric: entry(pixels, 0.004)}
            write(
                root / "floors" / model / task, {"definition": definition, "libraries": LIBRARIES, "subjects": subjects}
            )
        for size in plan.sizes:
            for schedule, images in plan.schedules.items():
                for seed in plan.seeds:
                    build_run(root, plan, study, model, size, schedule, images, seed)
    return study


def build_run(root, plan, study, model, size, schedule, images, seed):
    name = f"{plan.objective}-{model}-n{size}-{schedule}-{seed}"
    rng = np.random.default_rng([zlib.crc32(name.encode())])
    coordinates = {
        "objective": plan.objective,
        "model": model,
        "subset": f"n{size}",
        "schedule": schedule,
        "seed": seed,
    }
    definition = {
        "objective": {"name": plan.objective, "mask_ratio": 0.75},
        "model": {"name": model},
        "schedule": {"images": images, "learning_rate": 1.5e-4},
        "seed": seed,
    }
    smallest, larger = size == min(plan.sizes), model == plan.models[-1]
    overfit = plan.overfit if smallest and larger and schedule == list(plan.schedules)[-1] else 0.0
    minimum = truth_of_loss(plan, model, size, schedule) * np.exp(plan.noise * rng.normal())
    final = minimum + overfit * np.exp(0.1 * rng.normal())
    gap = (0.5 + 0.3 * larger) * size**-0.35 * np.exp(0.1 * rng.normal()) + 2 * overfit
    write_curve(root / "runs" / name, images, minimum, final, gap, overfit, rng)
    metrics = {"val_loss": final, "seen_loss": final - gap, "train_loss": final - 0.8 * gap}
    facts = {
        "unique_images": size,
        "images_seen": images,
        "encoder_params": PARAMETERS[model],
        "flops": 6.0 * PARAMETERS[model] * images * 49,
    }
    write(
        root / "runs" / name,
        {"definition": definition, "libraries": LIBRARIES, "metrics": metrics, "facts": facts},
    )
    study["runs"][name] = {"coordinates": coordinates, "definition": definition}
    study["evals"][name] = {}
    for task in plan.tasks:
        metric, truths, _, _ = TASKS[task]
        error = truths[model](size) * (1.04 if schedule == "short" else 1) + overfit
        value = 1 - error * np.exp(2 * plan.noise * rng.normal())
        definition = {"task": study["tasks"][task], "run": name}
        subjects = {"run": {metric: entry(value, 0.004), "other": entry(value / 2, None, headline=False)}}
        write(root / "evals" / name / task, {"definition": definition, "libraries": LIBRARIES, "subjects": subjects})
        study["evals"][name][task] = definition
    if plan.pictures:
        write_extras(root, name, minimum, definition, rng)


def write_curve(folder, images, minimum, final, gap, overfit, rng):
    at = np.unique(np.geomspace(images / 64, images, 24).astype(np.int64))
    progress = at / images
    rise = (final - minimum) * np.clip((progress - 0.4) / 0.6, 0, 1) ** 2
    val = minimum + 0.9 * np.exp(-7 * progress**0.6) - 0.9 * np.exp(-7) + rise
    val = np.maximum(val, minimum)
    val[-1] = final
    seen = val - gap * progress
    points = []
    for split, losses in (("train", seen + 0.01), ("val", val), ("seen", seen)):
        for images_seen, loss, part in zip(at, losses, progress, strict=True):
            points.append(
                {
                    "images_seen": int(images_seen),
                    "split": split,
                    "loss": float(loss + (0.002 * rng.normal() if split == "train" else 0)),
                    "learning_rate": float(1.5e-4 * np.sin(np.pi * min(1, part * 1.01 + 0.01)) ** 2) or None,
                    "grad_norm": 0.5 if split == "train" else None,
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(points), folder / "curve.parquet")


def write_extras(root, name, minimum, definition, rng):
    """A picture and a provenance record, as pretraining leaves them."""
    from PIL import Image

    pixels = rng.integers(0, 255, size=(6, 9, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((288, 192), Image.Resampling.BICUBIC).save(
        root / "runs" / name / "reconstructions.png"
    )
    record = {
        "stage": "pretrain",
        "definition": definition,
        "inputs": {},
        "started": "2025-01-01T00:00:00+00:00",
        "wall_seconds": 61.5,
        "peak_memory_mib": 812,
        "python": "3.11.7",
        "platform": "Linux",
        "device": "cpu",
        "libraries": LIBRARIES,
    }
    path = root / "provenance" / "runs" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def entry(value, standard_error, higher_is_better=True, headline=True):
    return {
        "value": float(value),
        "standard_error": standard_error,
        "higher_is_better": higher_is_better,
        "headline": headline,
    }


def write(folder: Path, metrics: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
