"""Verbs that say what to run next, and what will come of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mimcore import layout
from mimcore.cli.base import ANSWER, PARAMS, Params, app
from mimcore.cli.candidates import (
    Candidates,
    gpu_hours,
    of_study,
    of_table,
    schedules_of_length,
    target_of,
    variables_of,
)
from mimcore.cli.runs_made import runs_made, spent
from mimcore.errors import UserError
from mimcore.runs import Coordinates, Phase
from mimcore.study import Study

if TYPE_CHECKING:
    import numpy as np

    from mimcore.plan.work import Counter
    from mimcore.scaling.estimate import Fit
    from mimcore.scaling.table import Run

Law = Annotated[
    str | None,
    typer.Option(
        "--law", help="A file of mimcore/scaling/laws; by default what the fit chose, else one that the runs allow."
    ),
]


@app.command(rich_help_panel=ANSWER)
def advise(
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="FLOPs for all runs together; by default as many as were spent."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--gpu-hours", min=0, help="The budget in hours of one GPU instead; with --gpu.")
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="A GPU by name, such as h100.")] = None,
    utilisation: Annotated[
        float, typer.Option("--utilisation", min=0.01, max=1.0, help="Part of the GPU's peak rate that is reached.")
    ] = 0.35,
    count: Annotated[int, typer.Option("--count", min=1, help="The most runs.")] = 5,
    table: Annotated[
        Path | None,
        typer.Option("--candidates", help="A CSV or Parquet table of runs that could be made, instead of all."),
    ] = None,
    mapping: Annotated[Path | None, typer.Option("--map", help="What its columns mean (YAML).")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="MODEL-SUBSET-SCHEDULE to forecast; by default the largest of each that params.yaml defines.",
        ),
    ] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="By default the study's first.")] = None,
    law: Law = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Add the runs to study.extra, of those that the study has not, and their forecasts to forecasts.json.",
        ),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the advice here.")] = None,
    params: Params = PARAMS,
) -> None:
    """Name the next runs that narrow a forecast most for their cost, of those that params.yaml has definitions for."""
    from rich.console import Console

    from mimcore.artifacts import write_json
    from mimcore.plan.work import Counter
    from mimcore.scaling.advise import choose
    from mimcore.scaling.advise import table as told
    from mimcore.scaling.applicable import held, refuse_strangers
    from mimcore.scaling.outlook import LOSS

    if (gpu is None) != (hours is None) or (hours is not None and budget is not None):
        raise UserError("a budget is --budget FLOPS, or --gpu-hours HOURS of a --gpu NAME; give one of the two.")
    if mapping is not None and table is None:
        raise UserError("--map says what the columns of --candidates mean; give both.")
    study, counter = Study.read(params), Counter()
    of, made = objective or study.grid.objectives[0], runs_made(study)
    fit = _fit(study, law, of, made)
    wanted = target_of(study, of, target, schedules_of_length(study, held(fit).get("images_seen")))
    at, _ = variables_of(study, [wanted], counter)
    about = f"{wanted.model}-{wanted.subset}-{wanted.schedule}"
    refuse_strangers(fit, at, [about], "--target")
    # What waits in the study may be made next, and cannot be added to it.
    taken = {run.name for run in made} | (set(study.runs) if write else set())
    candidates = _answerable(fit, study, of, made, taken, counter, table, mapping)
    costs = candidates.flops if gpu is None else gpu_hours(candidates, gpu, utilisation)
    unit = "FLOPs" if gpu is None else f"{gpu.upper()} hours"
    limit = next((given for given in (budget, hours) if given is not None), spent(LOSS.of(made, of)))
    if limit is None:
        raise UserError(
            f"no run of '{of}' says how many FLOPs it took; give --budget FLOPS, or --gpu-hours HOURS and --gpu NAME."
        )
    advice = choose(fit, candidates.variables, costs, at, limit, count)
    if not advice:
        raise UserError(
            f"{'--budget' if gpu is None else '--gpu-hours'}: {limit:.3g} {unit} pay for none of {len(costs)} candidates; the "
            f"cheapest takes {costs.min():.3g}."
        )
    names = [candidates.names[one.index] for one in advice]
    Console().print(told(fit, advice, names, at, about, unit))
    print(f"By the law '{fit.law.name}', fitted to {len(fit.observations)} runs.")
    if json_file is not None:
        rows = [{"run": name, **vars(one)} for name, one in zip(names, advice, strict=True)]
        write_json(json_file, {"target": wanted.name, "law": fit.law.name, "budget": limit, "unit": unit, "runs": rows})
    if write:
        _write(study, fit, [(candidates.names[one.index], candidates.runs[one.index]) for one in advice], counter)


@app.command(rich_help_panel=ANSWER)
def forecast(law: Law = None, params: Params = PARAMS) -> None:
    """Forecast every run of the study that is not made yet, in forecasts.json: the report will say hit or missed."""
    from mimcore.plan.work import Counter
    from mimcore.scaling.applicable import answers, refuse_strangers

    study, counter = Study.read(params), Counter()
    made = runs_made(study)
    names, total, silent = {run.name for run in made}, 0, 0
    for objective in dict.fromkeys(at.objective for at in study.runs.values()):
        fit = _fit(study, law, objective, made)
        ahead = {name: at for name, at in study.runs.items() if at.objective == objective and name not in names}
        waiting = [at for at in ahead.values() if not isinstance(at, Phase)]  # a law of first runs says nothing of them
        if waiting:
            variables, _ = variables_of(study, waiting, counter)
            mask = answers(fit, variables)
            if not mask.any():
                refuse_strangers(fit, variables, [at.name for at in waiting], "forecast")
            total += _foresee(study, fit, [at for at, asked in zip(waiting, mask, strict=True) if asked], counter)
            silent += int((~mask).sum())
    if silent:
        print(f"Of {silent} runs the law says nothing: those that were made do not differ in what these do.")
    print(f"{layout.FORECASTS}: {total} forecasts added." if total else "Every run of the study is made or forecast.")


def _fit(study: Study, law: str | None, objective: str, made: "Sequence[Run]") -> "Fit":
    """The law, fitted to the runs of one objective."""
    from mimcore.artifacts import read_json
    from mimcore.scaling.applicable import chosen_law, fit_asked
    from mimcore.scaling.outlook import LOSS
    from mimcore.scaling.rows import observations

    rows = observations(LOSS.of(made, objective), LOSS.measure)
    if rows is None:
        raise UserError(
            f"there is no run of objective '{objective}'; run 'dvc repro', take in those of a table with 'mimcore import-runs', or name "
            "another."
        )
    fitted = layout.FIT / "fit.json"
    chosen = chosen_law(read_json(fitted), objective) if fitted.is_file() else None
    return fit_asked(rows, chosen, law)


def _answerable(
    fit: "Fit",
    study: Study,
    objective: str,
    made: "Sequence[Run]",
    taken: set[str],
    counter: "Counter",
    table: Path | None,
    mapping: Path | None,
) -> Candidates:
    """The candidates that the law can be asked of."""
    from mimcore.scaling.applicable import answers, held, refuse_strangers

    if table is not None:
        found = of_table(study, table, mapping, fit, made, taken)
        refuse_strangers(fit, found.variables, found.names, str(table))
        return found
    found = of_study(study, objective, taken, counter)
    mask: np.ndarray = answers(fit, found.variables)
    if not mask.any():
        shared = " and ".join(f"{name} {value:,.0f}" for name, value in held(fit).items())
        raise UserError(
            f"{study.file}: all runs that were made have {shared}, and no candidate has, so that no law says what they would reach; "
            "define one that shares it, or make runs that differ in it."
        )
    return found.only(mask)


def _write(study: Study, fit: "Fit", chosen: Sequence[tuple[str, Coordinates | None]], counter: "Counter") -> None:
    """Add runs to the study file, and their forecasts."""
    from mimcore.yaml_edit import add_runs

    runs = []
    for name, at in chosen:
        if at is None:
            raise UserError(
                f"--write: '{name}' is no run that {study.file} has definitions for; call it "
                "objective-model-subset-schedule-seed by names that are defined there."
            )
        runs.append(at)
    add_runs(study.file, {at.name: at.model_dump() for at in runs})
    written = _foresee(Study.read(study.file), fit, runs, counter)
    print(
        f"{study.file}: {len(runs)} runs added to study.extra, {written} forecasts to {layout.FORECASTS}. Next: dvc repro"
    )


def _foresee(study: Study, fit: "Fit", runs: Sequence[Coordinates], counter: "Counter") -> int:
    from mimcore.scaling.forecasts import foresee, store
    from mimcore.scaling.table import VAL_LOSS

    names = [at.name for at in runs]
    variables, _ = variables_of(study, runs, counter)
    return len(
        store(layout.FORECASTS, foresee(fit, variables, names, [study.declared_run(name) for name in names], VAL_LOSS))
    )
