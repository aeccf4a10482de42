"""Instance segmentation: Mask R-CNN (He et al. 2017) over ViTDet's simple feature pyramid (Li et al. 2022), fine-tuned end to end.

Of the paper's recipe two things differ: attention is global in every block, and no relative positions are added to it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mimcore.evaluation import coco
from mimcore.evaluation.coco import Detections, average_precision
from mimcore.evaluation.dense.masks import encode_masks, instance_masks
from mimcore.evaluation.heads import vitdet
from mimcore.evaluation.heads.detector import mask_detector, strides
from mimcore.evaluation.heads.pyramid import Backbone
from mimcore.evaluation.pictures import SHOWN_MASK, draw_instances
from mimcore.evaluation.recipe import Decay, train
from mimcore.evaluation.scenes import Scenes, box_class_count
from mimcore.evaluation.task import Context, Data, Metric, Needs, Value, seeded
from mimcore.models.encoder import Encoder

#: Average precision of masks, then of boxes.
METRICS = {
    f"{kind}_{name}": Metric(f"{metric.label} ({kind}s)")
    for kind in ("mask", "box")
    for name, metric in coco.METRICS.items()
}
PIXELS = False
NEEDS: Needs = "masks"

#: Test images that ``instances.png`` shows.
SHOWN = 6


class Config(vitdet.Options):
    """Options of instance segmentation: ViTDet's, and its length (Li et al. 2022, appendix A.2 and table 11, and Detectron2's
    ``mask_rcnn_vitdet_b_100ep.py``).
    """

    #: 184,375 steps, 100 epochs of COCO.
    images_seen: int = Field(11_800_000, ge=1)
    #: 250 steps.
    warmup_fraction: float = Field(250 / 184_375, ge=0, lt=1)
    decay: Decay = "milestones"


def evaluate(encoder: Encoder, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Train Mask R-CNN on a copy of the encoder; return COCO's metrics of masks and boxes on the test images, and draw some.

    The metrics of an area (``mask_ap_small``, ...) are left out where no test image has such an instance. ``instances.png`` in
    ``context.folder`` shows the first test images.

    Raises:
        UserError: the encoder's stride does not divide ``image_size``, it takes no RGB, masks are missing or broken, or the loss is
            not finite.
    """
    vitdet.check(encoder, config, "instance segmentation", context.where)
    scenes = Scenes(data.train, config.image_size, context.cache_mib // 2, config.one_class, context.where)
    test = Scenes(data.test, config.image_size, 0, config.one_class, context.where)
    names = ["object"] if config.one_class else data.box_classes
    classes = box_class_count(scenes.truths + test.truths, names, context.where)
    with seeded(context.seed, context.device):
        tuned = encoder.fresh(img_size=config.image_size, drop_path_rate=config.drop_path_rate)
        backbone = Backbone(tuned, config.width, config.scales, config.precision)
        model = mask_detector(backbone, classes, strides(tuned.stride, config.scales)).to(context.device)
        model.train()
        groups = vitdet.groups(model, tuned, config)
        losses = vitdet.losses(model, tuned, scenes, config, context, first=1)
        train(groups, config.learning_rate, losses, config, context)
        rows = data.test.rows.select(["key", "width", "height", "masks"]).to_pylist()
        sizes = [(row["width"], row["height"]) for row in rows]
        found = list(_detect(model, tuned, test, sizes, config, context))
    shown = []
    for position, row in enumerate(rows[:SHOWN]):
        one, truth = found[position], test.truths[position]
        sure = np.flatnonzero(one.scores >= SHOWN_MASK)
        seen = instance_masks(row | {"masks": [(one.masks or ())[number]["counts"] for number in sure]}, context.where)
        true = instance_masks(row, context.where)
        shown.append((data.test.raw(position), true.astype(bool), truth.labels, seen.astype(bool), one.labels[sure]))
    draw_instances(context.folder / "instances.png", shown, names)
    return {
        f"{kind}_{name}": value
        for kind in ("mask", "box")
        for name, value in average_precision(
            test.truths, found, sizes, classes, context.seed, masks=kind == "mask"
        ).items()
    }


def _detect(
    model: nn.Module, tuned: Encoder, scenes: Scenes, sizes: list[tuple[int, int]], config: Config, context: Context
) -> Iterator[Detections]:
    """Find the instances of all test images, in their order, in pixels of the originals."""
    results = vitdet.results(model, tuned, scenes, config, context)
    for (result, ratio), (width, height) in zip(results, sizes, strict=True):
        boxes, scores, labels = (result[key].cpu() for key in ("boxes", "scores", "labels"))
        boxes = boxes / torch.from_numpy(ratio)
        masks = _paste(result["masks"].cpu(), boxes, height, width)
        yield Detections(boxes.numpy(), scores.numpy(), labels.numpy() - 1, masks)


def _paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> tuple[dict[str, object], ...]:
    """Masks ``(N, 1, 28, 28)`` in their boxes to run-length codes of an image, one after the other to spare memory.

    Places are sampled to a fraction of a pixel, as in Detectron2; torchvision rounds the boxes, which small ones do not bear.
    """
    found = []
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
        across = (torch.arange(width) + 0.5 - x0) / max(x1 - x0, 1e-6) * 2 - 1
        down = (torch.arange(height) + 0.5 - y0) / max(y1 - y0, 1e-6) * 2 - 1
        places = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], 2)
        whole = F.grid_sample(mask[None], places[None].to(mask), padding_mode="zeros", align_corners=False)[:, 0] > 0.5
        found += encode_masks(whole.numpy())
    return tuple(found)
