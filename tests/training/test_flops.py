"""Operations of a run, counted by tracing, against closed forms and published ratios."""

import pytest
import torch

from mimcore import registry
from mimcore.models import encoder as encoders
from mimcore.training.flops import encoder_flops, trace, training_flops_per_image

VIT_L = {"architecture": "vit_large_patch16_224"}
MAE = {"module": "mae"}


def blocks(tokens, width, depth, mlp_ratio=4):
    """Forward of transformer blocks: projections, MLP, and the two products of attention."""
    return depth * (2 * tokens * (4 + 2 * mlp_ratio) * width**2 + 4 * tokens**2 * width)


def mae_forward(width, depth, patches, pixels, kept, decoder_width, decoder_depth):
    embed = 2 * kept * pixels * width
    rest = (
        blocks(kept + 1, width, depth)
        + 2 * (kept + 1) * width * decoder_width
        + blocks(patches + 1, decoder_width, decoder_depth)
        + 2 * (patches - kept) * decoder_width * pixels
    )
    return embed, rest


@pytest.mark.parametrize(
    ("model", "width", "depth", "patches", "pixels"),
    [
        (VIT_L, 1024, 24, 196, 768),
        ({"architecture": "vit_base_patch16_224", "image_size": 96, "patch_size": 8, "channels": 1}, 768, 12, 144, 64),
        ({"architecture": "vit_tiny_patch16_224", "image_size": [64, 32], "patch_size": 8}, 192, 12, 32, 192),
    ],
)
@pytest.mark.parametrize("mask_ratio", [0.75, 0.5])
def test_a_mae_is_counted_as_its_closed_form(model, width, depth, patches, pixels, mask_ratio):
    kept = int(patches * (1 - mask_ratio))
    embed, rest = mae_forward(width, depth, patches, pixels, kept, 512, 8)
    cost = trace(model, MAE | {"mask_ratio": mask_ratio})
    assert cost.forward == embed + rest
    # Pixels have no gradient: the first projection has one product in the backward pass instead of two.
    assert cost.training == 2 * embed + 3 * rest


def test_mask_tokens_in_the_encoder_would_cost_what_the_paper_says():
    """He et al. 2022, table 1c: 3.3 times the operations, for ViT-L with the default decoder."""
    without = trace(VIT_L, MAE).training
    embed, rest = mae_forward(1024, 24, 196, 768, 196, 512, 8)
    assert (2 * embed + 3 * rest) / without == pytest.approx(3.3, abs=0.1)


def test_simmim_costs_the_encoder_on_all_patches_and_a_linear_head():
    """Xie et al. 2022, sections 3.2 and 3.3; a target that is standardised has no matrix products."""
    model = {"image_size": 64, "embed_dim": 96, "depth": 2, "num_heads": 3}
    with torch.device("meta"):
        encoder = encoders.build(encoders.Config(**model))
    head = 2 * 16 * 96 * (16 * 16 * 3)
    for options in ({}, {"target_window": 47}):
        assert trace(model, {"module": "simmim", **options}).forward == encoder_flops(encoder) + head


def test_an_encoder_on_all_patches_has_its_published_cost():
    """Touvron et al. 2021 (table 5 of 'Training data-efficient image transformers'): ViT-B/16 at 224 has 17.6 GMACs."""
    with torch.device("meta"):
        encoder = encoders.build(encoders.Config())
    assert encoder_flops(encoder) / 2e9 == pytest.approx(17.6, abs=0.1)
    quarter = encoder_flops(encoder, 112)
    assert 3.9 < encoder_flops(encoder) / quarter < 4.3


def test_shapes_alone_are_counted_as_weights_are():
    model = {
        "architecture": "vit_tiny_patch16_224",
        "image_size": 32,
        "patch_size": 8,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 2,
    }
    options = {"mask_ratio": 0.5, "decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 2}
    encoder = encoders.build(encoders.Config(**model))
    module = registry.load("objective", "mae")
    objective = module.Objective(encoder, module.Config(**options))
    encoders.place(objective, torch.device("cpu"))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    cost = trace(model, MAE | options)
    assert cost.training == training_flops_per_image(objective, encoder, images)
    assert cost.params == sum(p.numel() for p in objective.parameters())
    assert cost.encoder_params == sum(p.numel() for p in encoder.module.parameters())
