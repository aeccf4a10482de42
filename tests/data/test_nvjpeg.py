"""Crops that the device decodes: the boxes of the other way, pixels near to its own, and what falls back on the CPU."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from mimcore.data import nvjpeg, processes
from mimcore.data.loader import Batches, Images
from mimcore.data.splits import read_split
from mimcore.data.views import RandomCrops
from mimcore.errors import UserError
from mimcore.training.schedule import Schedule

SCALE, RATIO, SIDE = (0.2, 1.0), (3 / 4, 4 / 3), 160
CPU = torch.device("cpu")


def encoded(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92, **how)
    return file.getvalue()


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory, write_tar: Callable[..., None], indexed: Callable[..., dict[str, Any]]
) -> Path:
    """Photographs, and in every kind that the device is not asked for."""
    from sklearn.datasets import load_sample_images

    root = tmp_path_factory.mktemp("nvjpeg")
    members = {}
    for number in range(12):
        photo = Image.fromarray(load_sample_images().images[number % 2]).crop((20 * number, 0, 20 * number + 400, 300))
        members[f"{number:02d}.jpg"] = encoded(photo, progressive=number % 3 == 0)
    turned = Image.Exif()
    turned[0x0112] = 6
    members["20.jpg"] = encoded(photo, exif=turned)
    members["21.jpg"] = encoded(photo.convert("CMYK"))
    members["22.jpg"] = encoded(photo.convert("L"))
    file = io.BytesIO()
    photo.save(file, "PNG")
    members["23.png"] = file.getvalue()
    write_tar(root / "tars/0.tar", members)
    indexed(root, "photographs", options())
    return root


def options() -> dict[str, Any]:
    return {"format": "tar", "path": "tars", "val_images": 1}


def table(root: Path, channels: int = 3, side: int = SIDE) -> Images:
    return Images(options(), read_split(root / "artifacts/index/photographs", "train"), side, root, 0, channels)


def batches(kind: type[RandomCrops], images: Images, workers: int = 0) -> Batches:
    return Batches(images, 10, "s0", workers, kind("s0/crops", SCALE, RATIO), repeats=2)


def by_device(images: Images, device: torch.device, steps: int = 3) -> torch.Tensor:
    made = batches(nvjpeg.EncodedCrops, images).stream(0, steps)
    return torch.cat(list(nvjpeg.decoded(made, images.shape, images.channels, device))).cpu()


def by_turbo(images: Images, steps: int = 3) -> torch.Tensor:
    return torch.cat([torch.from_numpy(batch) for batch in batches(RandomCrops, images).stream(0, steps)])


def differences(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The mean difference of each image, in steps of eight bits."""
    return (one.float() - other.float()).abs().flatten(1).mean(dim=1)


@pytest.mark.parametrize("channels", [3, 1])
def test_crops_are_those_of_the_cpu_decoder(root: Path, channels: int) -> None:
    images = table(root, channels)
    found, wanted = by_device(images, CPU), by_turbo(images)
    assert found.dtype == torch.uint8
    assert found.shape == wanted.shape == (30, channels, SIDE, SIDE)
    # The same boxes. Where libjpeg-turbo halves, its filter is another one, and edges move by half a pixel.
    assert differences(found, wanted).max() < 8
    assert differences(found, wanted).median() < 1
    assert differences(found, wanted.roll(1, 0)).min() > 8


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for rounding: with eight bits the CPU also cuts off what overshoots between its two passes."""
    apart = (one.int() - other.int()).abs()
    return float(apart.float().mean()) < 0.5 and float((apart > 2).float().mean()) < 0.001


def test_at_full_size_they_differ_by_rounding_alone(root: Path) -> None:
    images = table(root, side=300)  # no crop is more than twice as large: nothing is halved
    assert near(by_device(images, CPU), by_turbo(images))


def test_what_the_device_is_not_asked_for_is_cropped_by_a_worker_and_equal(root: Path) -> None:
    images = table(root)
    keys = images.rows["key"].to_pylist()
    odd = {place for place, key in enumerate(keys) if key.startswith(("20", "21", "23"))}
    assert len(odd) >= 2
    shown = np.concatenate([batches(RandomCrops, images).positions(step) for step in range(3)])
    equal = (differences(by_device(images, CPU), by_turbo(images)) == 0).tolist()
    assert all(same for same, position in zip(equal, shown, strict=True) if position in odd)
    assert not all(equal)


def test_an_image_on_which_the_device_fails_is_decoded_on_the_cpu(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = table(root, side=300)
    wanted, whole = by_device(images, CPU), nvjpeg._operator

    def failing(data: list[torch.Tensor], *how: Any) -> list[torch.Tensor]:
        if any(len(one) % 2 for one in data):
            raise RuntimeError("an image is not supported")
        return whole(data, *how)

    monkeypatch.setattr(nvjpeg, "_operator", failing)
    assert near(by_device(images, CPU), wanted)


def test_processes_hand_over_the_same(root: Path) -> None:
    images = table(root)
    apart = processes.stream(batches(nvjpeg.EncodedCrops, images, workers=1), 0, 3)
    assert torch.equal(torch.cat(list(nvjpeg.decoded(apart, images.shape, 3, CPU))), by_device(images, CPU))


def test_an_image_that_nobody_can_decode_is_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = table(root)
    monkeypatch.setattr(nvjpeg, "_is_plain", lambda data: True)  # a PNG reaches the device; the CPU has the last word
    by_device(images, CPU)
    monkeypatch.setattr(nvjpeg, "crops_of", _refusing)
    with pytest.raises(UserError, match="neither by nvJPEG nor on the CPU"):
        by_device(images, CPU)


def _refusing(*_: Any, **__: Any) -> None:
    raise nvjpeg.DecodeError("cut short")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="nvJPEG needs a CUDA GPU")
@pytest.mark.parametrize("channels", [3, 1])
def test_nvjpeg_is_near_to_libjpeg(root: Path, channels: int) -> None:
    images = table(root, channels, 300)
    found = by_device(images, torch.device("cuda"))
    assert differences(found, by_turbo(images)).max() < 3  # colour is upsampled by another filter


def test_without_a_gpu_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"nvjpeg.*GPU.*turbo"):
        nvjpeg.refuse_without_gpu(CPU)


def test_it_goes_with_crops_of_whole_images_only() -> None:
    lengths = {"images_seen": 64, "batch_size": 16, "warmup_images": 16, "validations": 1}
    assert Schedule(**lengths, crop_from="image", jpeg_decoder="nvjpeg").jpeg_decoder == "nvjpeg"
    with pytest.raises(ValidationError, match="set crop_from: image"):
        Schedule(**lengths, jpeg_decoder="nvjpeg")
