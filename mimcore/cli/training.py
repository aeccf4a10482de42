"""Verbs that train."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mimcore import layout
from mimcore.cli.base import PARAMS, WORK, Params, RunName, app
from mimcore.definition import nearest
from mimcore.errors import UserError
from mimcore.launch import launch, launched, rank
from mimcore.study import Study


@app.command(rich_help_panel=WORK)
def prepare(
    name: Annotated[
        str, typer.Argument(help="OBJECTIVE-SUBSET-SEED, or the name of an extra run or a phase.", metavar="NAME")
    ],
    params: Params = PARAMS,
) -> None:
    """Let an objective learn of a subset what it needs before a run, such as a vocabulary."""
    from mimcore.artifacts import Provenance
    from mimcore.sampling.prepare import prepare as work

    study = Study.read(params)
    if name not in study.prepared:
        raise UserError(f"{params}: the study prepares no '{name}'; {nearest(name, study.prepared)}")
    objective, subset, seed = study.prepared[name]
    options, output = study.declared_objective(objective), layout.prepared(name)
    with Provenance(layout.provenance(output), f"prepare {name}", options, {"subset": f"{subset}-{seed}"}):
        learns = work(objective, options, layout.subset(subset, seed), output)
    print(f"{name}: prepared." if learns else f"{name}: '{options['module']}' has nothing to prepare.")


@app.command(rich_help_panel=WORK)
def pretrain(run: RunName, params: Params = PARAMS) -> None:
    """Pretrain one run of the study; a run that was interrupted goes on from its last checkpoint."""
    from mimcore.execution import slow_precision
    from mimcore.progress import Phases
    from mimcore.training.pretrain import pretrain as work

    study = Study.read(params)
    if study.execution.ranks > 1 and not launched():
        status = launch(
            [sys.executable, "-m", "mimcore", *sys.argv[1:]], study.execution.ranks, study.execution.restarts
        )
        raise typer.Exit(status)
    declared, at = study.declared_run(run), study.runs[run]
    output = layout.run(run)
    pool = study.options("pools", study.pool_of("subsets", at.subset))
    subset = layout.subset(at.subset, at.seed)
    provenance, scratch = layout.provenance(output), layout.SCRATCH / "runs"
    device = study.execution.start()
    if warning := slow_precision(device, str(declared["schedule"].get("precision", "bfloat16"))):
        print(f"warning: {warning}", file=sys.stderr)
    with Phases(f"pretrain {run}") as progress:
        result = work(
            run, declared, pool, subset, output, provenance, scratch, Path.cwd(), study.execution, device, progress
        )
    if rank():
        return
    losses = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    print(f"{run}: {losses}")
