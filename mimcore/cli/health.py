"""Verb of features: how many dimensions they use."""

from pathlib import Path
from typing import Annotated

import typer

from mimcore.cli.base import ANSWER, app


@app.command(rich_help_panel=ANSWER)
def health(files: Annotated[list[Path], typer.Argument(help="Features, as mimcore features writes them.")]) -> None:
    """Tell from features alone how many dimensions an encoder uses: RankMe and the effective rank."""
    from rich.console import Console
    from rich.table import Table

    from mimcore.scaling.health import health_of

    table = Table(title="Dimensions that the features use", title_justify="left")
    for column in ("features", "images", "dimensions", "RankMe", "effective rank"):
        table.add_column(column, justify="left" if column == "features" else "right", overflow="fold")
    for file in files:
        one = health_of(file)
        ranks = (f"{one.rankme:.1f}", f"{one.effective_rank:.1f}")
        table.add_row(str(file), f"{one.images:,}", f"{one.dimensions:,}", *ranks)
        if one.images < one.dimensions:
            print(f"{file}: fewer images than dimensions; no rank can exceed {one.images}.")
    Console().print(table)
    print(
        "A rank is no score: it bounds what a linear probe can use. Hold it against a task of yours before you choose by it."
    )
