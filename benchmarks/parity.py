"""The same weights, images and masks in the released code and here: how far are loss and gradients apart?

python benchmarks/parity.py --mae CHECKOUT --simmim CHECKOUT --swin CHECKOUT_OF_MICROSOFT_SWIN_TRANSFORMER

transformers takes part where it is installed. The other's model is made first, its weights shaken so that every one of them
counts, saved as a checkpoint, and imported here by ``mimcore.weights``: the names are compared on the way. Both are in
float32; masks are drawn here and given to the other. Of a tensor's gradient the greatest difference over its greatest value is
told, of the loss the relative difference. peers.py says what lets the old code run today. The exit status is 1 where anything
differs by more than 1e-5.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import peers
import torch
from mimcore.weights.read import read_tensors
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mimcore import registry
from mimcore.artifacts import file_digest, read_json
from mimcore.definition import resolve
from mimcore.models import encoder as encoders
from mimcore.models.continued import begin
from mimcore.weights.importing import import_checkpoint

TOLERANCE = 1e-5
BATCH = 4
#: ViT-S/16 and B/16 of 96 px: a decoder of the paper's width, two blocks deep.
VITS = {"ViT-S": (384, 12, 6), "ViT-B": (768, 12, 12)}
SWIN_T: dict[str, Any] = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 6}


def mae_shape(name: str) -> peers.Shape:
    width, depth, heads = VITS[name]
    return peers.Shape(96, 16, width, depth, heads, decoder_depth=2)


def settings() -> Iterator[tuple[str, str]]:
    """What is compared, and with whom."""
    for name in VITS:
        for target in ("pixels", "norm_pix_loss"):
            yield f"MAE, {name}, {target}", "official"
            yield f"MAE, {name}, {target}", "transformers"
    for name in ("ViT-B", "Swin-T", "SwinV2-T, target_window"):
        yield f"SimMIM, {name}", "official"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mae", type=Path, help="a checkout of facebookresearch/mae")
    parser.add_argument("--simmim", type=Path, help="a checkout of microsoft/SimMIM")
    parser.add_argument("--swin", type=Path, help="a checkout of microsoft/Swin-Transformer, for SwinV2")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print("> " + json.dumps(compare(arguments, *arguments.worker)))
        return 0
    rows: list[dict[str, Any]] = []
    for setting, name in settings():
        if name == "transformers" and "transformers" not in peers.names([]):
            continue
        if name == "official" and checkout(arguments, setting) is None:
            continue
        # A process for each: two of the checkouts call a package of theirs 'models'.
        made = subprocess.run(
            # Without warnings: old code has many.
            [sys.executable, "-W", "ignore", *sys.argv, "--worker", setting, name],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        answer = next(line for line in made.stdout.splitlines() if line.startswith("> "))
        for unit, value in json.loads(answer[2:]).items():
            rows.append(
                {"benchmark": "parity", "setting": setting, "implementation": name, "value": value, "unit": unit}
            )
    Console().print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row["value"] > TOLERANCE for row in rows if row["unit"].endswith("difference")))


def checkout(arguments: argparse.Namespace, setting: str) -> Path | None:
    found: Path | None = (
        arguments.mae if setting.startswith("MAE") else arguments.swin if "SwinV2" in setting else arguments.simmim
    )
    return found


def compare(arguments: argparse.Namespace, setting: str, name: str) -> dict[str, float]:
    """Differences between one of theirs and ours."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    theirs, model, objective, side, call = (mae if setting.startswith("MAE") else simmim)(arguments, setting, name)
    shake(theirs)
    with tempfile.TemporaryDirectory() as folder:
        file = save(theirs, Path(folder) / "theirs")
        account = import_checkpoint(file, Path(folder) / "ours", model, objective)
        ours = imported(Path(folder) / "ours", model, objective)
    images = torch.randn(BATCH, 3, side, side)
    drawn = ours.draw(BATCH, torch.Generator().manual_seed(0))
    losses = [call(theirs, images, drawn, ours), ours(images, drawn)["loss"]]
    for loss in losses:
        loss.backward()
    wanted = gradients(theirs)
    apart = 0.0
    found = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    for target, gradient in found.items():
        expected = torch.cat([wanted.pop(source).flatten() for source in account["taken"][target]])
        differs = float((gradient.flatten() - expected).abs().max() / expected.abs().max())
        if not math.isfinite(differs):
            raise SystemExit(f"{setting}: the gradient of {target} is zero or not finite, and says nothing")
        apart = max(apart, differs)
    if wanted:
        raise SystemExit(f"{setting}: no gradient here for {', '.join(wanted)}")
    theirs_, ours_ = (loss.item() for loss in losses)
    return {
        "loss": ours_,
        "loss, relative difference": abs(ours_ - theirs_) / theirs_,
        "gradient, greatest difference": apart,
        "gradients compared": len(found),
    }


def save(theirs: nn.Module, where: Path) -> Path:
    """A checkpoint as its users have it."""
    if hasattr(theirs, "save_pretrained"):
        theirs.save_pretrained(where)
        return where
    torch.save({"model": theirs.state_dict()}, where)
    return where


def gradients(theirs: nn.Module) -> dict[str, Tensor]:
    """By the names that its checkpoints have: transformers has others in memory, so that they are saved in the place of the weights."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        trained = [p for p in theirs.parameters() if p.grad is not None]
        fixed = {name for name, p in theirs.named_parameters() if p.grad is None}
        for parameter in trained:
            parameter.copy_(parameter.grad)  # type: ignore[arg-type]
        tensors, _ = read_tensors(save(theirs, Path(folder) / "gradients"))
        buffers = {name for name, _ in theirs.named_buffers()}
        return {name: tensor.clone() for name, tensor in tensors.items() if name not in fixed | buffers}


def shake(model: nn.Module) -> None:
    """Move zeros and ones away from where they start."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn_like(parameter)


def imported(folder: Path, model: dict[str, Any], objective: dict[str, Any]) -> Any:
    """Our objective with the imported weights, as a run continues from them."""
    initial = {"path": str(folder), "sha256": file_digest(folder / "encoder.safetensors"), "objective": True}
    config = resolve(encoders.Config, model | {"initial": initial}, "models")
    options = dict(objective)
    module = registry.load("objective", options.pop("module"))
    encoder = encoders.build(config)
    found = module.Objective(encoder, resolve(module.Config, options, "objectives"))
    begin(encoder, found, config, folder)
    assert read_json(folder / "import.json")["taken"]
    return found


Call = Callable[[Any, Tensor, Tensor, Any], Tensor]
Case = tuple[nn.Module, dict[str, Any], dict[str, Any], int, Call]


def mae(arguments: argparse.Namespace, setting: str, name: str) -> Case:
    """Their MAE, how it is described here, and how it is called with our masks."""
    shape = mae_shape(setting.split(", ")[1])
    norm_pix_loss = setting.endswith("norm_pix_loss")
    model = {
        "architecture": "vit_base_patch16_224",
        "image_size": shape.image_size,
        "embed_dim": shape.embed_dim,
        "depth": shape.depth,
        "num_heads": shape.num_heads,
    }
    objective = {
        "module": "mae",
        "norm_pix_loss": norm_pix_loss,
        "decoder_embed_dim": shape.decoder_embed_dim,
        "decoder_depth": shape.decoder_depth,
        "decoder_num_heads": shape.decoder_num_heads,
    }
    if name == "transformers":
        # Its epsilon is 1e-12 unless told; the weights that it ships were trained with 1e-6.
        theirs: Any = peers.transformers_mae_model(shape, norm_pix_loss, layer_norm_eps=1e-6)
        # Version 5 leaves the positions of a new model at zero; these are its own functions that fill them.
        theirs.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
        theirs.vit.embeddings.initialize_weights()
        theirs.decoder.initialize_weights((shape.image_size // shape.patch_size) ** 2)
        return theirs, transformers_described(model, shape), objective, shape.image_size, call_transformers
    theirs = peers.official_mae_model(shape, arguments.mae, norm_pix_loss)
    return theirs, model, objective, shape.image_size, call_mae


def transformers_described(model: dict[str, Any], shape: peers.Shape) -> dict[str, Any]:
    """As its ``config.json`` is read."""
    return model | {"channels": 3, "patch_size": shape.patch_size, "mlp_ratio": 4.0}


def noise(drawn: Tensor) -> Tensor:
    """Numbers that sort into the order that was drawn."""
    return drawn.argsort(dim=1) / drawn.shape[1]


def call_mae(theirs: Any, images: Tensor, drawn: Tensor, ours: Any) -> Tensor:
    # It draws from torch.rand, once: that call is answered with our masks.
    with mock.patch("torch.rand", return_value=noise(drawn)):
        loss: Tensor = theirs(images, 0.75)[0]
    return loss


def call_transformers(theirs: Any, images: Tensor, drawn: Tensor, ours: Any) -> Tensor:
    loss: Tensor = theirs(pixel_values=images, noise=noise(drawn)).loss
    return loss


def simmim(arguments: argparse.Namespace, setting: str, name: str) -> Case:
    """Their SimMIM, how it is described here, and how it is called with our masks."""
    objective: dict[str, Any] = {"module": "simmim", "mask_unit": 32}
    if "ViT" in setting:
        width, depth, heads = VITS["ViT-B"]
        shape = {"embed_dim": width, "depth": depth, "num_heads": heads}
        options = shape | {
            "img_size": 96,
            "patch_size": 16,
            "qkv_bias": True,
            "init_values": 0.1,
            "use_abs_pos_emb": False,
            "use_shared_rel_pos_bias": True,
            "use_mean_pooling": False,
            "norm_layer": lambda width: nn.LayerNorm(width, eps=1e-6),
        }
        model = shape | {
            "architecture": "beit_base_patch16_224",
            "image_size": 96,
            "positions": "relative_shared",
            "init_values": 0.1,
        }
        return peers.official_simmim_model("vit", options, arguments.simmim), model, objective, 96, call_simmim
    options = SWIN_T | {"img_size": 192, "patch_size": 4, "drop_path_rate": 0.0}
    kind, window = ("swinv2", 47) if "SwinV2" in setting else ("swin", None)
    architecture = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}[kind]
    if window:
        objective["target_window"] = window
    theirs = peers.official_simmim_model(kind, options, checkout(arguments, setting) or Path(), window)
    model = {"architecture": architecture, "image_size": 192, "window_size": 6}
    return theirs, model, objective, 192, call_simmim


def call_simmim(theirs: Any, images: Tensor, drawn: Tensor, ours: Any) -> Tensor:
    """Its mask has an entry for each patch."""
    times = ours.masks.times
    hidden = ours.masks.hidden(drawn).repeat_interleave(times, 1).repeat_interleave(times, 2)
    loss: Tensor = theirs(images, hidden.long())
    return loss


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table("setting", "beside", "loss", "loss differs by", "gradients differ by", "tensors")
    found = {(row["setting"], row["implementation"], row["unit"]): row["value"] for row in rows}
    for setting, name in dict.fromkeys((row["setting"], row["implementation"]) for row in rows):
        loss, apart, gradient, count = (
            found[setting, name, unit]
            for unit in (
                "loss",
                "loss, relative difference",
                "gradient, greatest difference",
                "gradients compared",
            )
        )
        shown.add_row(setting, name, f"{loss:.6f}", f"{apart:.1e}", f"{gradient:.1e}", f"{count:.0f}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
