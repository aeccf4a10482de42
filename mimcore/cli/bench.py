"""Verbs that measure."""

from pathlib import Path
from typing import Annotated

import typer

from mimcore import layout
from mimcore.cli.base import ANSWER, PARAMS, Params, RunName, app
from mimcore.errors import UserError
from mimcore.study import Study


@app.command(name="bench-data", rich_help_panel=ANSWER)
def bench_data(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A pool, or a subset with or without its seed such as n64-s0; by default the run's subset.",
            metavar="POOL|SUBSET",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="The run whose model and crops are used; by default the first that fits."),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="For all of it, about.")] = 20.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    params: Params = PARAMS,
) -> None:
    """Measure how fast images come to a training step, stage by stage, and name the one thing to change."""
    from rich.console import Console

    from mimcore.artifacts import write_json
    from mimcore.bench.advice import advice
    from mimcore.bench.data import measure, read_sample
    from mimcore.bench.table import rows, sentences, table
    from mimcore.progress import Phases

    study = Study.read(params)
    run, pool, file = _measured(study, what, run)
    sample, device = read_sample(file), study.execution.start()
    with Phases("bench-data", unit="parts") as progress:
        figures = measure(
            study.options("pools", pool),
            sample,
            study.declared_run(run),
            study.execution,
            device,
            Path.cwd(),
            seconds,
            progress,
        )
    title = f"{what or file.parent.name}, {run}"
    Console().print(table(figures, title))
    print(*sentences(figures), "", advice(figures), sep="\n")
    if json_file is not None:
        write_json(json_file, rows(figures, title))


@app.command(rich_help_panel=ANSWER)
def profile(
    run: RunName,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps to measure.")] = 5,
    out: Annotated[Path, typer.Option("--out", help="The trace, for Perfetto or chrome://tracing.")] = Path(
        "trace.json"
    ),
    params: Params = PARAMS,
) -> None:
    """Take a few steps of a run and say where their time goes; nothing is kept but the trace."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from mimcore.bench.data import read_sample
    from mimcore.bench.profile import profiled
    from mimcore.data.loader import Images
    from mimcore.training.loop import arriving, training_batches
    from mimcore.training.state import start_run
    from mimcore.training.step import speed_up

    study = Study.read(params)
    declared, at = study.declared_run(run), study.runs[run]
    rows = read_sample(layout.subset(at.subset, at.seed) / "manifest.parquet").rows
    device, pool = study.execution.start(), study.options("pools", study.pool_of("subsets", at.subset))
    state = start_run(declared, device)
    cache = study.execution.image_cache_mib
    images = Images(pool, rows, state.encoder.image_size, Path.cwd(), cache, state.encoder.channels)
    speed_up(state, study.execution, torch.from_numpy(images.get([0])))
    batches = training_batches(state, images, study.execution)
    found = profiled(state, arriving(state, batches, study.execution, 0, steps + 2), out, steps)
    table, total = Table("part of a step", "ms", "share", title=f"{run}, {device}"), sum(found.values())
    for part, milliseconds in found.items():
        table.add_row(part, f"{milliseconds:,.1f}", f"{milliseconds / total:.0%}")
    Console().print(table)
    print(f"trace: {out}")


def _measured(study: Study, what: str | None, run: str | None) -> tuple[str, str, Path]:
    """The run, the pool and the rows that ``bench-data`` measures."""
    runs = study.runs
    if run is not None:
        study.declared_run(run)
    if what in study.definitions["pools"]:
        fits = [name for name, at in runs.items() if study.pool_of("subsets", at.subset) == what]
        return run or next(iter(fits), next(iter(runs))), str(what), layout.index(str(what)) / "index.parquet"
    at = runs[run or next(iter(runs))]
    if what in study.grid.subsets:
        what = f"{what}-{study.grid.seeds[0]}"
    subset, _, seed = what.rpartition("-") if what else (at.subset, "", at.seed)
    if not subset:
        from mimcore.definition import nearest

        known = [*study.definitions["pools"], *(f"{name}-{s}" for name in study.grid.subsets for s in study.grid.seeds)]
        raise UserError(f"there is neither a pool nor a subset '{what}'; {nearest(str(what), known)}")
    pool = study.pool_of("subsets", subset)
    fits = [name for name, one in runs.items() if (one.subset, one.seed) == (subset, seed)]
    return run or next(iter(fits), next(iter(runs))), pool, layout.subset(subset, seed) / "manifest.parquet"
