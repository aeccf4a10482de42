import json

import numpy as np
import pytest
import torch
from fakes import FakeImages, box_columns, context, encoder, scenes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from mimcore.errors import UserError
from mimcore.evaluation import detection
from mimcore.evaluation.augment import large_scale_jitter
from mimcore.evaluation.detection import Config
from mimcore.evaluation.heads.detector import detector, strides
from mimcore.evaluation.heads.pyramid import FACTORS, Backbone, SimplePyramid
from mimcore.evaluation.scenes import Scenes, pad
from mimcore.evaluation.task import Data

SMALL = {
    "pool": "x",
    "head": "fcos",
    "image_size": 64,
    "width": 32,
    "scales": ("2", "1"),
    "convolutions": 1,
    "images_seen": 64,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "jitter": (0.8, 1.25),
    "layer_decay": 1.0,
}


def run(folder, train, test, seed=0, **options):
    return detection.evaluate(
        encoder(64, 8), Config(**(SMALL | options)), Data(train, test), context(folder, seed=seed)
    )


def test_the_pyramid_has_the_resolutions_it_names():
    scales = tuple(FACTORS)
    maps = SimplePyramid(48, 32, scales)(torch.randn(2, 48, 8, 8))
    assert [tuple(part.shape) for part in maps] == [(2, 32, int(8 * FACTORS[s]), int(8 * FACTORS[s])) for s in scales]


def test_the_backbone_reads_patches_row_by_row():
    subject = encoder(32, 8)
    backbone = Backbone(subject, 32, ("1",), "float32")
    seen = []
    backbone.pyramid.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        backbone(images)
        patches = subject.module.forward_features(images)[0, 1:]
    for row in range(4):
        torch.testing.assert_close(seen[0][0, :, row], patches[4 * row : 4 * row + 4].T)


@pytest.mark.parametrize("head", ["fcos", "retinanet", "faster_rcnn"])
def test_every_head_trains_and_detects(tmp_path, head):
    train, test = scenes(16, 0), scenes(6, 1)
    found = run(tmp_path, train, test, head=head, images_seen=16, convolutions=1 if head == "fcos" else 4)
    assert set(found) == {"ap", "ap50", "ap75", "ap_small"}  # no digit has 32 x 32 pixels
    assert all(0 <= value.value <= 1 for value in found.values())
    with Image.open(tmp_path / "detections.png") as picture:
        assert picture.width > 900
        assert picture.height > 600


@pytest.mark.parametrize("head", ["fcos", "retinanet", "faster_rcnn"])
def test_a_perfect_scene_has_a_gradient_in_every_weight(head):
    subject = encoder(64, 8)
    backbone = Backbone(subject.fresh(img_size=64), 32, ("2", "1"), "float32")
    model = detector(head, backbone, 3, strides(8, ("2", "1")), 4).train()
    targets = [{"boxes": torch.tensor([[8.0, 8, 30, 30], [20, 20, 60, 60]]), "labels": torch.tensor([1, 2])}] * 2
    sum(model(torch.randn(2, 3, 64, 64), targets).values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_rerun_is_equal_bit_for_bit(tmp_path):
    options = {"images_seen": 240, "learning_rate": 3e-3, "mirror": False}
    train, test = scenes(64, 0, classes=1), scenes(20, 1, classes=1)
    first = run(tmp_path / ".", train, test, **options)
    picture = (tmp_path / "detections.png").read_bytes()
    assert run(tmp_path, train, test, **options) == first
    assert (tmp_path / "detections.png").read_bytes() == picture
    assert first["ap50"].value > 0
    assert run(tmp_path, train, test, seed=1, **options) != first


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_boxes_follow_their_pixels_through_the_jitter(seed, mirror):
    """A bright rectangle on a dark ground: its box after the jitter is where the bright pixels are."""
    random = np.random.default_rng(seed)
    height, width = (int(v) for v in random.integers(24, 64, 2))
    x0, y0 = int(random.integers(0, width - 10)), int(random.integers(0, height - 10))
    x1, y1 = int(random.integers(x0 + 8, width + 1)), int(random.integers(y0 + 8, height + 1))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y0:y1, x0:x1] = 255
    draws = torch.tensor(random.random(4))
    out, boxes, kept = large_scale_jitter(
        image, torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32), draws, 64, (0.5, 2.0), mirror
    )
    assert out.shape[1] <= 64
    assert out.shape[2] <= 64
    bright = (out[0] > 127).nonzero()
    if not kept.any():
        assert len(bright) <= 2 * max(out.shape)
        return
    low, high = bright.min(0).values, bright.max(0).values + 1
    expected = torch.stack([low[1], low[0], high[1], high[0]]).float()
    assert (boxes[0] - expected).abs().max() <= 1.01


def test_scenes_fit_by_the_longer_side_and_boxes_come_back(tmp_path):
    pictures = [np.full((3, 30, 60), 9, np.uint8), np.full((3, 50, 20), 9, np.uint8)]
    images = FakeImages(pictures, box_columns([[[6, 3, 30, 15]], [[0, 0, 20, 50]]], [[0], [1]]))
    data = Scenes(images, 64, 1)
    image, ratio = data.testing(0, (0.0, 0.5, 1.0))
    assert image.shape == (3, 64, 64)
    assert (image[:, :32] == 9).all()
    assert image[:, 40, 0].tolist() == [0, 128, 255]
    np.testing.assert_allclose(ratio, np.tile([64 / 60, 32 / 30], 2), rtol=1e-6)
    _, truth = data.training(1, torch.tensor([0.9, 0.0, 0.0, 0.0]), (1.0, 1.0), True, (0.0, 0.0, 0.0))
    boxes, labels = truth["boxes"], truth["labels"]
    np.testing.assert_allclose(boxes.numpy(), [[0, 0, 26, 64]], atol=1e-4)
    assert labels.tolist() == [1]
    assert data.fitted(0) is data.fitted(0)
    assert pad(image, 64, (0.0, 0.0, 0.0)).equal(image)


def test_crowds_are_not_trained_on():
    picture = np.zeros((3, 64, 64), np.uint8)
    columns = box_columns([[[0, 0, 20, 20], [5, 5, 60, 60]]], [[0, 0]], crowd=[[False, True]])
    _, truth = Scenes(FakeImages([picture], columns), 64, 0).training(
        0, torch.full((4,), 0.9), (1.0, 1.0), False, (0.0, 0.0, 0.0)
    )
    assert truth["boxes"].tolist() == [[0, 0, 20, 20]]


def test_one_class_asks_only_where_objects_are():
    images = scenes(3, 0)
    truths = Scenes(images, 64, 0, one_class=True).truths
    assert not any(truth.labels.any() for truth in truths)
    assert [len(truth.labels) for truth in truths] == [len(truth.labels) for truth in Scenes(images, 64, 0).truths]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ("1", "2")}, "finest first"),
        ({"jitter": (2.0, 1.0)}, "must rise"),
        ({"head": "retinanet"}, "'fcos' alone"),
        ({"width": 40}, "multiple of 32"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Config(**(SMALL | options))


def test_a_patch_that_does_not_divide_the_image_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"tasks\.t\.image_size: 60 is not a multiple"):
        run(tmp_path, scenes(2, 0), scenes(2, 1), image_size=60)


def blood_cells(folder, count):
    """The first training photographs of a COCO file, as the data room would offer them."""
    coco = json.loads((folder / "instances_train.json").read_text())
    kinds = {c["id"]: i for i, c in enumerate(sorted(coco["categories"], key=lambda c: c["id"]))}
    pictures, boxes, labels, areas = [], [], [], []
    for image in coco["images"][:count]:
        mine = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        with Image.open(folder / "images" / image["file_name"]) as file:
            pictures.append(np.asarray(file.convert("RGB")).transpose(2, 0, 1).copy())
        boxes.append([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in mine)])
        labels.append([kinds[a["category_id"]] for a in mine])
        areas.append([a["area"] for a in mine])
    return FakeImages(pictures, box_columns(boxes, labels, areas))


#: One image a step: what this takes is steps.
BLOOD = SMALL | {"image_size": 256, "width": 64, "images_seen": 1100, "batch_size": 1, "learning_rate": 2e-3}
BLOOD |= {"drop_path_rate": 0.0, "weight_decay": 0.0, "jitter": (1.0, 1.0), "mirror": False}


def test_it_can_fit_eight_photographs_of_blood_cells(shared, tmp_path):
    images = blood_cells(shared / "data" / "bccd", 8)
    found = detection.evaluate(encoder(256, 16, 96, 2, 3), Config(**BLOOD), Data(images, images), context(tmp_path))
    assert found["ap50"].value >= 0.9
