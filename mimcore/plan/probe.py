"""How long stages take on this machine: a few real steps of each distinct run and task, and what a stage costs beside them.

Images are noise of the right shape, since no index need exist yet: what the loader takes is for ``mimcore bench-data`` to say.
"""

import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mimcore import artifacts, registry
from mimcore.definition import resolve
from mimcore.evaluation.features import FeaturesConfig, Pixels, extract
from mimcore.evaluation.frozen import write_arrays
from mimcore.evaluation.recipe import Recipe
from mimcore.evaluation.task import Context, Data, NotApplicable
from mimcore.models import encoder as encoders
from mimcore.plan import noise
from mimcore.plan.starts import LOADS, dvc_seconds, start_seconds
from mimcore.plan.work import Stage, fixed_images, foreseen, model_of, recipe_of
from mimcore.training.state import Run, start_run
from mimcore.training.states import images_before
from mimcore.training.step import speed_up, train_step
from mimcore.training.validation import fixed_loss

if TYPE_CHECKING:
    from mimcore.execution import Execution

#: Steps before the clock starts, and seconds that each timing lasts at least.
WARM_STEPS, SECONDS = 3, 3.0
#: The two lengths that a stage is timed at: batches of a task that trains the encoder, else images.
BATCHES, IMAGES = (2, 12), (64, 256)
#: Images that a probe is timed on at most, and the fourth part of them: its solver takes no time on few.
VECTORS = 2048

Tell = Callable[[str, int, int], None]


class Probe:
    """Times kept by what they are times of, so that nothing is timed twice; ``times`` can be stored and given again.

    Args:
        device: to time.
        times: of what was timed before; new ones are added.
        execution: workers, and how a step is sped up.
        lock_lines: lines of ``dvc.lock`` that a stage meets (``starts.lock_lines``).
    """

    def __init__(
        self, device: torch.device, times: dict[str, Any], execution: "Execution", lock_lines: float = 0
    ) -> None:
        self.device, self.times, self.execution, self.lock_lines = device, times, execution, lock_lines

    def seconds(self, stage: Stage) -> float | None:
        """How long a stage takes; None where it has not been timed."""
        process, dvc = self.times.get(_key({"start": LOADS[stage.verb]})), self.times.get(_key(_DVC))
        if process is None or dvc is None:
            return None
        start = float(process + dvc["stage"] + dvc["line"] * self.lock_lines)
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
        if stages and (key := _key(_DVC)) not in self.times:
            missing[key] = dvc_seconds
        for stage in stages:
            loads = LOADS[stage.verb]
            if (key := _key({"start": loads})) not in self.times:
                missing[key] = partial(start_seconds, loads)
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
        images = noise.images(run.schedule.batch_size, run.encoder.image_size, run.encoder.channels)
        batch = torch.from_numpy(images)
        speed_up(run, self.execution, batch[:2])
        step = self._time(lambda: train_step(run, batch), WARM_STEPS)
        table = noise.Table(images, {})
        fixed = self._time(lambda: self._validate(run, table), 1) / len(table)
        return {"step": step, "fixed": fixed}

    def _validate(self, run: Run, table: noise.Table) -> None:
        fixed_loss(run.objective, run.encoder, table, self.device, run.schedule.precision)

    def _task(self, stage: Stage) -> dict[str, float]:
        """A task at three lengths gives what it takes at the start, for an image to train on and for one to test on."""
        encoder = encoders.build(resolve(encoders.Config, model_of(stage.definition or {}), "models"))
        if (recipe := _recipe(stage)) is not None:
            short, long = (batches * recipe.batch_size for batches in BATCHES)
        elif {"task", "features"} <= set(stage.definition or {}):
            long = min(max(stage.images[0], IMAGES[1]), VECTORS)
            short = long // 4
        else:
            short, long = IMAGES
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
            tables = [noise.examples(count, encoder, "labels") for count in (train, test)]
            return [encoder, *pixels], partial(self._extract, tables, config)
        options = dict(definition["task"])
        module = str(options.pop("module"))
        if "features" in definition:
            probe = registry.load("probe", module)
            config = resolve(probe.Config, options, "tasks")
            widths = [int(encoder.module.num_features)]
            widths += [noise.pixel_numbers(pixels[0])] if pixels and probe.PIXELS else []
            return [noise.vectors(train, test, width) for width in widths], lambda s, c: probe.probe(s, config, c)
        task = registry.load("task", module)
        if recipe is not None:
            options |= (
                {"finetune": options["finetune"] | {"images_seen": train}}
                if "finetune" in options
                else {"images_seen": train}
            )
        config = resolve(task.Config, options, "tasks")
        first = noise.examples(min(train, 256) if recipe is not None else train, encoder, task.NEEDS)
        data = Data(first, noise.examples(test, encoder, task.NEEDS), noise.CLASSES, noise.CLASSES)
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


#: What DVC's own part of a stage is a time of.
_DVC = {"dvc": "repro"}


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
