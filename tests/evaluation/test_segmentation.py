import numpy as np
import pyarrow as pa
import pytest
import torch
from dense import CLASSES, dense_scenes
from fakes import FakeImages, box_columns, context, encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.metrics import jaccard_score, recall_score
from torch import nn

from mimcore.errors import UserError
from mimcore.evaluation import recipe, segmentation
from mimcore.evaluation.augment import resize_nearest
from mimcore.evaluation.dense.masks import IGNORED, class_map, encode_masks
from mimcore.evaluation.dense.overlap import count_overlaps, overlap_metrics
from mimcore.evaluation.dense.surfaces import DRAWS, Surfaces
from mimcore.evaluation.heads.levels import Levels
from mimcore.evaluation.heads.upernet import UPerNet, segmentation_loss
from mimcore.evaluation.segmentation import Config, slide
from mimcore.evaluation.task import Data
from mimcore.models.encoder import Config as Model
from mimcore.models.encoder import build

SMALL = {
    "pool": "x", "image_size": 64, "width": 32, "images_seen": 32, "batch_size": 4, "learning_rate": 1e-3, "layer_decay": 1.0,
    "jitter": (1.0, 1.0), "mirror": False, "photometric": False, "drop_path_rate": 0.0, "warmup_fraction": 0.1,
}  # fmt: skip
SWIN = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}


def swin(image_size=64):
    return build(Model(architecture="swinv2_base_window12_192", image_size=image_size, **SWIN))


def run(folder, train, test, subject=None, **options):
    data = Data(train, test, box_classes=CLASSES)
    return segmentation.evaluate(subject or encoder(64, 8), Config(**(SMALL | options)), data, context(folder))


def test_defaults_are_openmmlabs_recipe_of_mae():
    found = Config(pool="x")
    assert (found.steps, found.batch_size, found.image_size) == (160_000, 16, 512)
    assert (found.learning_rate, found.weight_decay, found.layer_decay, found.drop_path_rate) == (1e-4, 0.05, 0.65, 0.1)
    assert round(found.steps * found.warmup_fraction) == 1500
    rates = [recipe.rate(step, 1.0, found) for step in (1499, 1500, 80_750, 159_999)]
    np.testing.assert_allclose(rates, [1, 1, 0.5, 1 / 158_500], rtol=1e-6)
    assert segmentation._starts(512, 512) == [0]
    assert segmentation._starts(1000, 512) == [0, 341, 488]


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_the_metrics_are_scikit_learns(seed):
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 6))
    sizes = random.integers(1, 9, (int(random.integers(1, 6)), 2))
    truth = [random.integers(-1, classes, size) for size in sizes]
    truth[0][0, 0] = 0
    found = [np.where(random.random(t.shape) < 0.5, t.clip(0), random.integers(0, classes, t.shape)) for t in truth]
    counts = np.stack([count_overlaps(f, t, classes) for f, t in zip(found, truth, strict=True)])
    values = {name: value.value for name, value in overlap_metrics(counts, 0).items()}
    flat_truth, flat = (np.concatenate([part.ravel() for part in parts]) for parts in (truth, found))
    flat_truth, flat = flat_truth[flat_truth >= 0], flat[flat_truth >= 0]
    known, true = np.union1d(flat_truth, flat), np.unique(flat_truth)
    assert values["miou"] == pytest.approx(jaccard_score(flat_truth, flat, labels=known, average="macro"))
    assert values["mean_accuracy"] == pytest.approx(recall_score(flat_truth, flat, labels=true, average="macro"))
    assert values["pixel_accuracy"] == pytest.approx((flat_truth == flat).mean())


def test_standard_error_is_the_spread_over_fresh_test_sets():
    def draw(seed):
        random = np.random.default_rng(seed)
        truth = random.integers(0, 2, (60, 4, 4))
        found = np.where(random.random((60, 1, 1)) < random.random((60, 4, 4)), truth, 1 - truth)
        return np.stack([count_overlaps(f, t, 2) for f, t in zip(found, truth, strict=True)])

    spread = np.std([overlap_metrics(draw(seed), 0)["miou"].value for seed in range(80)], ddof=1)
    errors = [overlap_metrics(draw(seed), 0)["miou"].standard_error for seed in range(5)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.3)
    assert overlap_metrics(draw(0)[:1], 0)["miou"].standard_error is None


def test_the_later_instance_is_in_front():
    masks = np.zeros((2, 4, 6), np.uint8)
    masks[0, :, :4], masks[1, 1:3, 2:5] = 1, 1
    row = {"key": "k", "height": 4, "width": 6, "box_labels": [4, 2]}
    row["masks"] = [one["counts"] for one in encode_masks(masks)]
    whole = [[5, 5, 5, 5, 0, 0], [5, 5, 3, 3, 3, 0], [5, 5, 3, 3, 3, 0], [5, 5, 5, 5, 0, 0]]
    assert class_map(row, "t", background=True).tolist() == whole
    assert class_map(row, "t", background=False).tolist() == [[value - 1 for value in line] for line in whole]
    for broken in ({"width": 5}, {"masks": ["x~", "y"]}, {"masks": [None, None]}):
        with pytest.raises(UserError, match=r"tasks\.s: mask 0 of image 'k' is no run-length code of \dx4 pixels"):
            class_map(row | broken, "tasks.s", background=True)


@pytest.mark.parametrize(
    ("subject", "shapes"),
    [
        (encoder(64, 8, depth=4), [(32, 32), (32, 16), (32, 8), (32, 4)]),
        (encoder(64, 8, depth=2), [(32, 32), (32, 16), (32, 8), (32, 4)]),
        (swin(), [(16, 16), (32, 8), (64, 4), (128, 2)]),
    ],
)
def test_levels_halve_and_every_weight_of_the_head_learns(subject, shapes):
    levels = Levels(subject, "float32")
    maps = levels(torch.randn(2, 3, 64, 64))
    assert [(part.shape[1], part.shape[2]) for part in maps] == shapes
    model = UPerNet(levels, 24, 5).train()
    segmentation_loss(model(torch.randn(2, 3, 64, 64)), torch.zeros(2, 64, 64, dtype=torch.int64), IGNORED).backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without <= {"levels.encoder.norm.weight", "levels.encoder.norm.bias"}


def test_a_vit_of_twelve_blocks_is_read_where_openmmlab_reads_it():
    assert Levels(encoder(16, 4, depth=12), "float32").blocks == [3, 5, 7, 11]


def test_the_loss_is_cross_entropy_of_both_heads_over_all_pixels():
    truth = torch.tensor([[[0, 1], [IGNORED, 1]]])
    main, side = torch.randn(1, 2, 2, 2), torch.randn(1, 2, 2, 2)
    total = 0.0
    for scores, weight in ((main, 1.0), (side, 0.4)):
        chance = scores.softmax(1)[0]
        total -= weight * sum(chance[k, y, x].log() for k, y, x in ((0, 0, 0), (1, 0, 1), (1, 1, 1))) / 4
    torch.testing.assert_close(segmentation_loss((main, side), truth, IGNORED), total)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.booleans())
def test_classes_follow_their_pixels_through_the_crop(seed, mirror):
    """Images whose colour is their class: after resizing, cropping and mirroring it is so still."""
    random = np.random.default_rng(seed)
    height, width = (int(v) for v in random.integers(20, 90, 2))
    mask = np.zeros((1, height, width), np.uint8)
    top, left = int(random.integers(0, height - 8)), int(random.integers(0, width - 8))
    mask[0, top:, left:] = 1
    image = np.repeat(mask * 255, 3, 0)
    counts = [[one["counts"] for one in encode_masks(mask)]]
    columns = {"masks": pa.array(counts), "box_labels": pa.array([[0]], pa.list_(pa.int32()))}
    surfaces = Surfaces(FakeImages([image], columns), 32, "t", True, 1)
    draws = torch.from_numpy(random.random(DRAWS)).float()
    pixels, classes = surfaces.training(0, draws, (0.5, 2.0), 0.75, mirror, False, (0.0, 0.0, 0.0))
    assert pixels.shape == (3, 32, 32)
    inside = classes != IGNORED
    wrong = ((pixels[0] > 127) != (classes == 1)) & inside
    # Only along an edge: bilinear and nearest pixels may differ there.
    edge = nn.functional.max_pool2d((classes == 1).float()[None, None], 3, 1, 1)[0, 0].bool()
    edge &= nn.functional.max_pool2d((classes != 1).float()[None, None], 3, 1, 1)[0, 0].bool()
    assert not (wrong & ~edge).any()
    assert (pixels[:, ~inside] == 0).all()


def test_a_crop_that_one_class_fills_is_drawn_again():
    mask = np.zeros((1, 32, 96), np.uint8)
    mask[0, :, :16] = 1
    counts = [[one["counts"] for one in encode_masks(mask)]]
    columns = {"masks": pa.array(counts), "box_labels": pa.array([[0]], pa.list_(pa.int32()))}
    surfaces = Surfaces(FakeImages([np.zeros((3, 32, 96), np.uint8)], columns), 32, "t", True, 1)
    draws = torch.full((DRAWS,), 0.9)

    def share(most):
        return float(surfaces.training(0, draws, (1.0, 1.0), most, False, False, (0.0, 0.0, 0.0))[1].float().mean())

    assert share(0.75) == 0  # ten crops at the right: the last is taken
    draws[2 + 2 * 4 + 1] = 0.0  # the fifth begins at the left
    assert share(0.75) == 0.5
    assert share(1.0) == 0


def test_nearest_classes_are_those_of_pillow():
    truth = torch.randint(0, 9, (13, 21), dtype=torch.int16)
    peer = Image.fromarray(truth.numpy().astype(np.uint8)).resize((34, 7), Image.Resampling.NEAREST)
    assert resize_nearest(truth, 7, 34).numpy().astype(np.uint8).tolist() == np.asarray(peer).tolist()


def test_windows_that_overlap_are_averaged():
    """A model of one weight for each place in its window: what is expected is written out by a loop over places."""
    subject = encoder(32, 8)

    class Fake(nn.Module):
        def forward(self, images):
            ramp = torch.arange(32.0).expand(len(images), 2, 32, 32)
            return ramp + images[:, :1] * 0

    config = Config(**(SMALL | {"image_size": 32}))
    scores = slide(Fake(), subject, torch.zeros(3, 32, 75, dtype=torch.uint8), config)
    expected = [np.mean([x - left for left in (0, 21, 42, 43) if left <= x < left + 32]) for x in range(75)]
    np.testing.assert_allclose(scores[0, 5].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("subject", [encoder(64, 8), swin()])
def test_images_that_are_not_square_train_and_test(tmp_path, subject):
    train, test = dense_scenes(8), dense_scenes(3, 100, wide=50)
    found = run(tmp_path, train, test, subject, background=False, jitter=(0.5, 2.0), mirror=True, photometric=True)
    assert set(found) == set(segmentation.METRICS)
    assert all(0 <= value.value <= 1 for value in found.values())
    with Image.open(tmp_path / "segmentation.png") as picture:
        assert picture.height > 3 * 320


def test_it_can_fit_eight_scenes_and_a_rerun_is_equal_bit_for_bit(tmp_path):
    images = dense_scenes(8, image_size=32, parity=True)
    options = {"image_size": 32, "images_seen": 320, "batch_size": 2, "learning_rate": 2e-3}

    def fit(**others):
        data = Data(images, images, box_classes=["even", "odd"])
        config = Config(**(SMALL | options | others))
        return segmentation.evaluate(encoder(32, 4, 64), config, data, context(tmp_path))

    assert fit()["miou"].value > 0.9
    picture = (tmp_path / "segmentation.png").read_bytes()
    assert fit(images_seen=8) == fit(images_seen=8)
    assert picture != (tmp_path / "segmentation.png").read_bytes()


def test_what_cannot_be_is_refused(tmp_path):
    images = dense_scenes(2)
    with pytest.raises(UserError, match=r"tasks\.t\.image_size: 60 is not a multiple of the encoder's stride of 8"):
        run(tmp_path, images, images, image_size=60)
    with pytest.raises(ValidationError, match="must rise from above 0"):
        Config(**(SMALL | {"jitter": (2.0, 1.0)}))
    grey = build(Model(architecture="vit_tiny_patch16_224", image_size=64, patch_size=8, channels=1, depth=2))
    with pytest.raises(UserError, match="three channels; this one has 1"):
        run(tmp_path, images, images, grey)
    empty = FakeImages(
        [np.zeros((3, 64, 64), np.uint8)], box_columns([[]], [[]]) | {"masks": pa.array([[]], pa.list_(pa.string()))}
    )
    with pytest.raises(UserError, match="no image of the pool has a box"):
        run(tmp_path, empty, empty)
