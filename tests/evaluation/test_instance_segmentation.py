import numpy as np
import pytest
import torch
from dense import CLASSES, dense_scenes
from fakes import context, encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_segmentation import swin
from torchvision.ops import roi_align

from mimcore.errors import UserError
from mimcore.evaluation import instance_segmentation, recipe
from mimcore.evaluation.coco import average_precision
from mimcore.evaluation.dense.masks import instance_masks
from mimcore.evaluation.heads.detector import mask_detector, strides
from mimcore.evaluation.heads.pyramid import Backbone
from mimcore.evaluation.instance_segmentation import Config
from mimcore.evaluation.scenes import Scenes
from mimcore.evaluation.task import Data

SMALL = {
    "pool": "x", "image_size": 64, "width": 32, "scales": ("2", "1"), "images_seen": 8, "batch_size": 4,
    "learning_rate": 1e-3, "jitter": (0.8, 1.25), "mirror": False, "layer_decay": 1.0, "drop_path_rate": 0.0, "weight_decay": 0.0,
}  # fmt: skip


def run(folder, train, test, subject=None, **options):
    data = Data(train, test, box_classes=CLASSES)
    return instance_segmentation.evaluate(subject or encoder(64, 8), Config(**(SMALL | options)), data, context(folder))


def test_defaults_are_vitdets():
    found = Config(pool="x")
    assert (found.image_size, found.batch_size, found.steps, found.jitter) == (1024, 64, 184_375, (0.1, 2.0))
    assert (found.learning_rate, found.weight_decay, found.layer_decay, found.drop_path_rate) == (1e-4, 0.1, 0.7, 0.1)
    assert (found.width, found.scales) == (256, ("4", "2", "1", "1/2"))
    assert round(found.steps * found.warmup_fraction) == 250
    at = {0: 1 / 250, 249: 1, 163_888: 1, 163_889: 0.1, 177_545: 0.1, 177_546: 0.01, 184_374: 0.01}
    rates = [recipe.rate(step, 1.0, found) for step in at]
    np.testing.assert_allclose(rates, list(at.values()))


def test_a_perfect_scene_has_a_gradient_in_every_weight():
    subject = encoder(64, 8)
    model = mask_detector(
        Backbone(subject.fresh(img_size=64), 32, ("2", "1"), "float32"), 3, strides(8, ("2", "1"))
    ).train()
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 8:30, 8:30], masks[1, 20:60, 20:60] = 1, 1
    boxes = torch.tensor([[8.0, 8, 30, 30], [20, 20, 60, 60]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}] * 2
    losses = model(torch.randn(2, 3, 64, 64), targets)
    assert "loss_mask" in losses
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.booleans())
def test_masks_and_boxes_follow_their_pixels_through_the_jitter(seed, mirror):
    images = dense_scenes(1, seed % 50, wide=20)
    scenes = Scenes(images, 64, 1, masks_of="t")
    draws = torch.from_numpy(np.random.default_rng(seed).random(4)).float()
    picture, truth = scenes.training(0, draws, (0.5, 2.0), mirror, (0.0, 0.0, 0.0))
    masks = truth["masks"].bool()
    assert masks.shape[1:] == picture.shape[1:] == (64, 64)
    assert len(truth["boxes"]) == len(truth["labels"]) == len(masks)
    plain, beside = Scenes(images, 64, 1).training(0, draws, (0.5, 2.0), mirror, (0.0, 0.0, 0.0))
    assert plain.equal(picture)
    for box, mask in zip(truth["boxes"], masks, strict=True):
        rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        low, high = box[:2] >= beside["boxes"][:, :2] - 1.01, box[2:] <= beside["boxes"][:, 2:] + 1.01
        assert torch.cat([low, high], 1).all(1).any()  # within an annotated box, to a pixel of rounding
    bright = picture.max(0).values  # digits are bright on a dark ground
    if masks.sum() > 100:
        assert bright[masks.any(0)].float().mean() > bright[~masks.any(0)].float().mean() + 40


@pytest.mark.parametrize("subject", [encoder(64, 8), swin()])
def test_images_that_are_not_square_train_and_test(tmp_path, subject):
    scales = ("2", "1") if subject.stride == 8 else ("4", "2")
    found = run(tmp_path, dense_scenes(8), dense_scenes(3, 100, wide=50), subject, scales=scales, mirror=True)
    assert {"mask_ap", "mask_ap50", "mask_ap75", "box_ap", "box_ap50", "box_ap75"} <= set(found)
    assert set(found) < set(instance_segmentation.METRICS)
    assert next(iter(instance_segmentation.METRICS)) == "mask_ap"
    assert all(0 <= value.value <= 1 for value in found.values())
    with Image.open(tmp_path / "instances.png") as picture:
        assert picture.height > 3 * 320


def test_a_detector_that_knows_the_truth_is_perfect(monkeypatch):
    """True boxes, and true masks resampled to 28 x 28 places of them, of images that are enlarged for the detector."""
    images = dense_scenes(12, wide=30)
    scenes = Scenes(images, 128, 0, masks_of="t")
    sizes = [(94, 64)] * len(images)

    def results(*_):
        for position, row in enumerate(images.rows.to_pylist()):
            _, ratio = scenes.testing(position, (0.0, 0.0, 0.0))
            boxes = torch.tensor(row["boxes"]) * torch.from_numpy(ratio)
            masks = torch.nn.functional.interpolate(
                torch.from_numpy(instance_masks(row, "t"))[:, None].float(), (round(64 * 128 / 94), 128)
            )
            own = [roi_align(mask[None], [box[None]], 28) for mask, box in zip(masks, boxes, strict=True)]
            labels, scores = torch.tensor(row["box_labels"]) + 1, torch.ones(len(boxes))
            yield {"boxes": boxes, "scores": scores, "labels": labels, "masks": torch.cat(own)}, ratio

    monkeypatch.setattr("mimcore.evaluation.heads.vitdet.results", results)
    found = list(instance_segmentation._detect(None, None, scenes, sizes, Config(pool="x"), None))
    for kind, least in ((True, 0.9), (False, 1.0)):
        assert average_precision(scenes.truths, found, sizes, 10, 0, masks=kind)["ap"].value >= least


@pytest.mark.slow
def test_it_can_fit_eight_scenes(tmp_path):
    images = dense_scenes(8)
    options = {"width": 64, "scales": ("4", "2"), "images_seen": 1600, "batch_size": 1, "jitter": (1.0, 1.0)}
    options |= {"decay": "cosine", "warmup_fraction": 0.1}
    found = run(tmp_path, images, images, encoder(64, 8, 64), **options)
    assert found["mask_ap50"].value > 0.9
    assert found["box_ap"].value > 0.9


def test_a_rerun_is_equal_bit_for_bit(tmp_path):
    images = dense_scenes(4)
    first = run(tmp_path, images, images)
    picture = (tmp_path / "instances.png").read_bytes()
    assert run(tmp_path, images, images) == first
    assert (tmp_path / "instances.png").read_bytes() == picture


def test_what_cannot_be_is_refused(tmp_path):
    images = dense_scenes(2)
    with pytest.raises(UserError, match=r"tasks\.t\.image_size: 60 is not a multiple of the encoder's stride of 8"):
        run(tmp_path, images, images, image_size=60)
    column = images.rows.column_names.index("masks")
    images.rows = images.rows.set_column(
        column, "masks", [[["~"] * len(one) for one in images.rows["masks"].to_pylist()]]
    )
    with pytest.raises(UserError, match=r"tasks\.t: mask 0 of image '\d' is no run-length code of 64x64 pixels"):
        run(tmp_path, images, images)
