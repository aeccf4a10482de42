"""Verbs that bring weights in and out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimcore import layout
from mimcore.artifacts import read_json
from mimcore.cli.base import PARAMS, PREPARE, Params, app
from mimcore.errors import UserError
from mimcore.study import Study

if TYPE_CHECKING:
    from mimcore.weights.publishing import Evidence


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


@app.command(rich_help_panel=PREPARE)
def publish(
    run: Annotated[str, typer.Argument(help="Name of a run, or the folder of a run or an import.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    licence: Annotated[str, typer.Option("--license", help="Of the weights: an SPDX identifier, such as apache-2.0.")],
    data: Annotated[str | None, typer.Option(help="What the images are, for the card.")] = None,
) -> None:
    """Write a run as a folder for the Hugging Face hub: weights that timm loads, model card, provenance."""
    from mimcore.weights.publishing import Statement
    from mimcore.weights.publishing import publish as work

    folder = Path(run) if Path(run).is_dir() else layout.run(run)
    work(folder.name, folder, _evidence(folder), out, Statement(licence, data))
    print(f"{out}: timm.create_model('local-dir:{out}', pretrained=True) loads it; README.md is the card.")


def _evidence(folder: Path) -> "Evidence":
    """What the artifacts beside a run's folder say of it; nothing where it lies elsewhere."""
    from mimcore.weights.publishing import Evidence

    if folder != layout.run(folder.name):
        return Evidence({}, {}, {})
    definition = read_json(folder / "metrics.json")["definition"]
    found = {file.parent.name: read_json(file) for file in layout.evaluation(folder.name, "").glob("*/metrics.json")}
    # What was measured of a run of other definitions, and not brought up to date since, says nothing of this one.
    evals = {task: one for task, one in found.items() if one["definition"]["run"] == definition}
    floors: dict[str, Any] = {}
    for task, one in evals.items():
        wanted = {**one["definition"], "model": definition["model"]}
        del wanted["run"]
        for file in layout.ARTIFACTS.glob(f"floors/*/{task}/metrics.json"):
            if (floor := read_json(file))["definition"] == wanted:
                floors[task] = floor
    record = layout.provenance(folder)
    return Evidence(evals, floors, read_json(record) if record.is_file() else {})
