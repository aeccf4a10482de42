"""What the verbs share: the application that they join, and the names that they are given."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="mimcore",
    help="Scaling studies of masked image modeling. A study is declared in params.yaml; 'dvc repro' runs the stages below that are stale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Params = Annotated[Path, typer.Option("--params", help="The study file.")]
PARAMS = Path("params.yaml")
PoolName = Annotated[str, typer.Argument(help="A name under 'pools'.", metavar="POOL")]
SubsetName = Annotated[str, typer.Argument(help="A name under 'subsets'.", metavar="SUBSET")]
SeedName = Annotated[str, typer.Argument(help="A replicate, such as s0.", metavar="SEED")]
ModelName = Annotated[str, typer.Argument(help="A name under 'models'.", metavar="MODEL")]
TaskName = Annotated[str, typer.Argument(help="A name under 'tasks'.", metavar="TASK")]
ProbeName = Annotated[
    str, typer.Argument(help="A name under 'tasks' that the study lists as a probe.", metavar="PROBE")
]
FeaturesName = Annotated[str, typer.Argument(help="A name under 'features'.", metavar="FEATURES")]
ExamplesName = Annotated[str, typer.Argument(help="A name under 'tasks' or 'features'.", metavar="NAME")]
RunName = Annotated[
    str,
    typer.Argument(
        help="Its coordinates: objective-model-subset-schedule-seed, such as mae-tiny-n64-short-s0.", metavar="RUN"
    ),
]
PREPARE, WORK, ANSWER = "Set up", "Stages (run by 'dvc repro')", "Look"
