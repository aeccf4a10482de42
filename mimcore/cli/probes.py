"""Verbs of frozen features and the probes on them."""

from mimcore import layout
from mimcore.cli.base import PARAMS, WORK, FeaturesName, ModelName, Params, ProbeName, RunName, app
from mimcore.cli.evaluation import job, print_subjects
from mimcore.study import Study


@app.command(rich_help_panel=WORK)
def extract(run: RunName, features: FeaturesName, params: Params = PARAMS) -> None:
    """Put images through a run's encoder once, for all probes."""
    from mimcore.evaluation.extract import extract_run

    study = Study.read(params)
    definition = {"features": study.options("features", features), "run": study.declared_run(run)}
    title, output = f"extract {run} {features}", layout.features(run, features)
    with job(study, features, definition, layout.examples(features), output, title) as given:
        extract_run(run, layout.run(run), given)


@app.command(rich_help_panel=WORK)
def extract_floor(model: ModelName, features: FeaturesName, params: Params = PARAMS) -> None:
    """Put images through the untrained model once, and keep raw pixels beside."""
    from mimcore.evaluation.extract import extract_floor as work

    study = Study.read(params)
    definition = {"features": study.options("features", features), "model": study.options("models", model)}
    title, output = f"extract-floor {model} {features}", layout.features(model, features)
    with job(study, features, definition, layout.examples(features), output, title) as given:
        work(model, given)


@app.command(rich_help_panel=WORK)
def probe(run: RunName, task: ProbeName, params: Params = PARAMS) -> None:
    """Probe a run's frozen features."""
    from mimcore.evaluation.probing import probe_run

    study = Study.read(params)
    definition = {**study.declared_probe(task), "run": study.declared_run(run)}
    inputs, output = layout.features(run, study.features_of(task)), layout.evaluation(run, task)
    with job(study, task, definition, inputs, output, f"probe {run} {task}") as given:
        found = probe_run(run, layout.run(run), given)
    print_subjects(found)


@app.command(rich_help_panel=WORK)
def probe_floor(model: ModelName, task: ProbeName, params: Params = PARAMS) -> None:
    """Probe what costs nothing: features of the untrained model and, where the probe can, raw pixels."""
    from mimcore.evaluation.probing import probe_floor as work

    study = Study.read(params)
    definition = {**study.declared_probe(task), "model": study.options("models", model)}
    inputs, output = layout.features(model, study.features_of(task)), layout.floor(model, task)
    with job(study, task, definition, inputs, output, f"probe-floor {model} {task}") as given:
        found = work(model, given)
    print_subjects(found)
