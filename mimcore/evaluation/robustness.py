"""Robustness to common corruptions (Hendrycks & Dietterich 2019): a linear probe trained on clean images, tested on corrupted ones.

The corruption error of a kind is the sum of the errors over its five severities, divided by that of a reference; ``mce`` is its
mean over the fifteen kinds (section 4). The paper's reference is AlexNet on ImageNet-C. Elsewhere there is no such
table: there the reference is a linear probe of raw pixels, trained and tested on the same images.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mimcore.errors import UserError
from mimcore.evaluation.corruptions import BATCH, NAMES, SEVERITIES, corrupt
from mimcore.evaluation.features import FeaturesConfig, Pixels, ahead, batch_features, extract
from mimcore.evaluation.logistic import LogisticOptions, choose, fit, logits, standardize
from mimcore.evaluation.task import Context, Data, Metric, Needs, Pooling, Value, class_count, labels_of
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


class Config(FeaturesConfig, LogisticOptions):
    """Options of robustness to corruptions."""

    #: ``mean`` over the patches or the class token, ``cls``; raw pixels are taken whole.
    pooling: Pooling = "mean"
    #: ``alexnet`` on ImageNet's classes alone; ``pixels`` anywhere.
    reference: Literal["pixels", "alexnet"] = "pixels"


def corruption_error(errors: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Mean over corruptions of the error divided by the reference's; both are means over the severities."""
    return float(np.mean([errors[name] / reference[name] for name in reference]))


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

    def answers(self, images: Tensor) -> Tensor:
        """Classes of uint8 ``(B, 3, H, W)``, int64 ``(B,)``."""
        with torch.inference_mode():
            found = batch_features(self.subject, images, self.config.precision)[self.name]
            return logits(found * self.scale + self.shift, self.solution).argmax(dim=1)


def evaluate(encoder: Encoder | Pixels, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Errors on clean and corrupted test images, and the mean corruption error.

    The same images are corrupted in the same way for every run. Standard errors are over test images; that of ``mce`` takes the
    reference as known.

    Raises:
        UserError: the images are not RGB, or ``alexnet`` is asked for elsewhere than on a thousand classes.
    """
    if encoder.channels != 3:
        raise UserError(f"{context.where}: the corruptions are of images of three channels, and this encoder has one.")
    if isinstance(encoder, Encoder) and config.pooling == "cls" and not families.has_class_token(encoder.module):
        raise UserError(f"{context.where}.pooling: the encoder has no class token; use 'mean'.")
    classes = class_count(data, context.where)
    if config.reference == "alexnet" and classes != 1000:
        raise UserError(
            f"{context.where}.reference: 'alexnet' is a table of errors on ImageNet, and the pool has {classes} classes; use 'pixels'."
        )
    probes = [Probe(encoder, data, classes, config, context)]
    if config.reference == "pixels" and isinstance(encoder, Encoder):
        probes.append(Probe(Pixels(encoder.image_size, encoder.channels), data, classes, config, context))
    clean, wrong = _wrong(probes, data, context)
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
    return found | {f"error_{name}": _mean(wrong[0][:, i].mean(axis=1)) for i, name in enumerate(NAMES)}


def _mean(values: np.ndarray) -> Value:
    return Value(float(values.mean()), _error(values))


def _error(values: np.ndarray) -> float:
    return float(values.std()) / math.sqrt(len(values))


def _wrong(probes: list[Probe], data: Data, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Which answers are wrong.

    Returns:
        Of each probe: on clean test images, float ``(probes, N)``; on corrupted ones ``(probes, N, corruptions, severities)``.
    """
    truth = labels_of(data.test).to(context.device)
    clean = np.zeros((len(probes), len(truth)))
    wrong = np.zeros((len(probes), len(truth), len(NAMES), len(SEVERITIES)))
    batches = np.split(np.arange(len(truth)), range(BATCH, len(truth), BATCH))
    for number, pixels in enumerate(ahead(data.test.get, batches, context.workers)):
        images, rows = torch.from_numpy(pixels).to(context.device), batches[number]
        for p, probe in enumerate(probes):
            clean[p, rows] = (probe.answers(images) != truth[rows]).cpu().numpy()
        for c, name in enumerate(NAMES):
            for s, severity in enumerate(SEVERITIES):
                corrupted = corrupt(images, name, severity, number)
                for p, probe in enumerate(probes):
                    wrong[p, rows, c, s] = (probe.answers(corrupted) != truth[rows]).cpu().numpy()
        context.progress("corruptions", int(rows[-1]) + 1, len(truth))
    return clean, wrong
