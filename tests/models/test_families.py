"""Encoders that are no plain ViT: timm's own outputs, transfer to other sizes, and learning rates by layer."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import param_groups_layer_decay

from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models import families

SWIN: dict[str, Any] = {
    "image_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
}
BEIT: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
MODELS: dict[str, dict[str, Any]] = {
    "swinv2": {"architecture": "swinv2_base_window12_192", **SWIN},
    "swin": {"architecture": "swin_base_patch4_window7_224", **SWIN},
    "beit_shared": {
        "architecture": "beit_base_patch16_224",
        "positions": "relative_shared",
        "init_values": 0.1,
        **BEIT,
    },
    "beit": {"architecture": "beit_base_patch16_224", **BEIT},
    "vit": {"architecture": "vit_tiny_patch16_224", "positions": "learned", **BEIT},
}
BARE_TIMM = """
import json, sys, torch, timm
from safetensors.torch import load_file
folder = sys.argv[1]
model = json.load(open(folder + "/model.json"))
encoder = timm.create_model(model["timm"]["model_name"], **model["timm"]["kwargs"])
encoder.load_state_dict(load_file(folder + "/encoder.safetensors"), strict=True)
assert not any(name.startswith("mimcore") for name in sys.modules)
images = torch.randn(2, 3, *encoder.patch_embed.img_size, generator=torch.Generator().manual_seed(0))
torch.save(encoder.eval().forward_features(images), folder + "/features.pt")
"""


def build(name: str, **options: Any) -> encoders.Encoder:
    encoder = encoders.build(encoders.Config(**MODELS[name] | options))
    for parameter in encoder.module.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    encoder.module.eval()
    return encoder


@pytest.mark.parametrize("name", ["swinv2", "swin", "beit_shared"])
def test_export_loads_into_bare_timm(tmp_path: Path, name: str) -> None:
    encoder = build(name)
    encoders.save(encoder, tmp_path, {})
    subprocess.run([sys.executable, "-I", "-c", BARE_TIMM, str(tmp_path)], check=True, cwd=tmp_path)
    side = int(MODELS[name]["image_size"])
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.load(tmp_path / "features.pt", weights_only=True), encoder.module.forward_features(images))
    loaded = encoders.load(tmp_path)
    assert torch.equal(loaded.module.eval().forward_features(images), encoder.module.forward_features(images))


@pytest.mark.parametrize("name", ["swinv2", "swin"])
def test_pooled_tokens_are_what_timm_pools(name: str) -> None:
    """timm's own forward pass without a classifier ends in the mean over places."""
    module = build(name).module
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(families.patch_tokens(module, images).mean(1), module(images))


@pytest.mark.parametrize("name", [*MODELS])
@pytest.mark.parametrize("size", [32, (64, 96)])
def test_the_map_has_tokens_in_their_places(name: str, size: Any) -> None:
    """timm's intermediate features are a map already."""
    encoder = build(name, image_size=size)
    images = torch.randn(2, 3, *encoders.sides(size))
    expected = encoder.module.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]
    found = families.patch_map(encoder.module, images)
    assert found.shape[1:] == (encoder.module.num_features, *(side // encoder.stride for side in encoders.sides(size)))
    torch.testing.assert_close(found, expected)
    assert families.has_class_token(encoder.module) == (encoder.stride == 8)


@pytest.mark.parametrize("name", [*MODELS])
def test_a_copy_has_the_weights_and_takes_other_sizes(name: str) -> None:
    encoder = build(name)
    images = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    same = encoder.fresh(drop_path_rate=0.2, num_classes=7)
    features = encoder.module.forward_features(images)
    assert torch.equal(same.module.eval().forward_features(images), features)
    assert same.module(images).shape == (2, 7)
    larger = encoder.fresh(img_size=(128, 96), num_classes=5, global_pool="avg")
    assert families.head_weight(larger.module).shape == (5, larger.module.num_features)
    assert larger.module.eval()(torch.randn(2, 3, 128, 96)).shape == (2, 5)
    blocks = {name: tensor for name, tensor in encoder.module.state_dict().items() if ".mlp." in name}
    assert blocks
    assert all(torch.equal(larger.module.state_dict()[key], tensor) for key, tensor in blocks.items())


@pytest.mark.parametrize("name", ["swin", "beit_shared", "beit"])
def test_a_table_of_relative_positions_grows_around_its_middle(name: str) -> None:
    """A token's bias towards itself stays, and what a distance has changes little from one to the next."""
    encoder = build(name)
    larger = encoder.fresh(img_size=128)

    def table(module: Any) -> torch.Tensor:
        if name == "swin":
            return module.layers[3].blocks[0].attn.relative_position_bias_table
        return (module.rel_pos_bias or module.blocks[0].attn).relative_position_bias_table[:-3]

    before, after = (3, 7) if name == "swin" else (7, 31)  # twice the side of the window, less one
    small, large = (table(part.module).unflatten(0, (-1, side)) for part, side in ((encoder, before), (larger, after)))
    middle, far = (part.shape[0] // 2 for part in (small, large))
    torch.testing.assert_close(large[far, far], small[middle, middle])
    assert large.min() > small.min() - 0.5 * small.abs().max()
    assert large.max() < small.max() + 0.5 * small.abs().max()


def test_a_larger_swin2_knows_the_windows_of_its_pretraining() -> None:
    """Stages of 16, 8, 4 and 2 tokens have windows of 4, 4, 4 and 2; at twice the size the last one's grows, on their scale."""
    larger = build("swinv2").fresh(img_size=128)
    assert larger.kwargs["pretrained_window_sizes"] == [(4, 4), (4, 4), (4, 4), (2, 2)]
    attention = larger.module.layers[3].blocks[0].attn
    assert attention.window_size == (4, 4)
    # 8 * distance / (pretrained window - 1), on a logarithmic scale to the base 8 (Liu et al. 2022, section 3.3).
    farthest = torch.tensor(8.0 * 3 / 1).add(1).log2() / 3
    assert attention.relative_coords_table.max().item() == pytest.approx(farthest.item(), rel=1e-5)


@pytest.mark.parametrize(("name", "layers"), [("swinv2", 5), ("swin", 5), ("beit_shared", 2)])
def test_learning_rates_fall_block_by_block(name: str, layers: int) -> None:
    """SimMIM's rule: the blocks are counted through all stages, the patch embedding lies below the first."""
    module = build(name).fresh(num_classes=3, global_pool="avg").module
    scales = {}
    groups = param_groups_layer_decay(module, layer_decay=0.5, no_weight_decay_list=module.no_weight_decay())
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for group in groups:
        scales |= {names[id(parameter)]: group["lr_scale"] for parameter in group["params"]}
    assert len(scales) == len(names)
    first = "blocks.0.mlp.fc1.weight" if name.startswith("beit") else "layers.0.blocks.0.mlp.fc1.weight"
    last = f"blocks.{layers - 1}.mlp.fc1.weight" if name.startswith("beit") else "layers.3.blocks.0.mlp.fc1.weight"
    assert scales[first] / scales[last] == pytest.approx(0.5 ** (layers - 1))
    assert scales["patch_embed.proj.weight"] == pytest.approx(scales[first] / 2)


def test_a_beit_starts_as_in_simmims_released_code() -> None:
    """Its models/simmim.py:66-67 cuts every weight at one deviation; its models/vision_transformer.py:273-279 scales by depth."""
    torch.manual_seed(0)
    module = encoders.build(encoders.Config(**MODELS["beit_shared"] | {"embed_dim": 96, "num_heads": 3})).module
    deviation = 0.02 * 0.5396  # of a normal distribution that is cut at one of its own on both sides
    for weight, scale in (
        (module.patch_embed.proj.weight, 1.0),
        (module.blocks[1].mlp.fc1.weight, 1.0),
        (module.blocks[1].attn.proj.weight, 4**-0.5),
        (module.blocks[0].mlp.fc2.weight, 2**-0.5),
    ):
        assert weight.abs().max() <= 0.02 * scale
        assert weight.std().item() == pytest.approx(deviation * scale, rel=0.03)
    assert module.cls_token.abs().max() <= 0.02
    assert not module.patch_embed.proj.bias.any()
    torch.testing.assert_close(module.blocks[0].gamma_1.detach(), torch.full((96,), 0.1))


def test_defaults_of_a_swin() -> None:
    config = encoders.Config(architecture="swinv2_base_window12_192", image_size=192)
    assert (config.patch_size, config.drop_path_rate) == (4, 0.0)
    assert encoders.build(config).kwargs["drop_path_rate"] == 0.0  # timm's own is 0.1
    assert encoders.Config(architecture="vit_base_patch16_224").patch_size == 16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"architecture": "swinv2_base_window12_192", "depth": 2}, "depth is no option"),
        ({"architecture": "swinv2_base_window12_192", "num_heads": 2}, "a list, one for each stage"),
        ({"depths": (1, 1)}, "depths is no option"),
        ({"num_heads": (1, 2)}, "num_heads must be one number"),
        ({"positions": "relative"}, "positions relative is not offered"),
        ({"architecture": "beit_base_patch16_224", "positions": "sincos"}, "positions sincos is not offered"),
    ],
)
def test_options_of_another_family_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encoders.Config(**options)


def test_what_timm_does_not_build_is_said() -> None:
    with pytest.raises(UserError, match=r"timm does not build 'swinv2_base_window12_192'"):
        encoders.build(encoders.Config(architecture="swinv2_base_window12_192", depths=(1, 1, 1, 1), num_heads=(1, 2)))
