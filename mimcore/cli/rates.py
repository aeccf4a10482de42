"""Verbs that look for the best learning rate of a run."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mimcore import layout
from mimcore.cli.base import ANSWER, PARAMS, PREPARE, Params, RunName, app
from mimcore.errors import UserError
from mimcore.runs import Coordinates
from mimcore.study import Study

#: The option that is swept.
RATE = "base_learning_rate"


@app.command("sweep-rate", rich_help_panel=PREPARE)
def sweep_rate(
    run: RunName,
    factors: Annotated[
        list[float] | None, typer.Option("--factor", help="Of the run's learning rate; repeat for more.")
    ] = None,
    params: Params = PARAMS,
) -> None:
    """Add a run's neighbours in learning rate to the study: a schedule and an entry of study.extra for each factor."""
    from mimcore.definition import resolve
    from mimcore.training.schedule import Schedule
    from mimcore.yaml_edit import add_definitions, add_runs

    study = Study.read(params)
    at = _coordinates(study, run)
    options = study.options("schedules", at.schedule)
    rate = resolve(Schedule, options, f"schedules.{at.schedule}").base_learning_rate
    schedules: dict[str, dict[str, Any]] = {}
    for factor in factors or (0.5, 2.0):
        if factor <= 0:
            raise UserError(f"--factor: {factor:g} is no factor of a learning rate; give one above 0.")
        if factor != 1:
            name = f"{at.schedule}_rate{factor:g}".replace(".", "p").replace("-", "m").replace("+", "")
            schedules[name] = options | {RATE: float(f"{rate * factor:.12g}")}
    keys = ("objective", "model", "subset", "seed")
    runs = [Coordinates(**{key: getattr(at, key) for key in keys}, schedule=name) for name in schedules]
    add_definitions(params, "schedules", schedules)
    add_runs(params, {new.name: new.model_dump() for new in runs})
    print(f"{params}: {', '.join(new.name for new in runs)}. Next: dvc repro, then mimcore best-rate {run}")


@app.command("best-rate", rich_help_panel=ANSWER)
def best_rate(
    run: RunName,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Coverage of the intervals.")] = 0.95,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write what is found here.")] = None,
    params: Params = PARAMS,
) -> None:
    """Say how far a run is from its best learning rate, and what that costs, by the runs that differ in nothing else."""
    from mimcore.artifacts import write_json
    from mimcore.scaling.rate_sweep import fit_rates, sentences
    from mimcore.scaling.table import VAL_LOSS, read_results, runs_of

    study = Study.read(params)
    at = _coordinates(study, run)
    losses = {made.name: made.values[VAL_LOSS] for made in runs_of(read_results(layout.RESULTS / "results.parquet"))}
    found: dict[float, list[float]] = defaultdict(list)
    mine, own = _apart_from_rate(study, at)
    for name, other in study.runs.items():
        rest, rate = _apart_from_rate(study, other)
        if rest == mine and name in losses:
            found[rate].append(losses[name])
    pairs = [(rate, loss) for rate, some in sorted(found.items()) for loss in some]
    optimum = fit_rates([rate for rate, _ in pairs], [loss for _, loss in pairs], own, confidence)
    for rate, some in sorted(found.items()):
        print(f"{RATE} {rate:.4g}: validation loss {', '.join(f'{loss:.4f}' for loss in some)}")
    print("\n".join(sentences(optimum, confidence)))
    if json_file is not None:
        write_json(json_file, {"run": run, "losses": pairs, **vars(optimum)})


def _coordinates(study: Study, run: str) -> Coordinates:
    study.declared_run(run)  # says what is wrong with a name
    return study.runs[run]


def _apart_from_rate(study: Study, at: Coordinates) -> tuple[Any, float]:
    """What is declared of a run but its seed and learning rate, and the rate."""
    from mimcore.training.schedule import Schedule

    declared = study.declared_run(at.name)
    schedule = Schedule.model_validate(declared["schedule"])
    rest = {key: value for key, value in declared.items() if key not in ("seed", "schedule")}
    return (rest, schedule.model_dump(exclude={RATE})), schedule.base_learning_rate
