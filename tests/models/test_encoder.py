import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mimcore.artifacts import read_json
from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models.encoding import encode_patches
from mimcore.models.patches import patchify
from mimcore.models.positions import sincos_positions

CONFIG = encoders.Config(
    architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3
)
BARE_TIMM = """
import json, sys, torch, timm
from safetensors.torch import load_file
assert "mimcore" not in sys.modules
folder = sys.argv[1]
model = json.load(open(folder + "/model.json"))
encoder = timm.create_model(model["timm"]["model_name"], **model["timm"]["kwargs"])
encoder.load_state_dict(load_file(folder + "/encoder.safetensors"), strict=True)
images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
torch.save(encoder.eval().forward_features(images), folder + "/features.pt")
"""


def test_export_loads_into_bare_timm(tmp_path: Path) -> None:
    encoder = encoders.build(CONFIG)
    encoders.save(encoder, tmp_path, {})
    subprocess.run([sys.executable, "-I", "-c", BARE_TIMM, str(tmp_path)], check=True, cwd=tmp_path)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = torch.load(tmp_path / "features.pt", weights_only=True)
    assert torch.equal(features, encoder.module.eval().forward_features(images))


def test_save_and_load_give_the_same_weights(tmp_path: Path) -> None:
    encoder = encoders.build(CONFIG)
    encoders.save(encoder, tmp_path, {"seed": "s0"})
    loaded = encoders.load(tmp_path)
    assert loaded.image_size == 32
    assert loaded.patch_size == 8
    for name, tensor in encoder.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "broken", "absent"])
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, fault: str) -> None:
    encoders.save(encoders.build(CONFIG), tmp_path, {})
    file = tmp_path / "encoder.safetensors"
    state = load_file(file)
    if fault == "missing":
        del state["norm.weight"]
    elif fault == "extra":
        state["other"] = torch.zeros(1)
    elif fault == "shape":
        state["norm.weight"] = torch.zeros(25)
    save_file(state, file)
    if fault == "broken":
        file.write_bytes(file.read_bytes()[:100])
    elif fault == "absent":
        file.unlink()
    with pytest.raises(UserError, match=r"encoder\.safetensors"):
        encoders.load(tmp_path)


def test_patches_of_all_positions_equal_timm() -> None:
    encoder = encoders.build(CONFIG)
    images = torch.randn(2, 3, 32, 32)
    everything = torch.arange(16).expand(2, -1)
    ours = encode_patches(encoder.module, patchify(images, 8), everything)
    torch.testing.assert_close(ours, encoder.module.forward_features(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224"])
def test_other_vits_of_timm(name: str) -> None:
    """Registers, a norm before the blocks, positions without the prefix: all through one door."""
    config = encoders.Config(architecture=name, image_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3)
    encoder = encoders.build(config)
    images = torch.randn(2, 3, 32, 32)
    ours = encode_patches(encoder.module, patchify(images, 8), torch.arange(16).expand(2, -1))
    torch.testing.assert_close(ours, encoder.module.forward_features(images), rtol=1e-4, atol=1e-5)


def test_patchify_has_an_inverse() -> None:
    images = torch.randn(2, 3, 16, 24)
    patches = patchify(images, 4)
    assert patches.shape == (2, 24, 48)
    assert torch.equal(patchify(patches, 4, inverse=(16, 24)), images)
    # The second patch of the first row: rows 0-3, columns 4-7, channels last.
    assert torch.equal(patches[0, 1].view(4, 4, 3), images[0, :, :4, 4:8].permute(1, 2, 0))


def test_positions_tell_all_places_apart() -> None:
    positions = sincos_positions(16, (5, 7), prefix=1)[0]
    assert torch.equal(positions[0], torch.zeros(16))
    distances = torch.cdist(positions[1:], positions[1:]) + 9 * torch.eye(35)
    assert distances.min() > 0.05


def test_fresh_keeps_weights_and_resamples_positions() -> None:
    encoder = encoders.build(CONFIG)
    larger = encoder.fresh(img_size=48, drop_path_rate=0.1, num_classes=7)
    assert larger.module.pos_embed.shape == (1, 1 + 36, 24)
    assert torch.equal(larger.module.blocks[1].mlp.fc1.weight, encoder.module.blocks[1].mlp.fc1.weight)
    assert larger.module(torch.zeros(1, 3, 48, 48)).shape == (1, 7)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="patch_size 7 does not divide image_size 32"):
        encoders.Config(image_size=32, patch_size=7)
    with pytest.raises(UserError, match="did you mean 'vit_tiny_patch16_224'"):
        encoders.build(encoders.Config(architecture="vit_tinny_patch16_224"))


def test_model_json_needs_nothing_of_ours(tmp_path: Path) -> None:
    encoders.save(encoders.build(CONFIG), tmp_path, {"seed": "s0"})
    assert read_json(tmp_path / "model.json")["timm"] == {
        "model_name": "vit_tiny_patch16_224",
        "kwargs": {"img_size": 32, "patch_size": 8, "num_classes": 0, "embed_dim": 24, "depth": 2, "num_heads": 3},
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_are_no_squares(tmp_path: Path, channels: int) -> None:
    config = CONFIG.model_copy(update={"image_size": (16, 48), "channels": channels})
    encoder = encoders.build(config)
    assert encoder.module.patch_embed.grid_size == (2, 6)
    images = torch.randint(0, 256, (3, channels, 16, 48), dtype=torch.uint8)
    features = encoder.module.eval().forward_features(encoder.normalize(images))
    assert features.shape == (3, 1 + 12, 24)
    # Positions tell the rows from the columns: patch (1, 5) is the last.
    assert torch.equal(encoder.module.pos_embed[:, 1:], sincos_positions(24, (2, 6), 0))
    patches = patchify(images.float(), 8)
    assert torch.equal(patchify(patches, 8, inverse=(16, 48)), images.float())
    corner = images[0, :, 8:16, 40:48].permute(1, 2, 0).reshape(-1)
    assert torch.equal(patches[0, 11], corner.float())
    encoders.save(encoder, tmp_path, {})
    loaded = encoders.load(tmp_path)
    assert torch.equal(loaded.module.eval().forward_features(loaded.normalize(images)), features)
    assert (loaded.image_size, loaded.channels) == ((16, 48), channels)
    grown = loaded.fresh(img_size=(32, 64))
    assert grown.module.pos_embed.shape == (1, 1 + 4 * 8, 24)
    assert grown.image_size == (32, 64)


def test_every_token_of_a_part_is_that_of_the_whole_in_images_that_are_no_squares() -> None:
    encoder = encoders.build(CONFIG.model_copy(update={"image_size": (16, 32), "channels": 1}))
    images = torch.randn(2, 1, 16, 32)
    every = torch.arange(8).expand(2, -1)
    whole = encoder.module.forward_features(images)
    torch.testing.assert_close(encode_patches(encoder.module, patchify(images, 8), every), whole)


def test_a_square_definition_is_recorded_as_before(tmp_path: Path) -> None:
    encoders.save(encoders.build(CONFIG), tmp_path, {})
    model = read_json(tmp_path / "model.json")
    assert model["image_size"] == 32
    assert "in_chans" not in model["timm"]["kwargs"]
    assert model["mean"] == list(encoders.IMAGENET_MEAN)


@pytest.mark.parametrize("wrong", [{"image_size": (16, 36)}, {"image_size": (16,)}, {"image_size": 4}, {"channels": 4}])
def test_impossible_inputs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"image_size|channels"):
        encoders.Config.model_validate(CONFIG.model_dump() | wrong)
