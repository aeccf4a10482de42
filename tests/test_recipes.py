"""The recipes of MAE and SimMIM, value by value: constants are copied from the released code, the line beside each.

mae: github.com/facebookresearch/mae at efb2a80. simmim: github.com/microsoft/SimMIM at d3e29bc. swin:
github.com/microsoft/Swin-Transformer at f82860b. A folder of configurations is given once, above its lines.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from mimcore import registry
from mimcore.definition import Definition, resolve
from mimcore.evaluation.finetune import Config as Finetune
from mimcore.models import encoder as encoders
from mimcore.study import Study
from mimcore.training.schedule import Schedule

RECIPES = Path(__file__).parents[1] / "studies/recipes"
#: Training images of ImageNet-1K (Russakovsky et al. 2015, table 2).
IMAGENET = 1_281_167
#: Ours alone: what is measured on the way, where files lie, and arithmetic (theirs is float16 by AMP).
OURS = {"validations", "validation_images", "pool", "module", "precision"}


def images(epochs: int, batch: int, gpus: int) -> int:
    """Images seen: a sampler gives each GPU as many, rounded up, and its last batch is dropped if it is not whole."""
    return epochs * (math.ceil(IMAGENET / gpus) // (batch // gpus)) * batch


@pytest.fixture(scope="module")
def mae() -> Study:
    return Study.read(RECIPES / "mae.yaml")


@pytest.fixture(scope="module")
def simmim() -> Study:
    return Study.read(RECIPES / "simmim.yaml")


def assert_is(study: Study, kind: str, name: str, definition: type[Definition], pinned: dict[str, Any]) -> None:
    """Every pinned value is there, and nothing that is written has no pin."""
    options = study.options(kind, name)
    options.pop("module", None)
    found = resolve(definition, options, f"{kind}.{name}").model_dump()
    for key, value in pinned.items():
        plain = value is None or isinstance(value, str | bool)
        assert found[key] == (value if plain else pytest.approx(value, rel=1e-9)), key
    assert set(options) <= set(pinned) | OURS


@pytest.mark.parametrize("recipe", sorted(file.name for file in RECIPES.glob("*.yaml")))
def test_a_recipe_is_a_study_without_mistakes(recipe: str) -> None:
    Study.read(RECIPES / recipe).check()


MAE_PRETRAINING: dict[str, Any] = {
    "batch_size": 64 * 8 * 8,  # PRETRAIN.md:9 and 18 (64 on each of 8 x 8 GPUs is 4096)
    "base_learning_rate": 1.5e-4,  # PRETRAIN.md:15, --blr
    "learning_rate_batch": 256,  # main_pretrain.py:166
    "learning_rate_rule": "batch_linear",  # main_pretrain.py:166
    "learning_rate_width": None,
    "warmup_learning_rate": 0.0,  # util/lr_sched.py:12
    "min_learning_rate": 0.0,  # main_pretrain.py:68, --min_lr
    "warmup_images": images(40, 4096, 64),  # PRETRAIN.md:14, --warmup_epochs
    "decay": "cosine",  # util/lr_sched.py:14
    "cosine_from": "warmup",  # util/lr_sched.py:15
    "weight_decay": 0.05,  # PRETRAIN.md:15, --weight_decay
    "betas": (0.9, 0.95),  # main_pretrain.py:180
    "eps": 1e-8,  # torch's default of AdamW
    "clip_grad": None,  # engine_pretrain.py:57 gives no clip_grad
    "ema_decay": None,
    "crop_scale": (0.2, 1.0),  # main_pretrain.py:124
    "crop_ratio": (3 / 4, 4 / 3),  # torchvision's default of RandomResizedCrop
    "crop_from": "image",  # main_pretrain.py:124
    "crop_interpolation": "bicubic",  # main_pretrain.py:124, interpolation=3
    "repeated_augmentation": 1,
    "horizontal_flip": True,  # main_pretrain.py:125
}


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("e400", 400),  # main_pretrain.py:42, the default of --epochs
        ("e800", 800),  # PRETRAIN.md:13
        ("e1600", 1600),  # FINETUNE.md:129, 'the pre-trained models we provide'
    ],
)
def test_pretraining_of_mae(mae: Study, name: str, epochs: int) -> None:
    assert_is(mae, "schedules", name, Schedule, MAE_PRETRAINING | {"images_seen": images(epochs, 4096, 64)})
    schedule = resolve(Schedule, mae.options("schedules", name), "schedules")
    assert schedule.peak == pytest.approx(2.4e-3)
    assert schedule.steps == 312 * epochs


@pytest.mark.parametrize(
    ("name", "patch_size", "width", "depth", "heads"),
    [
        ("base", 16, 768, 12, 12),  # models_mae.py:225
        ("large", 16, 1024, 24, 16),  # models_mae.py:233
        ("huge", 14, 1280, 32, 16),  # models_mae.py:241
    ],
)
def test_models_of_mae(mae: Study, name: str, patch_size: int, width: int, depth: int, heads: int) -> None:
    config = resolve(encoders.Config, mae.options("models", name), "models")
    with torch.device("meta"):
        vit = timm.create_model(config.architecture, **encoders.timm_options(config))
    block = vit.blocks[0]
    assert (config.image_size, vit.patch_embed.patch_size[0]) == (224, patch_size)  # models_mae.py:25
    assert (vit.embed_dim, len(vit.blocks), block.attn.num_heads) == (width, depth, heads)
    assert block.mlp.fc1.out_features == 4 * width  # models_mae.py:227, mlp_ratio
    assert block.attn.qkv.bias is not None  # models_mae.py:40
    assert block.norm1.eps == 1e-6  # models_mae.py:227
    assert config.drop_path_rate == 0.0  # models_mae.py:40 gives the blocks none


def test_objective_of_mae(mae: Study) -> None:
    pinned = {
        "mask_ratio": 0.75,  # PRETRAIN.md:12
        "masking": "random",  # models_mae.py:123
        "mask_unit": None,
        "loss": "l2",  # models_mae.py:210
        "norm_pix_loss": True,  # PRETRAIN.md:11
        "decoder_embed_dim": 512,  # models_mae.py:226, 234, 242
        "decoder_depth": 8,
        "decoder_num_heads": 16,
        "prediction_ratio": None,
        "encoder_mask_tokens": False,
        "target_window": None,
    }
    assert_is(mae, "objectives", "mae", registry.load("objective", "mae").Config, pinned)


MAE_FINETUNING: dict[str, Any] = {
    "batch_size": 32 * 4 * 8,  # FINETUNE.md:68 and 77 (32 on each of 4 x 8 GPUs is 1024)
    "weight_decay": 0.05,  # FINETUNE.md:73, 92, 108
    "warmup_learning_rate": 0.0,  # util/lr_sched.py:12
    "min_learning_rate": 1e-6,  # main_finetune.py:73
    "cosine_from": "warmup",  # util/lr_sched.py:15
    "clip_grad": None,  # main_finetune.py:61
    "label_smoothing": 0.1,  # main_finetune.py:84
    "mixup": 0.8,  # FINETUNE.md:73, 92, 108
    "cutmix": 1.0,  # FINETUNE.md:73, 92, 108
    "random_erasing": 0.25,  # FINETUNE.md:73, 92, 108, --reprob
    "augmentation": "rand_augment",
    "rand_augment_policy": "rand-m9-mstd0.5-inc1",  # main_finetune.py:82
    "crop_scale": (0.08, 1.0),  # timm's default of create_transform, util/datasets.py:37
    "crop_from": "image",
    "mirror": True,  # timm's default of create_transform, hflip=0.5
}


@pytest.mark.parametrize(
    ("name", "epochs", "rate", "layer_decay", "drop_path"),
    [
        ("finetune", 100, 5e-4, 0.65, 0.1),  # FINETUNE.md:71-73, ViT-B
        ("finetune_large", 50, 1e-3, 0.75, 0.2),  # FINETUNE.md:90-92
        ("finetune_huge", 50, 1e-3, 0.75, 0.3),  # FINETUNE.md:106-108
    ],
)
def test_fine_tuning_of_mae(
    mae: Study, name: str, epochs: int, rate: float, layer_decay: float, drop_path: float
) -> None:
    pinned = MAE_FINETUNING | {
        "images_seen": images(epochs, 1024, 32),
        "base_learning_rate": rate,
        "layer_decay": layer_decay,
        "drop_path_rate": drop_path,
        "warmup_fraction": 5 / epochs,  # main_finetune.py:76
    }
    assert_is(mae, "tasks", name, Finetune, pinned)


SIMMIM_PRETRAINING: dict[str, Any] = {
    "batch_size": 2048,  # README.md:119-120, 128 on each of 16 GPUs
    "learning_rate_batch": 512,  # main_simmim.py:218
    "learning_rate_rule": "batch_linear",  # main_simmim.py:218
    "learning_rate_width": None,
    "warmup_images": images(10, 2048, 16),  # WARMUP_EPOCHS, :16 of each Swin's file
    "weight_decay": 0.05,  # WEIGHT_DECAY, config.py:97
    "betas": (0.9, 0.999),  # config.py:129
    "eps": 1e-8,  # config.py:127
    "clip_grad": 5.0,  # config.py:102
    "ema_decay": None,
    "crop_scale": (0.67, 1.0),  # data/data_simmim.py:52
    "crop_ratio": (3 / 4, 4 / 3),  # data/data_simmim.py:52
    "crop_from": "image",  # data/data_simmim.py:52
    "crop_interpolation": "bilinear",  # data/data_simmim.py:52 gives none: torchvision's default
    "repeated_augmentation": 1,
    "horizontal_flip": True,  # data/data_simmim.py:53
}
#: configs/swin_base__100ep/simmim_pretrain__swin_base__img192_window6__100ep.yaml
E100 = {
    "images_seen": images(100, 2048, 16),  # :15
    "base_learning_rate": 2e-4,  # :17
    "warmup_learning_rate": 1e-6 * 2048 / 512,  # :18, scaled in main_simmim.py:219
    "min_learning_rate": 1e-5 * 2048 / 512,  # :19, scaled in main_simmim.py:220
    "decay": "cosine",  # config.py:114
    "cosine_from": "start",  # lr_scheduler.py:26-35, without warmup_prefix
}
#: configs/swin_base__800ep/simmim_pretrain__swin_base__img192_window6__800ep.yaml, and the same lines of swin_large__800ep and,
#: 3 or 4 lines on, of vit_base__800ep and of swin's configs/simmim/simmim_pretrain__swinv2_base__img192_window12__800ep.yaml.
E800 = {
    "images_seen": images(800, 2048, 16),  # :15
    "base_learning_rate": 1e-4,  # :17
    "warmup_learning_rate": 5e-7 * 2048 / 512,  # :18, scaled in main_simmim.py:219
    "min_learning_rate": 0.0,  # lr_scheduler.py:140: a multistep schedule has no least rate
    "decay": "multistep",  # :21
    "milestones": (images(700, 2048, 16),),  # :23
    "gamma": 0.1,  # :22
}


@pytest.mark.parametrize(
    ("name", "pinned"),
    [
        ("e100", E100),
        ("e800", E800),
        ("it500k", E800),  # swin MODELHUB.md, 'SimMIM Pretrained Swin-V2 Models': 500K iterations of 2048
        ("it250k", E800 | {"images_seen": 250_000 * 2048, "milestones": (250_000 * 2048 * 7 // 8,)}),
        ("it125k", E800 | {"images_seen": 125_000 * 2048, "milestones": (125_000 * 2048 * 7 // 8,)}),
    ],
)
def test_pretraining_of_simmim(simmim: Study, name: str, pinned: dict[str, Any]) -> None:
    assert_is(simmim, "schedules", name, Schedule, SIMMIM_PRETRAINING | pinned)


def test_500k_iterations_are_800_epochs() -> None:
    assert images(800, 2048, 16) == 500_000 * 2048


@pytest.mark.parametrize(
    ("name", "width", "depths", "heads", "windows", "drop_path"),
    [
        # configs/swin_base__100ep/simmim_pretrain__swin_base__img192_window6__100ep.yaml:4-11
        ("swin_base", 128, [2, 2, 18, 2], [4, 8, 16, 32], [6, 6, 6, 6], 0.0),
        # configs/swin_large__800ep/simmim_pretrain__swin_large__img192_window12__800ep.yaml:4-11; the last stage has 6 x 6
        ("swin_large", 192, [2, 2, 18, 2], [6, 12, 24, 48], [12, 12, 12, 6], 0.0),
        # swin configs/simmim/simmim_pretrain__swinv2_base__img192_window12__800ep.yaml:4-15
        ("swinv2_base", 128, [2, 2, 18, 2], [4, 8, 16, 32], [12, 12, 12, 6], 0.1),
        # swin configs/swinv2/swinv2_large_patch4_window12_192_22k.yaml and swinv2_small_patch4_window16_256.yaml
        ("swinv2_large", 192, [2, 2, 18, 2], [6, 12, 24, 48], [12, 12, 12, 6], 0.1),
        ("swinv2_small", 96, [2, 2, 18, 2], [3, 6, 12, 24], [12, 12, 12, 6], 0.1),
    ],
)
def test_swins_of_simmim(
    simmim: Study, name: str, width: int, depths: list[int], heads: list[int], windows: list[int], drop_path: float
) -> None:
    config = resolve(encoders.Config, simmim.options("models", name), "models")
    with torch.device("meta"):
        swin = timm.create_model(config.architecture, **encoders.timm_options(config))
    assert (config.image_size, config.drop_path_rate, swin.patch_embed.patch_size[0]) == (192, drop_path, 4)
    assert swin.embed_dim == width
    assert [len(stage.blocks) for stage in swin.layers] == depths
    assert [stage.blocks[0].attn.num_heads for stage in swin.layers] == heads
    assert [stage.blocks[0].window_size[0] for stage in swin.layers] == windows
    dropped = swin.layers[3].blocks[1].drop_path1
    assert getattr(dropped, "drop_prob", 0.0) == pytest.approx(drop_path)


def test_vit_of_simmim(simmim: Study) -> None:
    """configs/vit_base__800ep/simmim_pretrain__vit_base__img224__800ep.yaml:4-14, and config.py:77-88."""
    config = resolve(encoders.Config, simmim.options("models", "vit_base"), "models")
    with torch.device("meta"):
        vit = timm.create_model(config.architecture, **encoders.timm_options(config))
    block = vit.blocks[11]
    assert (config.image_size, config.drop_path_rate) == (224, 0.1)
    assert (vit.patch_embed.patch_size[0], vit.embed_dim, len(vit.blocks), block.attn.num_heads) == (16, 768, 12, 12)
    assert (block.mlp.fc1.out_features, block.drop_path1.drop_prob) == (4 * 768, pytest.approx(0.1))
    assert (vit.pos_embed, block.attn.relative_position_bias_table) == (None, None)
    assert vit.rel_pos_bias is not None
    assert config.init_values == 0.1  # INIT_VALUES


@pytest.mark.parametrize(("name", "window"), [("simmim", None), ("simmim_v2", 47)])
def test_objectives_of_simmim(simmim: Study, name: str, window: int | None) -> None:
    pinned = {
        "mask_ratio": 0.6,  # MASK_RATIO, :13 of the Swins' files
        "masking": "random",  # data/data_simmim.py:38
        "mask_unit": 32,  # MASK_PATCH_SIZE, :12
        "loss": "l1",  # models/simmim.py:119
        "target_window": window,  # swin configs/simmim/simmim_pretrain__swinv2_base__img192_window12__800ep.yaml:6-8
    }
    assert_is(simmim, "objectives", name, registry.load("objective", "simmim").Config, pinned)


SIMMIM_FINETUNING: dict[str, Any] = {
    "images_seen": images(
        100, 2048, 16
    ),  # EPOCHS, :13 of configs/swin_base__100ep/simmim_finetune__swin_base__img192_window6__100ep.yaml
    "batch_size": 2048,  # README.md:132-133
    "base_learning_rate": 1.25e-3 * 256 / 512,  # :15; main_finetune.py:322 takes it for 512 images
    "warmup_fraction": 20 / 100,  # :14
    "warmup_learning_rate": 2.5e-7 * 2048 / 512,  # :16, scaled in main_finetune.py:323
    "min_learning_rate": 2.5e-7 * 2048 / 512,  # :17, scaled in main_finetune.py:324
    "cosine_from": "start",  # lr_scheduler.py:26-35
    "clip_grad": 5.0,  # config.py:102
    "weight_decay": 0.05,  # :18
    "label_smoothing": 0.1,  # config.py:59
    "mixup": 0.8,  # config.py:151
    "cutmix": 1.0,  # config.py:153
    "random_erasing": 0.25,  # config.py:145
    "augmentation": "rand_augment",
    "rand_augment_policy": "rand-m9-mstd0.5-inc1",  # config.py:143
    "crop_scale": (0.08, 1.0),  # timm's default of create_transform
    "crop_from": "image",
    "mirror": True,
}


@pytest.mark.parametrize(
    ("name", "layer_decay", "drop_path"),
    [
        ("finetune", 0.9, 0.1),  # swin_base__100ep/simmim_finetune__swin_base__img192_window6__100ep.yaml:4, 19
        (
            "finetune_swin_base",
            0.8,
            0.1,
        ),  # swin_base__800ep/simmim_finetune__swin_base__img224_window7__800ep.yaml:4, 19
        (
            "finetune_swin_large",
            0.7,
            0.2,
        ),  # swin_large__800ep/simmim_finetune__swin_large__img224_window14__800ep.yaml:4, 19
        ("finetune_vit_base", 0.65, 0.1),  # vit_base__800ep/simmim_finetune__vit_base__img224__800ep.yaml:4, 22
        (
            "finetune_swinv2_base",
            0.75,
            0.1,
        ),  # swin configs/simmim/simmim_finetune__swinv2_base__img224_window14__800ep.yaml:4, 20
    ],
)
def test_fine_tuning_of_simmim(simmim: Study, name: str, layer_decay: float, drop_path: float) -> None:
    pinned = SIMMIM_FINETUNING | {"layer_decay": layer_decay, "drop_path_rate": drop_path}
    assert_is(simmim, "tasks", name, Finetune, pinned)
