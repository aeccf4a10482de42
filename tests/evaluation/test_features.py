import numpy as np
import pytest
import torch
from fakes import context, digit_data, digits, encoder, frozen

from mimcore import artifacts
from mimcore.errors import UserError
from mimcore.evaluation import frozen as disk
from mimcore.evaluation.features import FeaturesConfig, Pixels, ahead, extract
from mimcore.models.encoder import Config, build


def features(subject, images, folder, workers=1, **options):
    batches = list(extract(subject, images, FeaturesConfig(pool="x", **options), context(folder, workers=workers)))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def tokens(subject, images):
    with torch.no_grad():
        pixels = torch.from_numpy(images.get(np.arange(len(images))))
        return subject.module.eval().forward_features(subject.normalize(pixels))


def test_mean_features_are_timms_average_pooling_and_cls_the_first_token(tmp_path):
    subject, images = encoder(), digits(0, 10)
    found = features(subject, images, tmp_path, batch_size=4)
    expected = tokens(subject, images)
    torch.testing.assert_close(found["mean"], subject.module.pool(expected, pool_type="avg"))
    torch.testing.assert_close(found["cls"], expected[:, 0])


def test_an_encoder_without_a_class_token_has_none_and_a_probe_says_so(tmp_path):
    swin = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    subject = build(Config(architecture="swinv2_base_window12_192", image_size=32, **swin))
    found = frozen(subject, digit_data(3, 2, 32), tmp_path)
    assert set(found.train.arrays) == {"mean"}
    with pytest.raises(UserError, match=r"tasks\.t\.pooling: the encoder has no class token; use 'mean'"):
        found.pooled("cls", torch.device("cpu"), "tasks.t")


def test_features_that_are_not_finite_are_refused(tmp_path):
    found = frozen(Pixels(16), digit_data(3, 2), tmp_path)
    found.test.arrays["pixels"][1, 5] = np.nan
    with pytest.raises(UserError, match="not finite"):
        found.pooled("mean", torch.device("cpu"), "tasks.t")


def test_bfloat16_features_are_close(tmp_path):
    parts = [features(encoder(), digits(0, 8), tmp_path, precision=p)["mean"] for p in ("float32", "bfloat16")]
    assert parts[1].dtype == torch.float32
    torch.testing.assert_close(parts[0], parts[1], atol=0.05, rtol=0.05)


def test_workers_change_nothing(tmp_path):
    parts = [features(encoder(), digits(0, 20), tmp_path, workers=w, batch_size=3)["mean"] for w in (0, 2)]
    assert torch.equal(*parts)


@pytest.mark.parametrize(("side", "numbers"), [(16, 768), (64, 3072)])
def test_pixels_are_at_most_32_wide(tmp_path, side, numbers):
    assert features(Pixels(side), digits(0, 2, side), tmp_path)["pixels"].shape == (2, numbers)


def test_what_is_written_is_what_is_read(tmp_path):
    subject, data = encoder(), digit_data(9, 5)
    expected = frozen(subject, data, tmp_path)
    arrays = {}
    for part, images in (("train", data.train), ("test", data.test)):
        batches = extract(subject, images, FeaturesConfig(pool="x", batch_size=4), context(tmp_path))
        arrays |= disk.write_arrays(tmp_path, f"run-{part}", len(images), batches)
    card = {"classes": data.classes, "box_classes": None, "arrays": arrays}
    disk.write_rows(tmp_path, {"train": data.train.rows, "test": data.test.rows}, card)
    found = disk.read(tmp_path, "run")
    assert set(artifacts.read_json(tmp_path / "card.json")["arrays"]) == {
        f"run-{part}-{name}.npy" for part in ("train", "test") for name in ("mean", "cls")
    }
    for mine, theirs in ((found.train, expected.train), (found.test, expected.test)):
        assert set(mine.arrays) == {"mean", "cls"}
        # Batches of another number of images are other sums in float32.
        assert all(np.allclose(mine.arrays[name], theirs.arrays[name], atol=1e-5) for name in mine.arrays)
        assert mine.rows["label"].to_pylist() == theirs.rows["label"].to_pylist()
        assert mine.rows.column_names == ["key", "label"]
    assert found.classes == data.classes


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_ahead_keeps_the_order_and_raises_where_it_happens(workers):
    assert list(ahead(lambda x: x * x, range(20), workers)) == [x * x for x in range(20)]
    values = ahead(lambda x: 6 // (3 - x), range(9), workers)
    assert [next(values) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(values)
