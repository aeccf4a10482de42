"""torchvision's detectors on an encoder with a simple feature pyramid."""

from collections import OrderedDict
from typing import Any, Literal

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from mimcore.evaluation.heads.pyramid import FACTORS, Backbone

Head = Literal["faster_rcnn", "retinanet", "fcos"]

#: Detections of a score below this are not kept: Detectron2's value, low enough to leave COCO's AP unchanged.
SCORE = 0.05


class Prepared(nn.Module):
    """Takes the place of torchvision's transform: the images are resized, padded and normalised already."""

    def forward(self, images: Tensor, targets: Any = None) -> tuple[ImageList, Any]:
        """Wrap images ``(B, 3, S, S)``."""
        return ImageList(images, [(images.shape[2], images.shape[3])] * len(images)), targets

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        """Leave boxes in pixels of the prepared images."""
        return result


class _WithPool(nn.Module):
    """A pyramid with one more map for proposals, every other pixel of the coarsest (Lin et al. 2017, section 4.1)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.body = backbone
        self.out_channels = backbone.out_channels

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        maps: OrderedDict[str, Tensor] = self.body(images)
        maps["pool"] = nn.functional.max_pool2d(list(maps.values())[-1], 1, 2)
        return maps


def strides(stride: int, scales: tuple[str, ...]) -> list[float]:
    """Pixels between the cells of each map."""
    return [stride / FACTORS[scale] for scale in scales]  # type: ignore[index]


def detector(head: Head, backbone: Backbone, classes: int, steps: list[float], convolutions: int) -> nn.Module:
    """Put a head of torchvision on a backbone.

    Anchors are in proportion to the strides, as in the papers: 8 strides wide for the proposals of Faster R-CNN (Lin et
    al. 2017, section 4.1), 4 strides times 1, 2^(1/3) and 2^(2/3) for RetinaNet (Lin et al. 2017b, section 4), a point
    for FCOS (Tian et al. 2019). All keep 100 detections of an image.

    Args:
        head: which.
        backbone: the encoder under its pyramid.
        classes: number of classes C, without background.
        steps: stride of each map, pixels.
        convolutions: of FCOS's towers.

    Returns:
        A model that maps images and targets to losses in training, and images to boxes, scores and labels otherwise.
        Labels are 0 to C - 1, except 1 to C with Faster R-CNN, where 0 is the background.
    """
    keep: dict[str, Any] = {"detections_per_img": 100, "score_thresh": SCORE}
    model: nn.Module
    if head == "fcos":
        anchors = AnchorGenerator(tuple((step,) for step in steps), ((1.0,),) * len(steps))
        tower = FCOSHead(backbone.out_channels, 1, classes, convolutions)
        model = FCOS(backbone, classes, anchor_generator=anchors, head=tower, **keep)
    elif head == "retinanet":
        sizes = tuple(tuple(step * 4 * 2 ** (third / 3) for third in range(3)) for step in steps)
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(steps))
        model = RetinaNet(backbone, classes, anchor_generator=anchors, **keep)
    else:
        width = backbone.out_channels
        # 1024 wide for 256 channels, as torchvision and FPN have it.
        box_head = TwoMLPHead(width * 49, width * 4)
        model = FasterRCNN(_WithPool(backbone), box_head=box_head, **_two_stages(width, classes, steps))
    model.transform = Prepared()
    return model


def mask_detector(backbone: Backbone, classes: int, steps: list[float]) -> nn.Module:
    """Put torchvision's Mask R-CNN (He et al. 2017) on a backbone, with ViTDet's heads (Li et al. 2022, appendix A.2).

    Four convolutions and a linear layer 1024 wide (for 256 channels) for boxes, four convolutions for masks, each under a layer
    norm over the channels.

    Args:
        backbone: the encoder under its pyramid.
        classes: number of classes C, without background.
        steps: stride of each map, pixels.

    Returns:
        A model that maps images and targets with masks to losses in training, and images to boxes, scores, labels 1 to C and
        masks of 28 x 28 places in their boxes, float ``(N, 1, 28, 28)`` from 0 to 1, otherwise.
    """
    width = backbone.out_channels
    model: nn.Module = MaskRCNN(
        _WithPool(backbone),
        box_head=FastRCNNConvFCHead((width, 7, 7), [width] * 4, [width * 4], norm_layer=LayerNorm2d),
        mask_roi_pool=MultiScaleRoIAlign(_names(steps), output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(width, [width] * 4, 1, norm_layer=LayerNorm2d),
        mask_predictor=MaskRCNNPredictor(width, width, classes + 1),
        **_two_stages(width, classes, steps),
    )
    model.transform = Prepared()
    return model


def _names(steps: list[float]) -> list[str]:
    return [str(level) for level in range(len(steps))]


def _two_stages(width: int, classes: int, steps: list[float]) -> dict[str, Any]:
    """What Faster and Mask R-CNN have in common."""
    sizes = tuple((step * 8,) for step in [*steps, steps[-1] * 2])
    return {
        "rpn_anchor_generator": AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        # Two hidden convolutions, as ViTDet (Li et al. 2022, appendix A.2).
        "rpn_head": RPNHead(width, 3, conv_depth=2),
        "box_roi_pool": MultiScaleRoIAlign(_names(steps), output_size=7, sampling_ratio=2),
        "box_predictor": FastRCNNPredictor(width * 4, classes + 1),
        "box_score_thresh": SCORE,
        "box_detections_per_img": 100,
    }


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """Add the parts of the loss, with equal weights."""
    return torch.stack(list(losses.values())).sum()
