"""Checkpoints by the names of others: written here name by name, read back by import, and compared bit for bit."""

import argparse
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mimcore import artifacts
from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models.continued import begin
from mimcore.models.positions import sincos_positions
from mimcore.objectives import mae, simmim
from mimcore.training.state import start_run
from mimcore.weights.importing import import_checkpoint

MODEL: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "image_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
}
SWIN: dict[str, Any] = {
    "architecture": "swin_base_patch4_window7_224",
    "image_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
}
DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 16}
POSITIONS = sincos_positions(16, (4, 4), 1)


def made(model: dict[str, Any], module: Any, **options: Any) -> Any:
    return module.Objective(encoders.build(encoders.Config(**model)), module.Config(**options))


def official_mae(objective: Any) -> dict[str, Tensor]:
    """The names of ``models_mae.py``."""
    found = {"decoder_pos_embed": POSITIONS}
    for name, tensor in objective.state_dict().items():
        inner = name.removeprefix("encoder.").replace("decoder.mask_token", "mask_token")
        inner = inner.replace("decoder.predict", "decoder.pred")
        found[re.sub(r"^decoder\.", "decoder_", inner)] = tensor
    return found


def same(folder: Path, objective: Any) -> None:
    encoder = {f"encoder.{name}": tensor for name, tensor in load_file(folder / "encoder.safetensors").items()}
    found = encoder | load_file(folder / "objective.safetensors")
    expected = objective.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_official_mae_with_its_arguments(tmp_path: Path) -> None:
    objective = made(MODEL, mae, **DECODER)
    torch.save({"model": official_mae(objective), "args": argparse.Namespace(lr=1.0), "epoch": 3}, tmp_path / "mae.pth")
    account = import_checkpoint(tmp_path / "mae.pth", tmp_path / "out", MODEL)
    same(tmp_path / "out", objective)
    assert (account["layout"], list(account["left_out"])) == ("mae", ["decoder_pos_embed"])
    named = {name for sources in account["taken"].values() for name in sources} | set(account["left_out"])
    assert named == set(official_mae(objective))


def test_a_model_is_continued_whole(tmp_path: Path) -> None:
    objective = made(MODEL, mae, **DECODER)
    torch.save({"model": official_mae(objective)}, tmp_path / "mae.pth")
    import_checkpoint(tmp_path / "mae.pth", tmp_path / "out", MODEL)
    digest = artifacts.file_digest(tmp_path / "out/encoder.safetensors")
    initial = {"path": str(tmp_path / "out"), "sha256": digest[:16], "objective": True}
    config = encoders.Config(**MODEL, initial=initial)
    encoder = encoders.build(config)
    fresh = mae.Objective(encoder, mae.Config(**DECODER))
    begin(encoder, fresh, config, tmp_path)
    images, drawn = torch.randn(2, 3, 32, 32), fresh.draw(2, torch.Generator())
    assert torch.equal(fresh(images, drawn)["loss"], objective(images, drawn)["loss"])
    wider = mae.Objective(encoder, mae.Config(**DECODER | {"decoder_embed_dim": 32}))
    with pytest.raises(UserError, match="Give the objective the options"):
        begin(encoder, wider, config, tmp_path)
    wrong = encoders.Config(**MODEL, initial=initial | {"sha256": "0" * 16})
    with pytest.raises(UserError, match=f"adopt it with 'sha256: {digest}'"):
        begin(encoder, fresh, wrong, tmp_path)


def test_in_a_worktree_the_weights_are_those_of_the_main_checkout(tmp_path: Path) -> None:
    main, tree = tmp_path / "main", tmp_path / "elsewhere/tree"
    git = ["git", "-C", str(main), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", str(main)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", str(tree)], check=True, stderr=subprocess.DEVNULL)
    encoder = encoders.build(encoders.Config(**MODEL))
    folder = main / "weights/before"
    folder.mkdir(parents=True)
    encoders.save(encoder, folder, {})
    initial = {"path": "weights/before", "sha256": artifacts.file_digest(folder / "encoder.safetensors")[:16]}
    definition = {
        "seed": "s0",
        "model": MODEL | {"initial": initial},
        "objective": {"module": "mae", **DECODER},
        "schedule": {"images_seen": 64, "batch_size": 8, "warmup_images": 0},
    }
    for root in (main, tree):
        run = start_run(definition, torch.device("cpu"), root=root)
        assert torch.equal(run.encoder.module.blocks[0].attn.qkv.weight, encoder.module.blocks[0].attn.qkv.weight)
    with pytest.raises(UserError, match=r"there is no .*elsewhere/weights/before"):
        start_run(definition, torch.device("cpu"), root=tmp_path / "elsewhere")


def test_simmim_with_a_released_swin(tmp_path: Path) -> None:
    """Released Swins merge patches at the end of a stage, and save what follows from sizes."""
    objective = made(SWIN, simmim)
    index = "encoder.layers.0.blocks.0.attn.relative_position_index"
    released = {index: torch.zeros(16, 16, dtype=torch.int64)}
    for name, tensor in objective.state_dict().items():
        moved = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
        released[moved] = tensor
    released["encoder.mask_token"] = released.pop("mask_token").view(1, 1, -1)
    torch.save({"model": released}, tmp_path / "simmim.pth")
    account = import_checkpoint(tmp_path / "simmim.pth", tmp_path / "out", SWIN)
    same(tmp_path / "out", objective)
    assert list(account["left_out"]) == [index]


#: Names of a block here, and in transformers.
BLOCK = {
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
PREFIX = {
    "encoder.blocks": "vit.encoder.layer",
    "decoder.blocks": "decoder.decoder_layers",
    "encoder.norm": "vit.layernorm",
    "encoder.cls_token": "vit.embeddings.cls_token",
    "encoder.pos_embed": "vit.embeddings.position_embeddings",
    "encoder.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "decoder.embed": "decoder.decoder_embed",
    "decoder.norm": "decoder.decoder_norm",
    "decoder.predict": "decoder.decoder_pred",
}


def test_transformers_has_query_key_and_value_apart(tmp_path: Path) -> None:
    objective = made(MODEL, mae, **DECODER | {"decoder_num_heads": 2})
    found: dict[str, Tensor] = {"decoder.decoder_pos_embed": POSITIONS}
    for ours, tensor in objective.state_dict().items():
        name = ours
        for here, there in PREFIX.items():
            name = there + name.removeprefix(here) if ours.startswith(here) else name
        for here, there in BLOCK.items():
            name = re.sub(rf"(\.\d+)\.{re.escape(here)}\.", rf"\1.{there}.", name)
        if ".attn.qkv." in name:
            for part, which in zip(tensor.chunk(3), ("query", "key", "value"), strict=True):
                found[name.replace("attn.qkv", f"attention.attention.{which}")] = part.contiguous()
        else:
            found[name] = tensor.contiguous()
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(found, folder / "model.safetensors")
    described = {
        "model_type": "vit_mae",
        "image_size": 32,
        "num_channels": 3,
        "patch_size": 8,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "decoder_num_attention_heads": 2,
        "mask_ratio": 0.75,
        "norm_pix_loss": False,
        "layer_norm_eps": 1e-12,
    }
    artifacts.write_json(folder / "config.json", described)
    account = import_checkpoint(folder, tmp_path / "out")
    same(tmp_path / "out", objective)
    assert "1e-12" in account["notes"][0]


def test_a_fine_tuned_encoder_keeps_its_classifier(tmp_path: Path) -> None:
    tuned = encoders.build(encoders.Config(**MODEL)).fresh(num_classes=5, global_pool="avg").module.eval()
    torch.save({"model": tuned.state_dict()}, tmp_path / "tuned.pth")
    import_checkpoint(tmp_path / "tuned.pth", tmp_path / "out", MODEL)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoders.load(tmp_path / "out").module.eval()(images), tuned(images))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm.weight": None}, "1 missing: norm.weight"),
        ({"other": torch.zeros(1)}, "1 unexpected: other"),
        ({"norm.weight": torch.zeros(25)}, r"norm.weight is \(25,\) and must be \(24,\)"),
    ],
)
def test_every_tensor_must_fit(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    state = {**encoders.build(encoders.Config(**MODEL)).module.state_dict(), **change}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=words):
        import_checkpoint(tmp_path / "x.pth", tmp_path / "out", MODEL)
    assert not (tmp_path / "out").exists()


class MakesAFolder:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "x": MakesAFolder()}, "code.pth")
    with pytest.raises(UserError, match="opening it would run code"):
        import_checkpoint(Path("code.pth"), tmp_path / "out", MODEL)
    assert not Path("ran").exists()


@pytest.mark.parametrize("content", [None, b"not weights"])
def test_files_that_are_none_are_said(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pth"):
        import_checkpoint(tmp_path / "x.pth", tmp_path / "out", MODEL)
