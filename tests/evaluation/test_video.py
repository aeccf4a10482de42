import io
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from fakes import FakeImages, context, encoder
from pydantic import ValidationError
from test_segmentation import swin

from mimcore.data.clips import animate
from mimcore.data.formats._motion import DIRECTIONS, MotionRenderer
from mimcore.errors import UserError
from mimcore.evaluation import video
from mimcore.evaluation.dense.clips import Clips, frame_numbers
from mimcore.evaluation.heads.video import Tubelets, inflate
from mimcore.evaluation.task import Data
from mimcore.evaluation.video import Config

SMALL = {
    "pool": "x", "frames": 4, "stride": 2, "images_seen": 32, "batch_size": 8, "base_learning_rate": 1e-3, "layer_decay": 1.0,
    "drop_path_rate": 0.0, "mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0, "rand_augment_policy": None, "random_erasing": 0.0,
    "crop_scale": (1.0, 1.0), "mirror": False, "test_clips": 1, "test_crops": 1,
}  # fmt: skip


class FakeClips(FakeImages):
    """Encoded clips in memory."""

    def __init__(self, encoded, columns):
        super().__init__([np.zeros((3, 8, 8), np.uint8)] * len(encoded), columns)
        self.bytes = encoded

    def encoded(self, positions):
        for position in positions.tolist():
            yield position, self.bytes[position]

    def explained(self, position):
        return nullcontext()


def moving(count, first=0, frames=8, split="train"):
    scenes = [MotionRenderer(32, 0, split, frames).scene(number) for number in range(first, first + count)]
    columns = {name: [truth[name] for _, truth in scenes] for name in ("label", "frames")}
    return FakeClips([data for data, _ in scenes], columns)


def run(folder, train, test, subject=None, **options):
    data = Data(train, test, classes=list(DIRECTIONS))
    return video.evaluate(subject or encoder(32, 8), Config(**(SMALL | options)), data, context(folder))


def test_defaults_are_videomaes_for_kinetics():
    """Tong et al. 2022, appendix, section 7, the table of fine-tuning, ViT-B; the policy and the least rate of the released code
    (github.com/MCG-NJU/VideoMAE at 14ef8d8, run_class_finetuning.py:91 and 407)."""
    found = Config(pool="x", images_seen=512)
    assert (found.batch_size, found.min_learning_rate, round(75 * found.warmup_fraction)) == (512, 1e-6 * 512 / 256, 5)
    assert found.rand_augment_policy == "rand-m7-n4-mstd0.5-inc1"
    assert (found.frames, found.stride, found.tubelet, found.test_clips, found.test_crops) == (16, 4, 2, 5, 3)
    assert (found.base_learning_rate, found.weight_decay, found.layer_decay, found.drop_path_rate) == (
        1e-3,
        0.05,
        0.75,
        0.1,
    )
    assert (found.mixup, found.cutmix, found.label_smoothing, found.random_erasing) == (0.8, 1.0, 0.1, 0.25)
    assert (found.encoded, found.views) == (8, 15)


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [((10, 4, 2, 0.0), [0, 2, 4, 6]), ((10, 4, 2, 1.0), [3, 5, 7, 9]), ((7, 4, 2, 0.5), [0, 2, 4, 6]),
     ((4, 4, 2, 0.7), [0, 1, 2, 3]), ((2, 4, 2, 0.0), [0, 0, 1, 1]), ((1, 3, 1, 0.0), [0, 0, 0])],
)  # fmt: skip
def test_frames_are_a_stride_apart_and_short_clips_are_taken_whole(asked, numbers):
    assert frame_numbers(*asked).tolist() == numbers


def test_views_are_spread_in_time_and_along_the_longer_side():
    frames = [np.full((16, 40, 3), 20 * time, np.uint8) for time in range(9)]
    for frame in frames:
        frame[:, :, 1] = np.arange(40) * 6
    clips = Clips(FakeClips([animate(frames)], {"frames": [9]}), (16, 16), 3, 2)
    views = clips.testing(0, 3, 3)
    assert views.shape == (9, 3, 3, 16, 16)
    assert views[:, :, 0, 0, 0].tolist() == [[at, at + 40, at + 80] for at in (0, 40, 80) for _ in range(3)]
    assert views[:3, 0, 1, 0, 0].tolist() == [0, 72, 144]
    sample = clips.training(0, 5, "s", (0.2, 0.6), True)
    assert sample.shape == (3, 3, 16, 16)
    assert sample.equal(clips.training(0, 5, "s", (0.2, 0.6), True))
    assert not sample.equal(clips.training(0, 6, "s", (0.2, 0.6), True))
    assert sample[0, 1].equal(sample[2, 1])  # the same crop in all frames


def test_an_mp4_is_viewed_as_its_frames():
    av = pytest.importorskip("av", reason="needs PyAV, the extra 'video'")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for time in range(9):
            picture = np.full((32, 48, 3), 25 * time, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    views = Clips(FakeClips([file.getvalue()], {"frames": [9]}), (16, 16), 3, 2).testing(0, 3, 1)
    assert views.shape == (3, 3, 3, 16, 16)
    expected = torch.tensor([[start + 50 * k for k in range(3)] for start in (0, 50, 100)], dtype=torch.float)
    assert (views.float().mean((2, 3, 4)) - expected).abs().max() < 8


def test_a_clip_that_stands_still_is_embedded_as_its_frame():
    subject = encoder(32, 8)
    image = torch.randn(2, 3, 32, 32)
    tubelets = Tubelets(subject.module.patch_embed, 2)
    found = tubelets(image[:, None].expand(-1, 4, -1, -1, -1))
    with torch.no_grad():
        expected = subject.module.patch_embed(image)
    torch.testing.assert_close(found[:, :16], expected)
    torch.testing.assert_close(found[:, 16:], expected)


def test_positions_are_on_average_the_image_encoders():
    subject = encoder(32, 8)
    before = subject.module.pos_embed.detach().clone()
    inflate(subject, 8, 2)
    table = subject.module.pos_embed[:, 1:].unflatten(1, (4, 16))
    torch.testing.assert_close(table.mean(1), before[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        table[:, :, 3] - table[:, :, 3].mean(1, True), table[:, :, 9] - table[:, :, 9].mean(1, True)
    )
    assert subject.module.pos_embed[:, :1].equal(before[:, :1])
    assert subject.module(torch.randn(2, 8, 3, 32, 32)).shape == (2, 32)


@pytest.mark.parametrize("options", [{}, {"fusion": "factorised"}])
def test_every_augmentation_trains_and_a_rerun_is_equal_bit_for_bit(tmp_path, options):
    options |= {"mixup": 0.8, "cutmix": 1.0, "rand_augment_policy": "rand-m7-n4-mstd0.5-inc1", "random_erasing": 0.5}
    options |= {"crop_scale": (0.3, 1.0), "mirror": True, "test_clips": 2, "test_crops": 3}
    train, test = moving(10), moving(6, split="val")
    first = run(tmp_path, train, test, **options)
    assert 0 <= first["top1"].value <= 1
    assert run(tmp_path, train, test, **options) == first


def test_any_encoder_reads_frames_one_by_one(tmp_path):
    train, test = moving(8), moving(4, split="val")
    assert 0 <= run(tmp_path, train, test, swin(), fusion="factorised")["top1"].value <= 1
    with pytest.raises(UserError, match=r"tasks\.t\.fusion: 'tubelets' needs a plain ViT, and this encoder is swinv2"):
        run(tmp_path, train, test, swin())


def test_it_learns_the_direction_that_one_frame_does_not_tell(tmp_path):
    options = {
        "images_seen": 6400,
        "batch_size": 32,
        "base_learning_rate": 2e-2,
        "frames": 4,
        "stride": 1,
        "tubelet": 2,
    }
    train, test = moving(600, frames=4), moving(150, frames=4, split="val")
    subject = encoder(32, 8, 64)
    together = run(tmp_path, train, test, subject, **options)["top1"].value
    single = run(tmp_path, train, test, subject, **options | {"frames": 1, "tubelet": 1, "images_seen": 1600})[
        "top1"
    ].value
    assert single < 0.22 < 0.33 < together  # of eight classes


def test_what_cannot_be_is_refused(tmp_path):
    for options, message in [
        ({"frames": 5}, "tubelet 2 does not divide frames 5"),
        ({"mixup": 0.5, "batch_size": 7, "images_seen": 7}, "must be even"),
        ({"crop_scale": (0.5, 0.2)}, "must rise"),
        ({"test_crops": 2}, "1 or 3"),
    ]:
        with pytest.raises(ValidationError, match=message):
            Config(**(SMALL | options))
