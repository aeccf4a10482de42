"""Object detection: the encoder under ViTDet's simple feature pyramid (Li et al. 2022), fine-tuned end to end.

Of the paper's recipe two things differ: attention is global in every block, and the learning rate falls by a cosine
instead of two steps.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mimcore.errors import UserError
from mimcore.evaluation.coco import METRICS, Detections, average_precision
from mimcore.evaluation.features import ahead
from mimcore.evaluation.heads.detector import Head, detector, strides, total_loss
from mimcore.evaluation.heads.pyramid import FACTORS, Backbone, Scale
from mimcore.evaluation.pictures import draw_detections
from mimcore.evaluation.recipe import Recipe, encoder_groups, head_groups, order, train
from mimcore.evaluation.scenes import Scenes, box_class_count
from mimcore.evaluation.task import Context, Data, Needs, Value, seeded
from mimcore.models.encoder import Encoder

__all__ = ["METRICS", "NEEDS", "PIXELS", "Config", "evaluate"]

PIXELS = False
NEEDS: Needs = "boxes"


class Config(Recipe):
    """Options of detection; defaults without a source of their own are from ViTDet (Li et al. 2022, appendix A.2)."""

    #: torchvision's ``faster_rcnn`` (Ren et al. 2015), ``retinanet`` (Lin et al. 2017) or ``fcos`` (Tian et al. 2019).
    head: Head = "faster_rcnn"
    #: Find objects whatever their class: boxes are learned long before the classes of few or small objects are.
    one_class: bool = False
    #: Images are resized to fit a square of so many pixels by their longer side, and padded; a multiple of the patch.
    image_size: int = Field(1024, ge=16)
    #: Channels of the pyramid and the head, a multiple of 32 (for the head's group norm).
    width: int = Field(256, ge=32, multiple_of=32)
    #: Resolutions of the pyramid's maps relative to the encoder's, finest first.
    scales: tuple[Scale, ...] = ("4", "2", "1", "1/2")
    #: 3x3 convolutions in each tower of FCOS; the other heads have their own number.
    convolutions: int = Field(4, ge=1)
    batch_size: int = Field(64, ge=1)
    #: Peak learning rate, at whatever batch.
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    layer_decay: float = Field(0.7, gt=0, le=1)
    #: Least and greatest factor of the random resizing (large-scale jitter: Ghiasi et al. 2021).
    jitter: tuple[float, float] = (0.1, 2.0)
    #: Whether half of the images are mirrored; not for letters and digits.
    mirror: bool = True

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        factors = [FACTORS[scale] for scale in self.scales]
        if not factors or factors != sorted(set(factors), reverse=True):
            raise ValueError(f"scales {self.scales} must be named once each, finest first")
        if not 0 < self.jitter[0] <= self.jitter[1]:
            raise ValueError(f"jitter {self.jitter} must rise from above 0")
        if self.head != "fcos" and self.convolutions != 4:
            raise ValueError(f"convolutions {self.convolutions} is an option of the head 'fcos' alone; leave it out")
        return self


def evaluate(encoder: Encoder, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Train a detector on a copy of the encoder; return COCO's metrics on the test images, and draw some of them.

    The metrics of an area (``ap_small``, ``ap_medium``, ``ap_large``) are left out where no test image has such a box.
    ``detections.png`` in ``context.folder`` shows the first test images.

    Raises:
        UserError: the encoder's stride does not divide ``image_size``, it takes no RGB, boxes are missing, or the loss is not
            finite.
    """
    if config.image_size % encoder.stride:
        raise UserError(
            f"{context.where}.image_size: {config.image_size} is not a multiple of the encoder's stride of "
            f"{encoder.stride} pixels; choose one that is."
        )
    if encoder.channels != 3:
        raise UserError(
            f"{context.where}: detection needs an encoder of three channels; this one has {encoder.channels}."
        )
    scenes = Scenes(data.train, config.image_size, context.cache_mib // 2, config.one_class)
    test = Scenes(data.test, config.image_size, 0, config.one_class)
    names = ["object"] if config.one_class else data.box_classes
    classes = box_class_count(scenes.truths + test.truths, names, context.where)
    with seeded(context.seed, context.device):
        tuned = encoder.fresh(img_size=config.image_size, drop_path_rate=config.drop_path_rate)
        backbone = Backbone(tuned, config.width, config.scales, config.precision)
        steps = strides(tuned.stride, config.scales)
        model = detector(config.head, backbone, classes, steps, config.convolutions).to(context.device)
        model.train()
        train(
            _groups(model, tuned, config),
            config.learning_rate,
            _losses(model, tuned, scenes, config, context),
            config,
            context,
        )
        found = list(_detect(model, tuned, test, config, context))
    rows = data.test.rows.select(["width", "height"]).to_pylist()
    sizes = [(row["width"], row["height"]) for row in rows]
    draw_detections(context.folder / "detections.png", data.test, test.truths, found, names)
    return average_precision(test.truths, found, sizes, classes, context.seed)


def _groups(model: nn.Module, tuned: Encoder, config: Config) -> list[dict[str, object]]:
    """Parameter groups; the last block has one ``layer_decay``, the pyramid and the head have none."""
    inside = {id(parameter) for parameter in tuned.module.parameters()}
    new = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return encoder_groups(tuned.module, config, scale=config.layer_decay) + head_groups(new, config)


def _losses(
    model: nn.Module, tuned: Encoder, scenes: Scenes, config: Config, context: Context
) -> Callable[[int], Tensor]:
    """Make the function from a step to its loss."""
    first = 1 if config.head == "faster_rcnn" else 0
    generator = torch.Generator().manual_seed(context.seed)

    def draws() -> Iterator[tuple[np.ndarray, Tensor]]:
        for positions in order(len(scenes), config.batch_size, config.steps, context.seed):
            yield positions, torch.rand(len(positions), 4, generator=generator)

    def read(item: tuple[np.ndarray, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        pairs = zip(item[0].tolist(), item[1], strict=True)
        return [scenes.training(position, draw, config.jitter, config.mirror, tuned.mean) for position, draw in pairs]

    batches = ahead(read, draws(), context.workers)

    def losses(step: int) -> Tensor:
        parts = next(batches)
        images = tuned.normalize(torch.stack([image for image, _, _ in parts]).to(context.device))
        targets = [
            {"boxes": boxes.to(context.device), "labels": labels.to(context.device) + first}
            for _, boxes, labels in parts
        ]
        return total_loss(model(images, targets))

    return losses


def _detect(model: nn.Module, tuned: Encoder, scenes: Scenes, config: Config, context: Context) -> Iterator[Detections]:
    """Detect in all test images, in their order."""
    first = 1 if config.head == "faster_rcnn" else 0
    model.eval()
    positions = range(len(scenes))
    batches = [positions[i : i + config.batch_size] for i in positions[:: config.batch_size]]

    def read(batch: range) -> tuple[Tensor, list[np.ndarray]]:
        pairs = [scenes.testing(position, tuned.mean) for position in batch]
        return torch.stack([image for image, _ in pairs]), [ratio for _, ratio in pairs]

    done = 0
    with torch.inference_mode():
        for images, ratios in ahead(read, batches, context.workers):
            results = model(tuned.normalize(images.to(context.device)))
            for result, ratio in zip(results, ratios, strict=True):
                boxes, scores, labels = (result[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
                yield Detections(boxes / ratio, scores, labels - first)
            done += len(images)
            context.progress("testing", done, len(scenes))
