"""Verbs that say what to run next, and what will come of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimcore import layout
from mimcore.cli.base import ANSWER, PARAMS, Params, app
from mimcore.cli.plan import _subset_images
from mimcore.errors import UserError
from mimcore.runs import Coordinates, Phase
from mimcore.study import Study

if TYPE_CHECKING:
    import numpy as np

    from mimcore.plan.work import Counter
    from mimcore.scaling.estimate import Fit

Law = Annotated[str, typer.Option("--law", help="A law in encoder_params, unique_images and images_seen.")]
LAW = "repetition"
#: Refits behind advice and forecasts.
REFITS = 500


@app.command(rich_help_panel=ANSWER)
def advise(
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="FLOPs for all runs together; by default a tenth of what was spent."),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="The most runs.")] = 5,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="MODEL-SUBSET-SCHEDULE to forecast; by default the largest of each that params.yaml defines.",
        ),
    ] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="By default the study's first.")] = None,
    law: Law = LAW,
    write: Annotated[
        bool, typer.Option("--write", help="Add the runs to study.extra, and their forecasts to forecasts.json.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the advice here.")] = None,
    params: Params = PARAMS,
) -> None:
    """Name the next runs that narrow a forecast most for their cost, of those that params.yaml has definitions for."""
    import numpy as np
    from rich.console import Console

    from mimcore.artifacts import write_json
    from mimcore.plan.work import Counter
    from mimcore.scaling.advise import advise as choose
    from mimcore.scaling.advise import table

    study, counter = Study.read(params), Counter()
    of = objective or study.grid.objectives[0]
    fit, made = _fit(law, of)
    candidates = _candidates(study, of, made)
    if not candidates:
        raise UserError(
            f"{params}: every run of '{of}' that its definitions allow is made; define another model, schedule or seed, or a "
            "larger subset."
        )
    wanted = _target(study, of, target)
    variables, costs = _variables(study, candidates, counter)
    at, _ = _variables(study, [wanted], counter)
    limit = budget if budget is not None else float(np.nansum(fit.observations.columns["flops"])) / 10
    advice = choose(fit, variables, costs, at, limit, count, repeat=False)
    if not advice:
        raise UserError(
            f"--budget: {limit:.3g} FLOPs pay for none of {len(candidates)} candidates; the cheapest takes {costs.min():.3g}."
        )
    chosen = [candidates[one.index] for one in advice]
    names = [at.name for at in chosen]
    Console().print(table(fit, advice, names, at, f"{wanted.model}-{wanted.subset}-{wanted.schedule}"))
    if json_file is not None:
        rows = [{"run": name, **vars(one)} for name, one in zip(names, advice, strict=True)]
        write_json(json_file, {"target": wanted.name, "law": law, "budget": limit, "runs": rows})
    if write:
        from mimcore.yaml_edit import add_runs

        modules = {at.name: {**at.model_dump(), "module": study.module("objectives", of)} for at in chosen}
        add_runs(params, modules)
        written = _foresee(Study.read(params), fit, chosen, counter)
        print(
            f"{params}: {len(chosen)} runs added to study.extra, {written} forecasts to {layout.FORECASTS}. Next: dvc repro"
        )


@app.command(rich_help_panel=ANSWER)
def forecast(law: Law = LAW, params: Params = PARAMS) -> None:
    """Forecast every run of the study that is not made yet, in forecasts.json: the report will say hit or missed."""
    from mimcore.plan.work import Counter

    study, counter = Study.read(params), Counter()
    total = 0
    for objective in dict.fromkeys(at.objective for at in study.runs.values()):
        fit, made = _fit(law, objective)
        ahead = {name: at for name, at in study.runs.items() if at.objective == objective and name not in made}
        waiting = [at for at in ahead.values() if not isinstance(at, Phase)]  # a law of first runs says nothing of them
        if waiting:
            total += _foresee(study, fit, waiting, counter)
    print(f"{layout.FORECASTS}: {total} forecasts added." if total else "Every run of the study is made or forecast.")


def _fit(law: str, objective: str) -> "tuple[Fit, set[str]]":
    """The law, fitted to the runs of one objective, and the names of all runs in the results."""
    from mimcore import registry
    from mimcore.scaling.estimate import fit_law
    from mimcore.scaling.mapping import RESULTS_MAP, observe

    rows = observe(layout.RESULTS / "results.parquet", RESULTS_MAP)
    made = {str(name) for name in rows.columns["run"]}
    rows = rows.only(rows.columns["objective"] == objective)
    if not len(rows):
        raise UserError(f"the results have no run of objective '{objective}'; run 'dvc repro', or name another.")
    return fit_law(registry.load("law", law).Law(), rows, {"bootstrap": REFITS}), made


def _candidates(study: Study, objective: str, made: set[str]) -> list[Coordinates]:
    """Every run that could be listed under ``study.extra`` and is neither made nor in the study."""
    axes = (study.definitions["models"], study.grid.subsets, study.definitions["schedules"], study.grid.seeds)
    runs = [
        Coordinates(objective=objective, model=model, subset=subset, schedule=schedule, seed=seed)
        for model in axes[0]
        for subset in axes[1]
        for schedule in axes[2]
        for seed in axes[3]
    ]
    return [at for at in runs if at.name not in made and at.name not in study.runs]


def _target(study: Study, objective: str, target: str | None) -> Coordinates:
    seed = study.grid.seeds[0]
    if target is not None:
        parts = target.split("-")
        if len(parts) != 3:
            raise UserError(f"--target: '{target}' is not MODEL-SUBSET-SCHEDULE, such as small-n8192-long.")
        model, subset, schedule = parts
        for kind, name in (("models", model), ("subsets", subset), ("schedules", schedule)):
            study.options(kind, name)
        return Coordinates(objective=objective, model=model, subset=subset, schedule=schedule, seed=seed)
    from mimcore.plan.work import parameters

    return Coordinates(
        objective=objective,
        model=max(study.definitions["models"], key=lambda name: parameters(study.options("models", name))),
        subset=max(study.grid.subsets, key=lambda name: _subset_images(study, name, seed)),
        schedule=max(
            study.definitions["schedules"], key=lambda name: int(study.options("schedules", name)["images_seen"])
        ),
        seed=seed,
    )


def _variables(
    study: Study, runs: Sequence[Coordinates], counter: "Counter"
) -> "tuple[dict[str, np.ndarray], np.ndarray]":
    """What a law is asked with, and the training FLOPs of each run."""
    import numpy as np

    costs = [counter.cost(_definition(study, at)) for at in runs]
    seen = np.array([float(study.options("schedules", at.schedule)["images_seen"]) for at in runs])
    variables = {
        "encoder_params": np.array([float(cost.encoder_params) for cost in costs]),
        "unique_images": np.array([float(_subset_images(study, at.subset, at.seed)) for at in runs]),
        "images_seen": seen,
    }
    return variables, np.array([cost.training for cost in costs]) * seen


def _definition(study: Study, at: Coordinates) -> Mapping[str, Any]:
    objective = {"module": study.module("objectives", at.objective)} | study.options("objectives", at.objective)
    return {"objective": objective, "model": study.options("models", at.model)}


def _foresee(study: Study, fit: "Fit", runs: Sequence[Coordinates], counter: "Counter") -> int:
    from mimcore.scaling.forecasts import foresee, store
    from mimcore.scaling.table import VAL_LOSS

    names = [at.name for at in runs]
    variables, _ = _variables(study, runs, counter)
    return len(
        store(layout.FORECASTS, foresee(fit, variables, names, [study.declared_run(name) for name in names], VAL_LOSS))
    )
