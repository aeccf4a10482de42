"""How long stages take on this machine: a few real steps of each distinct run and task, and the start of a process.

Images are noise of the right shape, since no index need exist yet: what the loader takes is for ``mimcore bench-data`` to say.
"""

import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from mimcore import artifacts, registry
from mimcore.definition import resolve
from mimcore.evaluation.features import FeaturesConfig, Pixels, batch_features, extract
from mimcore.evaluation.frozen import Frozen, Split, write_arrays
from mimcore.evaluation.recipe import Recipe
from mimcore.evaluation.task import Context, Data, NotApplicable
from mimcore.models import encoder as encoders
from mimcore.plan.work import Stage, fixed_images, foreseen, model_of, recipe_of
from mimcore.training.state import Run, start_run
from mimcore.training.states import images_before
from mimcore.training.step import speed_up, train_step
from mimcore.training.validation import fixed_loss

if TYPE_CHECKING:
    from mimcore.execution import Execution

#: What each verb's process loads before it works.
LOADS = {
    "check": "mimcore.models.encoder, mimcore.scaling.fit, mimcore.training.schedule",
    "modules": "mimcore.modules",
    "index": "mimcore.data.index",
    "sample": "mimcore.sampling.draw",
    "examples": "mimcore.sampling.examples",
    "prepare": "mimcore.sampling.prepare",
    "pretrain": "mimcore.training.pretrain, torch._dynamo",  # which torch's optimisers load
    "features": "mimcore.evaluation.extract",
    "features-floor": "mimcore.evaluation.extract",
    "probe": "mimcore.evaluation.probing, torch._dynamo",
    "probe-floor": "mimcore.evaluation.probing, torch._dynamo",
    "evaluate": "mimcore.evaluation.run, torch._dynamo",
    "floor": "mimcore.evaluation.run, torch._dynamo",
    "collect": "mimcore.scaling.collect",
    "fit": "mimcore.scaling.fit",
    "report": "mimcore.scaling.report",
}
#: Steps before the clock starts, and seconds that each timing lasts at least.
WARM_STEPS, SECONDS = 3, 3.0
#: Stages of the scratch pipeline that DVC is timed on.
MANY = 11
#: Images of the two lengths that a task is timed at.
SHORT, LONG = 2, 12

Tell = Callable[[str, int, int], None]


class Probe:
    """Times kept by what they are times of, so that nothing is timed twice; ``times`` can be stored and given again."""

    def __init__(self, device: torch.device, times: dict[str, Any], execution: "Execution") -> None:
        self.device, self.times, self.execution = device, times, execution

    def seconds(self, stage: Stage) -> float | None:
        """How long a stage takes; None where it has not been timed."""
        process, dvc = (self.times.get(_key({"start": what})) for what in (stage.verb, "dvc"))
        if process is None or dvc is None:
            return None
        start = float(process + dvc)
        if stage.definition is None:
            return start
        found = self.times.get(_key(_timed(stage)))
        if found is None:
            return None
        if stage.verb == "pretrain":
            run = _schedule(stage)
            before = images_before(stage.definition, run)
            steps, fixed = run.steps - before // run.batch_size, fixed_images(run, stage.images[0], before)
            return float(start + found["step"] * steps + found["fixed"] * fixed)
        train, test = _lengths(stage)
        first = self.times.get(_key(_first(stage)), 0.0)
        return float(start + first + found["start"] + found["train"] * train + found["test"] * test)

    def run(self, stages: Sequence[Stage], tell: Tell) -> None:
        """Time whatever of ``stages`` has not been timed."""
        missing: dict[str, Callable[[], Any]] = {}
        if stages and (key := _key({"start": "dvc"})) not in self.times:
            missing[key] = dvc_seconds
        for stage in stages:
            key = _key({"start": stage.verb})
            if key not in self.times:
                missing[key] = partial(start_seconds, stage.verb)
            if stage.definition is not None and (key := _key(_timed(stage))) not in self.times:
                missing[key] = partial(self._run if stage.verb == "pretrain" else self._task, stage)
        for number, (key, timing) in enumerate(missing.items()):
            tell("probe", number, len(missing))
            self.times[key] = timing()
        tell("probe", len(missing), len(missing))

    def _run(self, stage: Stage) -> dict[str, float]:
        """Seconds of a step, and of an image in validation."""
        definition = {**(stage.definition or {}), "seed": "s0"}
        run = start_run(definition, self.device, given=foreseen(definition))
        images = _noise(run.schedule.batch_size, run.encoder.image_size, run.encoder.channels)
        batch = torch.from_numpy(images)
        speed_up(run, self.execution, batch[:2])
        step = self._time(lambda: train_step(run, batch), WARM_STEPS)
        table = _Table(images, {})
        fixed = self._time(lambda: self._validate(run, table), 1) / len(table)
        return {"step": step, "fixed": fixed}

    def _validate(self, run: Run, table: "_Table") -> None:
        fixed_loss(run.objective, run.encoder, table, self.device, run.schedule.precision)

    def _task(self, stage: Stage) -> dict[str, float]:
        """A task at three lengths gives what it takes at the start, for an image to train on and for one to test on."""
        encoder = encoders.build(resolve(encoders.Config, model_of(stage.definition or {}), "models"))
        unit = 1 if _recipe(stage) is None else _recipe(stage).batch_size  # type: ignore[union-attr]
        long = max(LONG * unit, 256) if unit == 1 else LONG * unit
        short = max(SHORT * unit, 64) if unit == 1 else SHORT * unit
        first = self._evaluate(stage, encoder, short, 16)
        few = self._evaluate(stage, encoder, short, 16)
        # What a library loads at its first use, each stage's process pays for.
        self.times.setdefault(_key(_first(stage)), max(0.0, first - few))
        trained = self._evaluate(stage, encoder, long, 16)
        tested = self._evaluate(stage, encoder, short, 16 + long)
        train, test = max(0.0, trained - few) / (long - short), max(0.0, tested - few) / long
        return {"start": max(0.0, few - train * short - test * 16), "train": train, "test": test}

    def _evaluate(self, stage: Stage, encoder: encoders.Encoder, train: int, test: int) -> float:
        """Seconds of the work on so many images, once for each subject."""
        subjects, work = self._work(stage, encoder, train, test)
        with tempfile.TemporaryDirectory() as folder:
            context = Context(self.device, 0, Path(folder), workers=self.execution.workers)
            begun = time.perf_counter()
            for subject in subjects:
                with suppress(NotApplicable):
                    work(subject, context)
            self._wait()
            return time.perf_counter() - begun

    def _work(
        self, stage: Stage, encoder: encoders.Encoder, train: int, test: int
    ) -> tuple[list[Any], Callable[[Any, Context], Any]]:
        """Subjects of a stage, and what it does with each of them."""
        definition, recipe = stage.definition or {}, _recipe(stage)
        floor = stage.verb.endswith("floor")
        pixels = [Pixels(encoder.image_size, encoder.channels)] if floor else []
        if "task" not in definition:
            config = resolve(FeaturesConfig, definition["features"], "features")
            tables = [_examples(count, encoder, "labels") for count in (train, test)]
            return [encoder, *pixels], partial(self._extract, tables, config)
        options = dict(definition["task"])
        module = str(options.pop("module"))
        if "features" in definition:
            probe = registry.load("probe", module)
            config = resolve(probe.Config, options, "tasks")
            widths = [int(encoder.module.num_features)]
            widths += [_pixel_numbers(pixels[0])] if pixels and probe.PIXELS else []
            return [_vectors(train, test, width) for width in widths], lambda s, c: probe.probe(s, config, c)
        task = registry.load("task", module)
        if recipe is not None:
            options |= (
                {"finetune": options["finetune"] | {"images_seen": train}}
                if "finetune" in options
                else {"images_seen": train}
            )
        config = resolve(task.Config, options, "tasks")
        first = _examples(min(train, 256) if recipe is not None else train, encoder, task.NEEDS)
        data = Data(first, _examples(test, encoder, task.NEEDS), _CLASSES, _CLASSES)
        subjects = [encoder, *(pixels if task.PIXELS else [])]
        return subjects, lambda s, c: task.evaluate(s, config, data, c)

    def _extract(self, images: Sequence[Any], config: FeaturesConfig, subject: Any, context: Context) -> None:
        for number, table in enumerate(images):
            write_arrays(context.folder, str(number), len(table), extract(subject, table, config, context))

    def _time(self, work: Callable[[], Any], warm: int) -> float:
        """Mean seconds of ``work`` over ``SECONDS``, after it was done ``warm`` times."""
        for _ in range(warm):
            work()
        self._wait()
        begun, count = time.perf_counter(), 0
        while not count or time.perf_counter() - begun < SECONDS:
            work()
            count += 1
            self._wait()
        return (time.perf_counter() - begun) / count

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def machine(device: torch.device) -> dict[str, Any]:
    """What times hold for: the device, its threads, and the libraries."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "host": platform.node(),
        "threads": torch.get_num_threads(),
        "libraries": artifacts.libraries(),
    }


def start_seconds(verb: str) -> float:
    """How long a process of a verb takes until it can work, median of three after a first."""
    command = [sys.executable, "-c", f"import mimcore.cli, {LOADS[verb]}"]
    found = []
    for _ in range(4):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


def dvc_seconds() -> float:
    """What DVC itself takes for a stage that depends on this package's code: of a scratch pipeline, more stages less one."""
    package = Path(__file__).resolve().parents[1]
    files = sorted(f"mimcore/{file.name}" for file in package.iterdir() if file.name != "__pycache__")
    found = []
    for count in (1, MANY):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(package, Path(folder, "mimcore"), ignore=shutil.ignore_patterns("__pycache__"))
            each = {"cmd": "echo ${item} > made-${item}", "deps": files, "outs": ["made-${item}"]}
            pipeline = {"stages": {"probe": {"foreach": list(range(count)), "do": each}}}
            Path(folder, "dvc.yaml").write_text(json.dumps(pipeline), encoding="utf-8")
            for arguments in (["init", "--no-scm", "--quiet"], ["repro", "--quiet"]):
                begun = time.perf_counter()
                subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True)
            found.append(time.perf_counter() - begun)
    return max(0.0, found[1] - found[0]) / (MANY - 1)


#: Frames of a clip of noise.
_FRAMES = 16
_CLASSES = [str(number) for number in range(10)]


class _Table:
    """Images in memory, as a task wants them."""

    def __init__(self, images: np.ndarray, columns: Mapping[str, Any]) -> None:
        self.images = images
        side = {"width": [images.shape[3]] * len(images), "height": [images.shape[2]] * len(images)}
        self.rows = pa.table({"key": [str(i) for i in range(len(images))], **side, **columns})

    def __len__(self) -> int:
        return len(self.images)

    def get(self, positions: np.ndarray) -> np.ndarray:
        return np.asarray(self.images[positions])

    def raw(self, position: int) -> np.ndarray:
        return np.asarray(self.images[position])


class _Clips(_Table):
    """One short clip, as often as it is asked for."""

    def __init__(self, image: np.ndarray, columns: Mapping[str, Any]) -> None:
        from mimcore.data.clips import animate

        frame = image.transpose(1, 2, 0)
        self.data = animate([np.roll(frame, number, axis=0) for number in range(_FRAMES)])
        super().__init__(np.broadcast_to(image, (len(columns["frames"]), *image.shape)), columns)

    def encoded(self, positions: np.ndarray) -> Iterator[tuple[int, bytes]]:
        for position in positions.tolist():
            yield position, self.data

    def explained(self, position: int) -> AbstractContextManager[None]:
        return nullcontext()


def _noise(count: int, image_size: int | tuple[int, int], channels: int) -> np.ndarray:
    height, width = encoders.sides(image_size)
    return np.random.default_rng(0).integers(0, 256, (count, channels, height, width), np.uint8)


def _examples(count: int, encoder: encoders.Encoder, needs: str) -> Any:
    """Noise with labels, or with two boxes to an image and, where they are needed, their masks."""
    images = _noise(count, encoder.image_size, encoder.channels)
    height, width = images.shape[2:]
    random = np.random.default_rng(1)
    if needs == "clips":
        labels = pa.array(random.integers(0, len(_CLASSES), count), pa.int64())
        return _Clips(images[0], {"label": labels, "frames": [_FRAMES] * count})
    if needs == "labels":
        return _Table(images, {"label": pa.array(random.integers(0, len(_CLASSES), count), pa.int64())})
    corners = random.uniform(0, 0.5, (count, 2, 2))
    boxes = np.concatenate([corners, corners + 0.4], axis=2) * [width, height, width, height]
    areas = (0.4 * width) * (0.4 * height)
    columns = {
        "boxes": pa.array(boxes.tolist(), pa.list_(pa.list_(pa.float32()))),
        "box_labels": pa.array(random.integers(0, len(_CLASSES), (count, 2)).tolist(), pa.list_(pa.int32())),
        "box_areas": pa.array([[areas] * 2] * count, pa.list_(pa.float32())),
        "box_crowd": pa.array([[False] * 2] * count, pa.list_(pa.bool_())),
    }
    if needs == "masks":
        columns["masks"] = [_rectangles(image, height, width) for image in boxes]
    return _Table(images, columns)


def _rectangles(boxes: np.ndarray, height: int, width: int) -> list[str]:
    from mimcore.evaluation.dense.masks import encode_masks

    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().astype(int), strict=True):
        mask[y0:y1, x0:x1] = 1
    return [code["counts"] for code in encode_masks(masks)]


def _vectors(train: int, test: int, width: int) -> Frozen:
    """Noise in the place of features, of images with labels and tags."""
    parts = []
    for seed, count in enumerate((train, test)):
        random = np.random.default_rng(seed)
        numbers = random.standard_normal((count, width)).astype(np.float32)
        labels = random.integers(0, len(_CLASSES), count)
        rows = pa.table({"label": pa.array(labels, pa.int64()), "tags": [[_CLASSES[label]] for label in labels]})
        parts.append(Split(rows, {"mean": numbers, "cls": numbers, "projected": numbers}))
    return Frozen(parts[0], parts[1], _CLASSES, _CLASSES)


def _pixel_numbers(pixels: Pixels) -> int:
    """Width of the features of pixels."""
    blank = torch.zeros(1, pixels.channels, *encoders.sides(pixels.image_size), dtype=torch.uint8)
    return batch_features(pixels, blank, "float32")["pixels"].shape[1]


def _timed(stage: Stage) -> dict[str, Any]:
    """What a time is a time of: neither the seed nor the subset, and of lengths only what the step sees."""
    definition = stage.definition or {}
    if stage.verb == "pretrain":
        schedule = {name: value for name, value in definition["schedule"].items() if name != "keep_states"}
        return {"objective": definition["objective"], "model": definition["model"], "schedule": schedule}
    what = {part: definition[part] for part in ("task", "features") if part in definition}
    return {"verb": stage.verb, **what, "model": model_of(definition)}


def _first(stage: Stage) -> dict[str, Any]:
    """What a task's first use in a process is a time of."""
    return {"first": (stage.definition or {}).get("task", {}).get("module", "features")}


def _key(what: Mapping[str, Any]) -> str:
    return artifacts.digest(what)[:16]


def _schedule(stage: Stage) -> Any:
    from mimcore.training.schedule import Schedule

    return resolve(Schedule, (stage.definition or {})["schedule"], "schedules")


def _config(stage: Stage) -> Any:
    """Options of a task, or None of features and probes."""
    definition = stage.definition or {}
    if "features" in definition:
        return None
    options = dict(definition["task"])
    return resolve(registry.load("task", options.pop("module")).Config, options, "tasks")


def _recipe(stage: Stage) -> Recipe | None:
    return recipe_of(_config(stage))


def _lengths(stage: Stage) -> tuple[int, float]:
    recipe, (train, test, shifted) = _recipe(stage), (*stage.images, 0)[:3]
    # An image of a shifted pool is seen once, a test image of such a task more often.
    return (train if recipe is None else recipe.images_seen), test + shifted / getattr(_config(stage), "views", 1)
