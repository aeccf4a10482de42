"""A run's encoder as timm and the hub's tools read it."""

from pathlib import Path

from timm.models import save_for_hf

from mimcore import artifacts
from mimcore.models import encoder as encoders


def export_model(run: Path, output: Path) -> None:
    """Write ``model.safetensors`` and timm's ``config.json``: the folder of a model on the Hugging Face hub.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads it, and so does ``hf-hub:`` once it is uploaded; the
    normalisation of the images is in it.

    Raises:
        UserError: the run is incomplete, or the disk is full.
    """
    encoder = encoders.load(run)
    height, width = encoders.sides(encoder.image_size)
    inputs = {"input_size": (encoder.channels, height, width), "mean": encoder.mean, "std": encoder.std}
    with artifacts.directory(output) as part:
        save_for_hf(encoder.module, str(part), model_args=encoder.kwargs, safe_serialization=True, data_config=inputs)
