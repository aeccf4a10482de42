"""Object detection: the encoder under ViTDet's simple feature pyramid (Li et al. 2022), fine-tuned end to end.

Of the paper's recipe these differ: attention is global in every block and has no relative positions, the learning rate falls by a
cosine instead of two steps (``decay: milestones`` has these), and the heads are torchvision's.
"""

from collections.abc import Iterator

from pydantic import Field, model_validator
from torch import nn

from mimcore.evaluation.coco import METRICS, Detections, average_precision
from mimcore.evaluation.heads import vitdet
from mimcore.evaluation.heads.detector import Head, detector, strides
from mimcore.evaluation.heads.pyramid import Backbone
from mimcore.evaluation.pictures import draw_detections
from mimcore.evaluation.recipe import train
from mimcore.evaluation.scenes import Scenes, box_class_count
from mimcore.evaluation.task import Context, Data, Needs, Value, seeded
from mimcore.models.encoder import Encoder

__all__ = ["METRICS", "NEEDS", "PIXELS", "Config", "evaluate"]

PIXELS = False
NEEDS: Needs = "boxes"


class Config(vitdet.Options):
    """Options of detection."""

    #: torchvision's ``faster_rcnn`` (Ren et al. 2015), ``retinanet`` (Lin et al. 2017) or ``fcos`` (Tian et al. 2019).
    head: Head = "faster_rcnn"
    #: 3x3 convolutions in each tower of FCOS; the other heads have their own number.
    convolutions: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> "Config":
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
    vitdet.check(encoder, config, "detection", context.where)
    scenes = Scenes(data.train, config.image_size, context.cache_mib // 2, config.one_class)
    test = Scenes(data.test, config.image_size, 0, config.one_class)
    names = ["object"] if config.one_class else data.box_classes
    classes = box_class_count(scenes.truths + test.truths, names, context.where)
    first = 1 if config.head == "faster_rcnn" else 0
    with seeded(context.seed, context.device):
        tuned = encoder.fresh(img_size=config.image_size, drop_path_rate=config.drop_path_rate)
        backbone = Backbone(tuned, config.width, config.scales, config.precision)
        steps = strides(tuned.stride, config.scales)
        model = detector(config.head, backbone, classes, steps, config.convolutions).to(context.device)
        model.train()
        groups = vitdet.groups(model, tuned, config)
        losses = vitdet.losses(model, tuned, scenes, config, context, first)
        train(groups, config.learning_rate, losses, config, context)
        found = list(_detect(model, tuned, test, config, context, first))
    rows = data.test.rows.select(["width", "height"]).to_pylist()
    sizes = [(row["width"], row["height"]) for row in rows]
    draw_detections(context.folder / "detections.png", data.test, test.truths, found, names)
    return average_precision(test.truths, found, sizes, classes, context.seed)


def _detect(
    model: nn.Module, tuned: Encoder, scenes: Scenes, config: Config, context: Context, first: int
) -> Iterator[Detections]:
    """Detect in all test images, in their order."""
    for result, ratio in vitdet.results(model, tuned, scenes, config, context):
        boxes, scores, labels = (result[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
        yield Detections(boxes / ratio, scores, labels - first)
