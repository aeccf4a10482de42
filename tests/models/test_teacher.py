"""Teachers: what they make of an image, where their weights are from, and which patches they must have."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

from mimcore.definition import problems, resolve
from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models import teacher
from mimcore.models.features import LayerOptions, combined, layer_maps, normalized
from mimcore.models.objective import NOTHING, Given
from mimcore.models.principal import colours
from mimcore.objectives.feature import Config

#: A teacher with patches of 16 pixels, a mean of its own, and a head that is left out.
NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
STUDENT = encoders.Config(
    architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3
)
GRID = (4, 4)


def options(**given: Any) -> Any:
    return resolve(Config, {"teacher": given}, "objectives").teacher


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file of timm's weights, and its digest."""
    file = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    torch.manual_seed(0)
    save_file({name: tensor.contiguous() for name, tensor in timm.create_model(NAME).state_dict().items()}, file)
    return {"weights": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()[:16]}


def original(weights: dict[str, str], image_size: int) -> nn.Module:
    """timm's own model of this file, at another size, by timm's own way of reading it."""
    overlay = {"file": weights["weights"]}
    return timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, img_size=image_size).eval()


@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_a_teacher_sees_the_image_as_it_was_trained_to(weights: dict[str, str], channels: int) -> None:
    """Its own mean, size and channels; the last layer after its norm, as timm's ``forward_features``."""
    student = encoders.build(STUDENT.model_copy(update={"channels": channels}))
    made = teacher.build(options(kind="timm", architecture=NAME, image_size=64, **weights), student, GRID, NOTHING)
    images = torch.randint(0, 256, (2, channels, 32, 32), dtype=torch.uint8)
    model = original(weights, 64)
    pixels = vision.resize(images.float() / 255, [64, 64], vision.InterpolationMode.BICUBIC, antialias=True)
    cfg = model.pretrained_cfg
    pixels = (pixels.expand(-1, 3, -1, -1) - torch.tensor(cfg["mean"]).view(3, 1, 1)) / torch.tensor(cfg["std"]).view(
        3, 1, 1
    )
    found = made(student.normalize(images))
    torch.testing.assert_close(found, model.forward_features(pixels)[:, 1:], atol=2e-5, rtol=1e-4)
    assert made.width == 192


def test_weights_of_a_pickle_and_below_the_root_do_as_well(weights: dict[str, str], tmp_path: Path) -> None:
    state = original(weights, 224).state_dict()
    torch.save({"model": state}, tmp_path / "teacher.pth")
    digest = hashlib.sha256((tmp_path / "teacher.pth").read_bytes()).hexdigest()
    given = options(kind="timm", architecture=NAME, image_size=64, weights="teacher.pth", sha256=digest)
    student, images = encoders.build(STUDENT), torch.randn(1, 3, 32, 32)
    made = teacher.build(given, student, GRID, Given(root=tmp_path))
    first = teacher.build(options(kind="timm", architecture=NAME, image_size=64, **weights), student, GRID, NOTHING)
    assert torch.equal(made(images), first(images))


def test_a_frozen_teacher_is_neither_trained_nor_saved_and_moves_along(weights: dict[str, str]) -> None:
    given = options(kind="timm", architecture=NAME, image_size=64, **weights)
    made = teacher.build(given, encoders.build(STUDENT), GRID, NOTHING)
    assert isinstance(made, teacher.Frozen)
    assert list(made.parameters()) == []
    assert list(made.state_dict()) == []
    (held,) = made._held
    assert not any(p.requires_grad for p in held.parameters())
    nn.ModuleList([made]).train()
    assert not any(part.training for part in held.modules())
    nn.ModuleList([made]).to("meta")
    assert all(p.is_meta for p in held.parameters())


def test_a_teacher_draws_nothing_of_what_the_student_starts_from(weights: dict[str, str]) -> None:
    student = encoders.build(STUDENT)
    before = torch.random.get_rng_state()
    for given in (
        {"kind": "timm", "architecture": NAME, "image_size": 64, **weights},
        {"kind": "average", "layers": 1},
    ):
        teacher.build(options(**given), student, GRID, NOTHING)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("layers", "blocks"), [(1, [2]), (2, [1, 2]), ((0, 2), [0, 2]), ((-1,), [2]), ((-3, 1), [0, 1])]
)
@torch.no_grad()
def test_layers_are_outputs_of_blocks(layers: Any, blocks: list[int]) -> None:
    """Read by hooks, and beside timm's ``forward_intermediates``."""
    model = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=32, num_classes=0).eval()
    outputs: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in model.blocks]
    images = torch.randn(2, 3, 32, 32)
    model(images)
    for handle in handles:
        handle.remove()
    for norm in (False, True):
        chosen = LayerOptions(layers=layers, final_norm=norm)
        maps = layer_maps(model, images, chosen, "model")
        wanted = [(model.norm(outputs[b]) if norm else outputs[b])[:, 1:] for b in blocks]
        timms = model.forward_intermediates(images, blocks, norm=norm, intermediates_only=True, output_fmt="NLC")
        for found, one, other in zip(maps, wanted, timms, strict=True):
            torch.testing.assert_close(found.flatten(2).mT, one)
            torch.testing.assert_close(found.flatten(2).mT, other)
        torch.testing.assert_close(combined(maps, chosen), sum(wanted) / len(wanted))
        beside = LayerOptions(layers=layers, final_norm=norm, combine="concatenate")
        torch.testing.assert_close(combined(maps, beside), torch.cat(wanted, dim=2))


def test_normalisations_are_those_of_torch_without_weights() -> None:
    tokens = torch.randn(3, 5, 8) * 2 + 1
    torch.testing.assert_close(normalized(tokens, "layer"), nn.LayerNorm(8, elementwise_affine=False)(tokens))
    batch = nn.BatchNorm1d(8, affine=False, track_running_stats=False)
    torch.testing.assert_close(normalized(tokens, "batch"), batch(tokens.flatten(0, 1)).unflatten(0, (3, 5)))
    torch.testing.assert_close(normalized(tokens, "instance"), nn.InstanceNorm1d(8)(tokens.mT).mT)
    patch = normalized(tokens, "patch")
    torch.testing.assert_close(patch.mean(2), torch.zeros(3, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(patch.var(2), torch.ones(3, 5), atol=1e-4, rtol=0)
    assert torch.equal(normalized(tokens, "none"), tokens)
    assert normalized(tokens.bfloat16(), "none").dtype == torch.float32


def test_layers_are_normalised_before_they_become_one() -> None:
    """data2vec, section 3.3."""
    maps = [torch.randn(2, 8, 2, 2) * scale for scale in (1, 100)]
    found = combined(maps, LayerOptions(layers=2, layer_normalization="layer"))
    each = [nn.functional.layer_norm(m.flatten(2).transpose(1, 2), [8]) for m in maps]
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"architecture": "vit_base_patch14_dinov2.lvd142m"}, r"37 x 37 patches of 518 x 518 .* 14 x 14 .*to 196"),
        ({"architecture": "vit_base_patch14_dinov2.lvd142m", "image_size": 224}, "16 x 16 .*set it to 196"),
        ({"architecture": "vit_large_patch14_clip_336.openai"}, r"24 x 24 .*set it to 196"),
        ({"architecture": "resnet50.a1_in1k"}, r"7 x 7 patches of 224 x 224 .*set it to 448"),
        ({"architecture": "resnet50.a1_in1k", "layers": [3, 4]}, r"14 x 14|7 x 7 patches"),
        ({"architecture": "vit_base_patch16_224.dino", "layers": 13}, "has 12 layers and not 13"),
        ({"architecture": "vit_base_patch16_224.dino", "layers": [12]}, "has 12 layers"),
        ({"architecture": "vit_base_patch16_224.dinno"}, "no weights 'vit_base_patch16_224.dinno'; did you mean"),
        (
            {"architecture": "vit_bas_patch16_224"},
            "no model 'vit_bas_patch16_224'; did you mean 'vit_base_patch16_224'",
        ),
    ],
)
def test_a_teacher_of_other_patches_is_refused_with_what_fits(given: dict[str, Any], words: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=words):
        student = encoders.build(encoders.Config(embed_dim=32, num_heads=2, depth=1))
        teacher.build(options(kind="timm", pretrained=True, **given), student, (14, 14), NOTHING)


@pytest.mark.parametrize(
    ("given", "width"),
    [
        ({"architecture": "vit_base_patch14_dinov2.lvd142m", "image_size": 196}, 768),
        ({"architecture": "vit_base_patch16_clip_224.openai"}, 768),
        ({"architecture": "eva02_tiny_patch14_224.mim_in22k", "image_size": 196, "layers": 2}, 192),
        ({"architecture": "resnet50.a1_in1k", "image_size": 448}, 2048),
        ({"architecture": "resnet50.a1_in1k", "layers": [3]}, 1024),
        ({"architecture": "vit_base_patch16_224.dino", "layers": 3, "combine": "concatenate"}, 2304),
    ],
)
def test_a_teacher_of_as_many_patches_is_taken(given: dict[str, Any], width: int) -> None:
    with torch.device("meta"):
        student = encoders.build(encoders.Config(embed_dim=32, num_heads=2, depth=1))
        made = teacher.build(options(kind="timm", pretrained=True, **given), student, (14, 14), NOTHING)
        assert made.width == width
        assert made(torch.empty(2, 3, 224, 224)).shape == (2, 196, width)


def test_weights_that_cannot_be_had_are_a_sentence(
    weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = encoders.build(STUDENT)

    def build(**given: Any) -> None:
        teacher.build(options(kind="timm", **{"image_size": 64} | given), student, GRID, NOTHING)

    with pytest.raises(UserError, match="not the file that was pinned; adopt it with 'sha256: "):
        build(architecture=NAME, **weights | {"sha256": "0" * 16})
    with pytest.raises(UserError, match=r"patches of 16 x 16 pixels, and the architecture of 32 x 32"):
        build(architecture="vit_small_patch32_224", **weights, image_size=128)
    with pytest.raises(UserError, match="is not of 'vit_small_patch16_224"):
        build(architecture="vit_small_patch16_224", **weights)
    with pytest.raises(UserError, match="there is no file"):
        build(architecture=NAME, **weights | {"weights": str(tmp_path / "none.safetensors")})
    create = timm.create_model

    def offline(name: str, **kwargs: Any) -> nn.Module:
        if kwargs.pop("pretrained", False):
            raise LocalEntryNotFoundError("Please check your connection\nand more")
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"cannot be fetched \(Please check your connection\); .* name it as 'weights'"):
        build(architecture=NAME, pretrained=True)


def test_every_mistake_of_an_option_has_its_path() -> None:
    def wrong(**given: Any) -> list[str]:
        return problems(Config, {"teacher": given}, "objectives.feature")

    assert "set either pretrained to true, or weights to a file" in wrong(kind="timm", architecture=NAME)[0]
    assert "pinned by its sha256" in wrong(kind="timm", architecture=NAME, weights="a.pth")[0]
    assert wrong(kind="hog", cels=8)[0].startswith("objectives.feature.teacher.hog.cels: unknown option")
    assert "'timm', 'run', 'hog', 'average', 'pixels'" in wrong(kind="clip")[0]
    assert wrong(kind="average") == wrong(kind="run") == wrong(kind="pixels") == []


def test_the_decay_rises_on_a_straight_line() -> None:
    """data2vec, section 3.3; for text tau goes from 0.999 to 0.9999 over 100,000 updates (section 4.3)."""
    average = options(kind="average", decay_start=0.999, decay_end=0.9999, decay_steps=100_000)
    for step, decay in ((0, 0.999), (25_000, 0.999225), (50_000, 0.99945), (100_000, 0.9999), (10**6, 0.9999)):
        assert average.decay(step) == pytest.approx(decay, abs=1e-12)
    assert options(kind="average").decay(1) == 0.9998


def test_colours_are_the_principal_components() -> None:
    axes = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0][:3]
    parts = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([9.0, 3.0, 1.0])
    parts = parts - parts.mean((0, 1))
    parts = torch.linalg.qr(parts.flatten(0, 1))[0].unflatten(0, (2, 50)) * torch.tensor([9.0, 3.0, 1.0])
    shown, again = colours(parts @ axes + 5, parts @ axes + 5)
    assert torch.equal(shown, again)
    deviation = parts.flatten(0, 1).square().mean(0).sqrt()
    wanted = (parts / (4 * deviation)).clamp(-0.5, 0.5)
    torch.testing.assert_close((shown - 0.5).abs(), wanted.abs(), atol=1e-3, rtol=1e-3)
    assert colours(torch.ones(1, 4, 8))[0].tolist() == [[[0.5] * 3] * 4]
