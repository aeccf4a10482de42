"""Verbs of the study file."""

from pathlib import Path
from typing import Annotated

import typer

from mimcore import layout
from mimcore.cli.base import PARAMS, PREPARE, WORK, Params, app
from mimcore.errors import UserError
from mimcore.study import Study


@app.command(rich_help_panel=PREPARE)
def use(
    study: Annotated[Path, typer.Argument(help="A study file, such as studies/digits.yaml.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a params.yaml that you have edited.")] = False,
) -> None:
    """Put a study in force: check it and copy it to params.yaml."""
    chosen = Study.read(study)
    chosen.check()
    ready = {file.read_bytes() for file in Path("studies").rglob("*.yaml")}
    if PARAMS.exists() and PARAMS.read_bytes() not in ready and not force:
        raise UserError(
            "params.yaml holds edits of your own that no file of studies/ has; save it there under a name, or add --force to replace it."
        )
    from mimcore.artifacts import file

    with file(PARAMS) as part:
        part.write_bytes(study.read_bytes())
    grid = chosen.grid
    measures = ", ".join(grid.measures)
    print(f"params.yaml is now '{grid.title}': {len(chosen.runs)} runs, measured by {measures}. Next: dvc repro")


@app.command(rich_help_panel=PREPARE)
def check(
    params: Params = PARAMS,
    out: Annotated[Path | None, typer.Option(help="Write a small JSON file if all is well.")] = None,
) -> None:
    """Check every definition of the study and name all mistakes at once."""
    from mimcore.artifacts import write_json

    study = Study.read(params)
    study.check()
    if out is not None:
        write_json(out, {"valid": True})
    print(f"{params}: {len(study.runs)} runs, no mistake found.")


@app.command(rich_help_panel=WORK)
def modules(params: Params = PARAMS) -> None:
    """Write which files of this package each stage, objective and task can reach, with their digests."""
    from mimcore.modules import read_code, write_modules

    write_modules(read_code(**Study.read(params).modules), layout.MODULES)
