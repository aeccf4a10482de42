"""Checkpoints of others as the folder of a run: its encoder, and its decoder where the checkpoint has one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimcore import artifacts, registry
from mimcore.definition import resolve
from mimcore.errors import UserError
from mimcore.models import continued, families
from mimcore.models import encoder as encoders
from mimcore.models.read import read_config, read_tensors
from mimcore.weights.layouts import Layout, Translated, decoder_options, translate


def import_checkpoint(
    source: Path, output: Path, model: Mapping[str, Any] | None = None, objective: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read a checkpoint of MAE, SimMIM, transformers' ViTMAE or timm, and write it as a run's folder is written.

    Every tensor of the checkpoint is taken or left out for a stated reason, and every weight of the encoder (and of the
    objective, where the checkpoint has a decoder) must be there.

    Args:
        source: a ``.pth``, ``.bin`` or ``.safetensors`` file, or a folder in Hugging Face's layout.
        output: folder to write: ``encoder.safetensors``, ``model.json``, ``import.json``, and ``objective.safetensors``.
        model: options of ``models`` that it is; read off ``config.json`` where that is of transformers.
        objective: options of ``objectives`` that its decoder is of, with ``module``; by default those of its layout.

    Returns:
        What ``import.json`` holds: ``source``, ``sha256``, ``layout``, ``taken`` (name here -> names there), ``left_out``
        (name -> reason), ``notes``.

    Raises:
        UserError: the checkpoint cannot be read, or a tensor is missing, unexpected, or of another shape.
    """
    tensors, file = read_tensors(source)
    described = read_config(source)
    layout, found = translate(tensors)
    if layout == "transformers":
        model = model or transformers_model(described, source)
    elif model is None:
        raise UserError(
            f"{source} does not say which architecture it is; name it, such as --architecture vit_base_patch16_224."
        )
    encoder = _encoder(found, resolve(encoders.Config, model, "models"), source)
    definition: dict[str, Any] = {"model": dict(model)}
    with artifacts.directory(output) as part:
        if found.objective:
            definition["objective"] = dict(objective or default_objective(layout, found, described))
            _check_objective(encoder, found, definition["objective"], source)
            continued.save_objective(found.objective, part)
        encoders.save(encoder, part, definition)
        account = {
            "source": str(source),
            "sha256": artifacts.file_digest(file),
            "layout": layout,
            "taken": found.sources,
            "left_out": found.left_out,
            "notes": found.notes + _notes(layout, described),
        }
        artifacts.write_json(part / "import.json", account)
    return account


def _encoder(found: Translated, config: encoders.Config, source: Path) -> encoders.Encoder:
    """The encoder with the checkpoint's weights; a classifier, and the norm of a fine-tuned one, are kept."""
    kwargs = encoders.timm_options(config)
    head = next((t for name, t in found.encoder.items() if name in ("head.weight", "head.fc.weight")), None)
    if head is not None:
        kwargs["num_classes"] = head.shape[0]
    if any(name.startswith("fc_norm.") for name in found.encoder):
        kwargs["global_pool"] = "avg"
    module = families.create(config.architecture, kwargs)
    problems = continued.differences(module.state_dict(), found.encoder)
    if problems:
        raise UserError(f"{source} is not the '{config.architecture}' that is described: {'; '.join(problems)}.")
    module.load_state_dict(found.encoder, strict=True)
    return encoders.Encoder(
        module, config.architecture, kwargs, config.image_size, *encoders.statistics(config.channels)
    )


def _check_objective(encoder: encoders.Encoder, found: Translated, options: Mapping[str, Any], source: Path) -> None:
    given = dict(options)
    module = registry.load("objective", given.pop("module"))
    target = module.Objective(encoder, resolve(module.Config, given, "objectives"))
    problems = continued.differences(continued.other_weights(target), found.objective)
    if problems:
        raise UserError(f"the decoder of {source} is not the objective that is described: {'; '.join(problems)}.")


def default_objective(layout: Layout, found: Translated, described: Mapping[str, Any]) -> dict[str, Any]:
    """The objective that a decoder of this layout belongs to; MAE's heads are 16 where nothing says otherwise (He et al. 2022)."""
    if layout == "simmim":
        return {"module": "simmim"}
    options = {"module": "mae", **decoder_options(found, int(described.get("decoder_num_attention_heads", 16)))}
    if layout == "transformers":
        options |= {"mask_ratio": described["mask_ratio"], "norm_pix_loss": described["norm_pix_loss"]}
    return options


def transformers_model(described: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Options of ``models`` of a ViTMAE's ``config.json``.

    Raises:
        UserError: it is missing, or of another model.
    """
    if described.get("model_type") != "vit_mae":
        raise UserError(f"{source} has no config.json of a ViTMAE beside it; fetch it, or name the architecture.")
    return {
        "architecture": "vit_base_patch16_224",
        "image_size": described["image_size"],
        "channels": described["num_channels"],
        "patch_size": described["patch_size"],
        "embed_dim": described["hidden_size"],
        "depth": described["num_hidden_layers"],
        "num_heads": described["num_attention_heads"],
        "mlp_ratio": described["intermediate_size"] / described["hidden_size"],
    }


def _notes(layout: Layout, described: Mapping[str, Any]) -> list[str]:
    epsilon = described.get("layer_norm_eps")
    if layout != "transformers" or epsilon in (None, 1e-6):
        return []
    return [
        f"config.json has a layer_norm_eps of {epsilon}; here it is 1e-6, as in the code that the weights were trained with"
    ]
