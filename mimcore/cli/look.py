"""Verbs for people who look at a study; no stage is among them."""

from pathlib import Path
from typing import Annotated

import typer

from mimcore import layout
from mimcore.cli.base import ANSWER, PARAMS, Params, SubsetName, app
from mimcore.study import Study


@app.command(rich_help_panel=ANSWER)
def look(
    subset: SubsetName,
    seed: Annotated[
        str | None, typer.Argument(help="A replicate; by default the study's first.", metavar="SEED")
    ] = None,
    params: Params = PARAMS,
) -> None:
    """Write a page that shows a subset beside its pool: pictures, distributions, words, near copies."""
    from mimcore.look.page import look as work
    from mimcore.progress import Phases

    study = Study.read(params)
    pool, seed = study.pool_of("subsets", subset), seed or study.grid.seeds[0]
    title, output = f"{subset}-{seed}", layout.look(subset, seed)
    with Phases(f"look {title}", unit="parts") as progress:
        page = work(
            title,
            layout.subset(subset, seed),
            layout.index(pool),
            study.options("pools", pool),
            output,
            Path.cwd(),
            progress,
        )
    print(page)


@app.command(rich_help_panel=ANSWER)
def explain(
    stage: Annotated[str, typer.Argument(help="A stage as 'dvc stage list' names it, such as collect.")],
) -> None:
    """Say in words why a stage is stale, or that it is not."""
    from mimcore.explain import explain as work
    from mimcore.modules import read_code

    print(work(stage, read_code(**Study.read(PARAMS).modules)))
