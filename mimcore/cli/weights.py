"""Verbs that bring weights in and out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mimcore import layout
from mimcore.cli.base import PARAMS, PREPARE, Params, app
from mimcore.errors import UserError
from mimcore.study import Study


@app.command("import", rich_help_panel=PREPARE)
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A .pth, .bin or .safetensors file, or a folder of the hub.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    model: Annotated[str | None, typer.Option(help="The name under 'models' that it is.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Or timm's name of it.")] = None,
    image_size: Annotated[int, typer.Option(help="With --architecture: side of its images, pixels.")] = 224,
    objective: Annotated[str | None, typer.Option(help="The name under 'objectives' that its decoder is of.")] = None,
    params: Params = PARAMS,
) -> None:
    """Import a checkpoint of MAE, SimMIM, transformers' ViTMAE or timm as the folder of a run."""
    from mimcore.weights.importing import import_checkpoint

    if model is not None and architecture is not None:
        raise UserError("--model and --architecture both say what it is; give one.")
    described: dict[str, Any] | None = None
    if architecture is not None:
        described = {"architecture": architecture, "image_size": image_size}
    elif model is not None:
        described = Study.read(params).options("models", model)
    decoder: dict[str, Any] | None = None
    if objective is not None:
        study = Study.read(params)
        decoder = {"module": study.module("objectives", objective)} | study.options("objectives", objective)
    found = import_checkpoint(checkpoint, out, described, decoder)
    print(
        f"{out}: {len(found['taken'])} tensors of {found['layout']}'s layout; {len(found['left_out'])} left out (import.json)."
    )
    for note in found["notes"]:
        print(note)


@app.command("export-model", rich_help_panel=PREPARE)
def export_model(
    run: Annotated[str, typer.Argument(help="Name of a run, or the folder of a run or an import.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Write a run's encoder as timm and the Hugging Face hub read it: model.safetensors and config.json."""
    from mimcore.weights.exporting import export_model as work

    folder = Path(run) if Path(run).is_dir() else layout.run(run)
    work(folder, out)
    print(f"{out}: timm.create_model('local-dir:{out}', pretrained=True) loads it.")
