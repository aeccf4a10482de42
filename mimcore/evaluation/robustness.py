"""Robustness to common corruptions (Hendrycks & Dietterich 2019) and to shifted images: trained on clean images, tested on others.

A linear probe on frozen features is tested or, as in the papers on masked image modeling (He et al. 2022, appendix B, table 13), the
fine-tuned model.

The corruption error of a kind is the sum of the errors over its five severities, divided by that of a reference; ``mce`` is its
mean over the fifteen kinds (section 4). The paper's reference is AlexNet on ImageNet-C. Elsewhere there is no such
table: there the reference is a linear probe of raw pixels, trained and tested on the same images.

Shifted images are of other pools, such as ImageNet-A, -R, -Sketch and -V2; ``mimcore.evaluation.shifts`` says how they are scored.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from mimcore.definition import nearest
from mimcore.errors import UserError
from mimcore.evaluation.corruptions import BATCH, NAMES, SEVERITIES, corrupt
from mimcore.evaluation.features import FeaturesConfig, Pixels, ahead, autocast, batch_features, extract
from mimcore.evaluation.finetune import Config as FinetuneConfig
from mimcore.evaluation.finetune import tune
from mimcore.evaluation.logistic import LogisticOptions, choose, fit, logits, standardize
from mimcore.evaluation.shifts import Answers, shift_metrics, shift_values
from mimcore.evaluation.task import Context, Data, Metric, Needs, Pooling, TaskConfig, Value, class_count, labels_of
from mimcore.models import families
from mimcore.models.encoder import Encoder

METRICS = {
    "mce": Metric("Mean corruption error, of the reference's", higher_is_better=False, ceiling=None),
    "corrupted_error": Metric("Error on corrupted images", higher_is_better=False),
    "clean_error": Metric("Error on clean images", higher_is_better=False),
    **{f"severity_{s}": Metric(f"Error at severity {s}", higher_is_better=False) for s in SEVERITIES},
    **{f"error_{name}": Metric(f"Error under {name.replace('_', ' ')}", higher_is_better=False) for name in NAMES},
}
PIXELS = True
NEEDS: Needs = "labels"

#: Mean error of AlexNet over the severities of each corruption of ImageNet-C: the authors' sheet of mCE, as AugMix's released code has it
#: (github.com/google-research/augmix at 9b9824c, imagenet.py:148).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


#: Of the images, which are the task's own and not those of its ``finetune`` block.
_IMAGES = tuple(TaskConfig.model_fields)


class Config(FeaturesConfig, LogisticOptions):
    """Options of robustness to corruptions and shifts."""

    #: What is tested: a linear ``probe`` on frozen features, or a copy of the model that ``finetune`` has trained whole. Raw pixels,
    #: which are the reference and a floor, always have a probe.
    head: Literal["probe", "finetune"] = "probe"
    #: Options of fine-tuning, with ``head: finetune``: those of the task ``finetune``, its images left out.
    finetune: FinetuneConfig | None = None
    #: ``mean`` over the patches or the class token, ``cls``, of a probe; raw pixels are taken whole.
    pooling: Pooling = "mean"
    #: ``alexnet`` on ImageNet's classes alone; ``pixels`` anywhere.
    reference: Literal["pixels", "alexnet"] = "pixels"
    #: Names of other pools whose images are tested on as well; their classes are found by name among those of ``pool``.
    shifted: tuple[str, ...] = ()
    #: Images of a shifted pool to test on, by its name, a random part that is the same for every run; all of those not named.
    shifted_images: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _same_images(cls, given: Any) -> Any:
        """Fine-tuning has the task's images."""
        if not isinstance(given, dict) or not isinstance(given.get("finetune"), dict):
            return given
        own = {name: given[name] for name in _IMAGES if name in given}
        block = given["finetune"]
        if other := [name for name in _IMAGES if name in block and block[name] != own.get(name)]:
            raise ValueError(f"finetune.{other[0]}: fine-tuning has the images of the task; leave it out")
        return given | {"finetune": own | block}

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if (self.head == "finetune") != (self.finetune is not None):
            raise ValueError(
                "head 'finetune' and a block 'finetune' with its options, such as images_seen, go together"
            )
        if len(set(self.shifted)) < len(self.shifted):
            raise ValueError("shifted names a pool twice")
        if other := sorted(set(self.shifted_images) - set(self.shifted)):
            raise ValueError(
                f"shifted_images.{other[0]}: the pool is not among 'shifted'; {nearest(other[0], self.shifted)}"
            )
        return self

    @property
    def views(self) -> int:
        """Times that a test image is seen, for what the task costs."""
        return 1 + len(NAMES) * len(SEVERITIES)


def corruption_error(errors: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Mean over corruptions of the error divided by the reference's; both are means over the severities."""
    return float(np.mean([errors[name] / reference[name] for name in reference]))


def more_metrics(options: Mapping[str, Any]) -> dict[str, Metric]:
    """What ``shifted`` adds."""
    return shift_metrics(options.get("shifted") or ())


class Classifier(Protocol):
    """What is tested."""

    def scores(self, images: Tensor) -> Tensor:
        """Of each class, ``(B, C)``, from uint8 ``(B, 3, H, W)``."""


class Probe:
    """A linear probe of a subject, trained on clean images."""

    def __init__(self, subject: Encoder | Pixels, data: Data, classes: int, config: Config, context: Context) -> None:
        self.subject, self.config = subject, config
        self.name = "pixels" if isinstance(subject, Pixels) else config.pooling
        features = torch.cat([batch[self.name] for batch in extract(subject, data.train, config, context)]).clone()
        # What ``standardize`` does to test images, kept as the images of two made-up features: 0 and 1.
        ends = torch.stack([torch.zeros_like(features[0]), torch.ones_like(features[0])])
        train, (self.shift, one) = standardize(features, ends)
        self.scale = one - self.shift
        labels = labels_of(data.train).to(context.device)
        l2 = choose(train, labels, classes, config, context.seed)
        start = train.new_zeros(train.shape[1] + 1, classes)
        self.solution = fit(train, labels, l2, start, config.max_iterations)

    def scores(self, images: Tensor) -> Tensor:
        """Of each class, float32 ``(B, C)``, from uint8 ``(B, 3, H, W)``."""
        with torch.inference_mode():
            found = batch_features(self.subject, images, self.config.precision)[self.name]
            return logits(found * self.scale + self.shift, self.solution)


class Tuned:
    """A fine-tuned copy of an encoder."""

    def __init__(self, encoder: Encoder, data: Data, config: FinetuneConfig, context: Context) -> None:
        self.config, self.encoder = config, tune(encoder, config, data, context)

    def scores(self, images: Tensor) -> Tensor:
        """Of each class, float32 ``(B, C)``, from uint8 ``(B, 3, H, W)``."""
        with torch.inference_mode(), autocast(images.device, self.config.precision):
            scores: Tensor = self.encoder.module(self.encoder.normalize(images))
        return scores.float()


def evaluate(encoder: Encoder | Pixels, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Errors on clean and corrupted test images, the mean corruption error, and the accuracy on each shifted pool.

    The same images are corrupted in the same way for every run. Standard errors are over test images; that of ``mce`` takes the
    reference as known.

    Raises:
        UserError: the images are not RGB, ``alexnet`` is asked for elsewhere than on a thousand classes, or fine-tuning fails.
    """
    if encoder.channels != 3:
        raise UserError(f"{context.where}: the corruptions are of images of three channels, and this encoder has one.")
    tuned = config.finetune if isinstance(encoder, Encoder) else None
    if (
        isinstance(encoder, Encoder)
        and tuned is None
        and config.pooling == "cls"
        and not families.has_class_token(encoder.module)
    ):
        raise UserError(f"{context.where}.pooling: the encoder has no class token; use 'mean'.")
    classes = class_count(data, context.where)
    if config.reference == "alexnet" and classes != 1000:
        raise UserError(
            f"{context.where}.reference: 'alexnet' is a table of errors on ImageNet, and the pool has {classes} classes; use 'pixels'."
        )
    first: Classifier
    if isinstance(encoder, Encoder) and tuned is not None:
        first = Tuned(encoder, data, tuned, context)
    else:
        first = Probe(encoder, data, classes, config, context)
    tested: list[Classifier] = [first]
    if config.reference == "pixels" and isinstance(encoder, Encoder):
        tested.append(Probe(Pixels(encoder.image_size, encoder.channels), data, classes, config, context))
    answers = Answers(data)
    clean, wrong = _wrong(tested, data, context, answers)
    errors = {name: float(wrong[0][:, number].mean()) for number, name in enumerate(NAMES)}
    if config.reference == "alexnet":
        reference = ALEXNET
    else:
        reference = {name: float(wrong[-1][:, number].mean()) for number, name in enumerate(NAMES)}
        if zero := [name for name, error in reference.items() if not error]:
            raise UserError(
                f"{context.where}: pixels make no error under {zero[0]}; more test images are needed to tell runs apart."
            )
    relative = (wrong[0].mean(axis=2) / np.array([reference[name] for name in NAMES])).mean(axis=1)
    found = {"mce": Value(corruption_error(errors, reference), _error(relative))}
    found["corrupted_error"] = _mean(wrong[0].mean(axis=(1, 2)))
    found["clean_error"] = _mean(clean[0])
    found |= {f"severity_{s}": _mean(wrong[0][:, :, i].mean(axis=1)) for i, s in enumerate(SEVERITIES)}
    found |= {f"error_{name}": _mean(wrong[0][:, i].mean(axis=1)) for i, name in enumerate(NAMES)}
    return found | shift_values(first.scores, answers, data, context)


def _mean(values: np.ndarray) -> Value:
    return Value(float(values.mean()), _error(values))


def _error(values: np.ndarray) -> float:
    return float(values.std()) / math.sqrt(len(values))


def _wrong(tested: list[Classifier], data: Data, context: Context, answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Which answers are wrong; ``answers`` is told the scores of the first on clean images.

    Returns:
        Of each that is tested: on clean test images, float ``(tested, N)``; on corrupted ones ``(tested, N, corruptions, severities)``.
    """
    truth = labels_of(data.test).to(context.device)
    clean = np.zeros((len(tested), len(truth)))
    wrong = np.zeros((len(tested), len(truth), len(NAMES), len(SEVERITIES)))
    batches = np.split(np.arange(len(truth)), range(BATCH, len(truth), BATCH))
    for number, pixels in enumerate(ahead(data.test.get, batches, context.workers)):
        images, rows = torch.from_numpy(pixels).to(context.device), batches[number]
        for t, one in enumerate(tested):
            scores = one.scores(images)
            clean[t, rows] = (scores.argmax(dim=1) != truth[rows]).cpu().numpy()
            if t == 0:
                answers.add(scores)
        for c, name in enumerate(NAMES):
            for s, severity in enumerate(SEVERITIES):
                corrupted = corrupt(images, name, severity, number)
                for t, one in enumerate(tested):
                    wrong[t, rows, c, s] = (one.scores(corrupted).argmax(dim=1) != truth[rows]).cpu().numpy()
        context.progress("corruptions", int(rows[-1]) + 1, len(truth))
    return clean, wrong
