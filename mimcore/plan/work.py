"""The stages of a study as work to be priced: what each computes and keeps, counted before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mimcore import artifacts, registry
from mimcore.definition import resolve
from mimcore.evaluation.features import FeaturesConfig
from mimcore.evaluation.recipe import Recipe
from mimcore.models import encoder as encoders
from mimcore.models import families
from mimcore.models.objective import NOTHING, Given
from mimcore.training.flops import Cost, encoder_flops, trace
from mimcore.training.schedule import Schedule
from mimcore.training.states import images_before

#: Bytes of a weight in ``encoder.safetensors``.
FLOAT32 = 4


def foreseen(definition: Mapping[str, Any]) -> Given:
    """What the objective of a run is given while nothing is made yet: of a teacher, its model."""
    return Given(teacher_model=definition["after"]["model"]) if definition.get("use") == "teacher" else NOTHING


@dataclass(frozen=True)
class Stage:
    """A stage of the study in force.

    Attributes:
        verb: what it does: ``pretrain``; ``features``, ``probe``, ``evaluate``, or one of these of a ``...floor``; or a light one.
        name: as DVC names it.
        after: names of the stages that it needs.
        definition: of a run ``objective``, ``model``, ``schedule``; of an evaluation ``task`` or ``features``, of a probe both,
            beside ``run`` or ``model``.
        images: unique images of a run's subset; images that a task, or features, train and test on, and those of shifted pools.
    """

    verb: str
    name: str
    after: tuple[str, ...] = ()
    definition: Mapping[str, Any] | None = None
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Counted:
    """What a stage computes and keeps.

    Attributes:
        images: images that pass through a model, repeats and validation and all.
        flops: matrix products, a multiply-add as two.
        stored_bytes: what it leaves in ``artifacts``, weights alone.
        precision: of the matrix products.
    """

    images: int = 0
    flops: float = 0.0
    stored_bytes: int = 0
    precision: str = "float32"


class Counter:
    """Counts stages; each distinct model, objective and input is traced once."""

    def __init__(self) -> None:
        self._costs: dict[str, Cost] = {}
        self._forward: dict[str, float] = {}

    def __call__(self, stage: Stage) -> Counted:
        """Count a stage; light ones compute nothing that counts."""
        if stage.definition is None:
            return Counted()
        if stage.verb == "pretrain":
            return self._run(stage)
        if "task" not in stage.definition:
            return self._features(stage)
        # A probe works on features: its own few products are not counted, as the heads of other tasks are not.
        return Counted() if "features" in stage.definition else self._task(stage)

    def cost(self, definition: Mapping[str, Any]) -> Cost:
        """What an image costs a run of this definition."""
        given = foreseen(definition)
        parts = {"teacher": given.teacher_model, **{part: definition[part] for part in ("model", "objective")}}
        key = artifacts.digest(parts)
        if key not in self._costs:
            self._costs[key] = trace(definition["model"], definition["objective"], given)
        return self._costs[key]

    def _run(self, stage: Stage) -> Counted:
        definition = stage.definition or {}
        schedule = resolve(Schedule, definition["schedule"], "schedules")
        before = images_before(definition, schedule)
        cost, fixed = self.cost(definition), fixed_images(schedule, stage.images[0], before)
        trained = schedule.images_seen - before
        flops = cost.training * trained + cost.forward * fixed
        # A state has the weights, their two moments and, where there is one, their average.
        states = len(schedule.keep_states) * cost.params * (4 if schedule.ema_decay else 3)
        return Counted(trained + fixed, flops, FLOAT32 * (cost.encoder_params + states), schedule.precision)

    def _features(self, stage: Stage) -> Counted:
        """One pass of the encoder over all images, in both parts."""
        definition = stage.definition or {}
        config = resolve(FeaturesConfig, definition["features"], "features")
        images = sum(stage.images)
        pooled = features_width(model_of(definition)) * FLOAT32 * images
        return Counted(images, self._encoder(model_of(definition), None) * images, pooled, config.precision)

    def _task(self, stage: Stage) -> Counted:
        """Of a task that trains the encoder forward and backward (three times forward: Kaplan et al. 2020, section 2.1), heads
        left out; of another task one pass over its images, or as many as it looks at them. A phase that left its encoder as it was is
        not measured once more.
        """
        definition = stage.definition or {}
        run = definition.get("run", {})
        if run.get("use") == "weights" and self.cost(run).left:
            return Counted()
        options = dict(definition["task"])
        task = registry.load("task", options.pop("module"))
        config = resolve(task.Config, options, "tasks")
        train, test, shifted = (*stage.images, 0)[:3]
        forward = self._encoder(model_of(definition), getattr(config, "image_size", None))
        precision = str(getattr(config, "precision", "float32"))
        # A test image is seen several times where it is cropped or corrupted, and some tasks train several times; a clip is several
        # images' worth, and attention between them is left out.
        test = (test * getattr(config, "views", 1) + shifted) * getattr(config, "encoded", 1)
        if (recipe := recipe_of(config)) is not None:
            seen = recipe.images_seen * getattr(config, "repeats", 1) * getattr(config, "encoded", 1)
            images, passes, precision = seen + test, 3 * seen + test, recipe.precision
        else:
            images = passes = train + test
        return Counted(images, forward * passes, 0, precision)

    def _encoder(self, model: Mapping[str, Any], image_size: int | None) -> float:
        key = artifacts.digest({"model": dict(model), "image_size": image_size})
        if key not in self._forward:
            with torch.device("meta"):
                encoder = encoders.build(resolve(encoders.Config, model, "models"))
            self._forward[key] = encoder_flops(encoder, image_size)
        return self._forward[key]


def recipe_of(config: Any) -> Recipe | None:
    """The recipe by which a task trains the encoder: its own options, or its block ``finetune``."""
    found = config if isinstance(config, Recipe) else getattr(config, "finetune", None)
    return found if isinstance(found, Recipe) else None


def model_of(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model of what is measured: of a run, or by itself."""
    found: Mapping[str, Any] = definition["model"] if "model" in definition else definition["run"]["model"]
    return found


def features_width(model: Mapping[str, Any]) -> int:
    """Numbers that are kept of an image: the mean of its patches and, where the encoder has one, the class token."""
    with torch.device("meta"):
        module = encoders.build(resolve(encoders.Config, model, "models")).module
    return int(module.num_features) * (2 if families.has_class_token(module) else 1)


def fixed_images(schedule: Schedule, unique_images: int, before: int = 0) -> int:
    """Images that a run's validations see: at the start and at each of them, on both fixed sets.

    Args:
        schedule: of the run.
        unique_images: of its subset.
        before: images seen at which a branch leaves its trunk; it validates after that alone.
    """
    points = sum(not before or step * schedule.batch_size > before for step in set(schedule.validation_steps()))
    return points * (schedule.validation_images + min(schedule.validation_images, unique_images))


def parameters(model: Mapping[str, Any]) -> int:
    """Weights of the encoder of a definition of ``models``."""
    with torch.device("meta"):
        return sum(p.numel() for p in encoders.build(resolve(encoders.Config, model, "models")).module.parameters())
