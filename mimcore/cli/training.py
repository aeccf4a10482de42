"""Verbs that train."""

import sys
from pathlib import Path

import typer

from mimcore import layout
from mimcore.cli.base import PARAMS, WORK, Params, RunName, app
from mimcore.launch import launch, launched, rank
from mimcore.study import Study


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
