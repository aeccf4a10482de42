"""Adapters against what their papers write: VPT-deep's recursion, and LoRA's sum of matrices."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from mimcore.evaluation.adapters.lora import add_lora, merge
from mimcore.evaluation.adapters.prompts import add_prompts
from mimcore.models import families
from mimcore.models.encoder import Config, build

SWIN: dict[str, Any] = {
    "image_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
}
FLAT: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"architecture": "vit_tiny_patch16_224", **FLAT},
    "beit": {"architecture": "beit_base_patch16_224", **FLAT},
    "swin": {"architecture": "swin_base_patch4_window7_224", **SWIN},
    "swinv2": {"architecture": "swinv2_base_window12_192", **SWIN},
}


@pytest.fixture(params=list(MODELS))
def plain(request: pytest.FixtureRequest) -> families.Module:
    torch.manual_seed(0)
    module = build(Config(**MODELS[request.param])).module.eval()
    for part in module.modules():
        if isinstance(part, torch.nn.LayerNorm):
            torch.nn.init.ones_(part.weight)  # a SwinV2's blocks are silent at the start
    return module


def images_for(module: families.Module) -> Tensor:
    size: Any = module.patch_embed.img_size
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def test_lora_starts_as_the_frozen_encoder(plain: families.Module) -> None:
    images = images_for(plain)
    adapted = copy.deepcopy(plain)
    learned = add_lora(adapted, 2, 8.0)
    assert torch.equal(adapted.forward_features(images), plain.forward_features(images))
    attentions = sum(hasattr(part, "qkv") for part in plain.modules())
    assert len(learned) == 4 * attentions > 0


def test_lora_is_a_sum_of_matrices_and_merging_leaves_it(plain: families.Module) -> None:
    images = images_for(plain)
    adapted, expected = copy.deepcopy(plain), copy.deepcopy(plain)
    learned = add_lora(adapted, 2, 8.0)
    with torch.no_grad():
        for parameter in learned:
            parameter.normal_(std=0.1)
        factors = iter(learned)
        for attention in [part for part in expected.modules() if hasattr(part, "qkv")]:
            for layer in (attention.qkv, attention.proj):
                a, b = next(factors).double(), next(factors).double()
                layer.weight.copy_(layer.weight.double() + 8.0 / 2 * torch.einsum("or,ri->oi", b, a))
        before = adapted.forward_features(images)
        torch.testing.assert_close(before, expected.forward_features(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(before, plain.forward_features(images), atol=1e-2)
        merge(adapted)
        assert torch.equal(adapted.forward_features(images), before)
    assert not any(parametrize.is_parametrized(part) for part in adapted.modules())
    assert adapted.state_dict().keys() == plain.state_dict().keys()


def test_lora_is_zero_by_b_alone_and_a_is_that_of_a_linear_layer() -> None:
    module = torch.nn.Module()
    module.qkv, module.proj = torch.nn.Linear(400, 1200), torch.nn.Linear(400, 400)
    a, b, *_ = (parameter.detach() for parameter in add_lora(module, 8, 1.0))
    assert (a.shape, b.shape) == ((8, 400), (1200, 8))
    assert not b.any()
    # torch's Linear draws from uniform within 1 / sqrt(inputs).
    assert 0.95 / 20 < float(a.abs().max()) <= 1 / 20
    assert float(a.std()) == pytest.approx(1 / 20 / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("registers", [0, 2])
def test_prompts_follow_the_recursion_of_vpt_deep(registers: int) -> None:
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}
    plain = families.create("vit_tiny_patch16_224", options | {"reg_tokens": registers}).eval()
    adapted = copy.deepcopy(plain)
    prompts = add_prompts(adapted, 5)
    prefix, images = 1 + registers, images_for(plain)
    embedded: list[Tensor] = []
    handle = plain.blocks[0].register_forward_pre_hook(lambda block, given: embedded.append(given[0]))
    frozen = plain.forward_features(images)
    handle.remove()
    # [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}]): Jia et al. 2022, equation 5.
    x, patches = embedded[0][:, :prefix], embedded[0][:, prefix:]
    for block, prompt in zip(plain.blocks, prompts, strict=True):
        out = block(torch.cat([x, prompt[None].repeat(2, 1, 1), patches], dim=1))
        x, _, patches = out.split([prefix, 5, 16], dim=1)
    found = adapted.forward_features(images)
    torch.testing.assert_close(found, plain.norm(torch.cat([x, patches], dim=1)))
    assert not torch.allclose(found, frozen, atol=1e-3)


def test_prompts_are_seen_within_a_block_and_gone_after_it() -> None:
    torch.manual_seed(0)
    module = build(Config(**MODELS["vit"])).module.eval()
    assert len(add_prompts(module, 7)) == 3  # type: ignore[arg-type]
    inside, after = [], []
    for block in module.blocks:
        block.register_forward_hook(lambda part, given, out: after.append(out.shape[1]))
        block.block.register_forward_hook(lambda part, given, out: inside.append(out.shape[1]))
    assert module.forward_features(images_for(module)).shape == (2, 17, 24)
    assert (inside, after) == ([17 + 7] * 3, [17] * 3)


def test_prompts_start_within_the_released_codes_bound() -> None:
    torch.manual_seed(0)
    module = build(Config(**MODELS["vit"])).module
    prompts = torch.cat(add_prompts(module, 200)).detach()  # type: ignore[arg-type]
    bound = math.sqrt(6 / (3 * 8 * 8 + 24))
    assert 0.99 * bound < float(prompts.abs().max()) <= bound
    assert float(prompts.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert float(prompts.mean()) == pytest.approx(0, abs=0.02 * bound)
