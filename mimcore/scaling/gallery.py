"""Every figure of the report in its section, with what it shows and what it does not; or with what the study lacks for it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mimcore.scaling import alike, bets, chosen, more_data, outlook_figures, overfit_map, two_ways
from mimcore.scaling.drawing import Key, Panel
from mimcore.scaling.figure import Figure, Section, Table
from mimcore.scaling.layers import capital
from mimcore.scaling.numbers import interval
from mimcore.scaling.outlook import LOSS, Asked, Outlook, divide
from mimcore.scaling.plots import Figures
from mimcore.scaling.summary import label
from mimcore.scaling.table import POOL, PRETRAIN, Measure
from mimcore.scaling.words import levels_of

#: Tasks whose sections are open when the page is.
OPEN_TASKS = 3


def gallery(
    drawn: Figures,
    outlooks: Mapping[Asked, Mapping[str, Outlook | str]],
    forecasts: Sequence[Mapping[str, Any]],
    judged: Sequence[Mapping[str, Any]],
) -> list[Section]:
    """Put the report's figures together.

    Args:
        drawn: the study.
        outlooks: of each metric that is asked for, one law for all runs of each objective, or a sentence why there is none.
        forecasts: all that are stored.
        judged: those of runs that were made since, with what was observed.
    """
    tasks = [measure for measure in drawn.measures if measure.task != PRETRAIN]
    found = [
        Section("pretraining", "The validation loss", tuple(_loss(drawn, outlooks[LOSS]))),
        Section("over-fitting", "Over-fitting", tuple(_overfitting(drawn))),
        Section("budget", "Model, data and length together", tuple(_budget(drawn, outlooks[LOSS]))),
    ]
    asked = {one.measure: list(_asked(drawn, one, of)) for one, of in outlooks.items() if one != LOSS}
    for i, measure in enumerate(tasks):
        name = capital(label(measure))
        figures = tuple(_task(drawn, measure, asked.get(measure, [])))
        found.append(Section(f"task-{measure.task}", name, figures, folded=i >= OPEN_TASKS))
    found.append(Section("same", "Does it come to the same?", (_equivalence(drawn),)))
    found.append(Section("bets", "Forecasts made before the runs", (bets.figure(forecasts, judged),)))
    return found


def _loss(drawn: Figures, outlooks: Mapping[str, Outlook | str]) -> Iterator[Figure]:
    losses = [measure for measure in drawn.measures if measure.task == PRETRAIN]
    for measure in losses:
        yield Figure(
            "scaling",
            "What more data buys",
            "A marker for each run; lines are the law of each model and length with its interval over seeds and sizes, paler where it "
            f"forecasts.{_of_pools(drawn)}",
            "that the same law holds further out, or what another learning rate would have reached. Losses of two objectives are of "
            "different things: compare their tasks.",
            drawn.scaling(measure),
            drawn.keys(),
        )
    yield more_data.figure(drawn, LOSS, outlooks)
    yield Figure(
        "curves",
        "Loss while training",
        "Means over seeds, on unseen images (solid) and on images of the subset (dashed). A solid line that turns up is over-fitting; "
        "the space between the two is the gap.",
        "the loss under the training's own augmentation, and the early steep part, which is cut off.",
        drawn.losses(),
        drawn.curve_keys(),
    )


def _overfitting(drawn: Figures) -> Iterator[Figure]:
    several = len(drawn.objectives) > 1
    panels: list[Panel] = []
    for objective in drawn.objectives:
        runs = [run for run in drawn.runs if run.setting.objective == objective]
        threshold = drawn.fitted["diagnostics"]["overfitting"]["thresholds"][objective]
        panels += overfit_map.loss_maps(
            runs, objective if several else "", _noise(drawn, objective, LOSS.measure), threshold
        )
    lengths = len({run.images_seen for run in drawn.runs})
    lacking = "" if lengths > 1 else " The study has one length: whether the loss rises with length cannot be told."
    yield Figure(
        "overfitting",
        "Where the loss over-fits",
        "A box for each model, schedule and subset, means over seeds, for each detector by itself: the loss at a longer schedule against "
        "the shortest; the final loss against the lowest of its own curve; the loss on unseen images against that on seen ones. "
        f"What two seeds can differ by, or less than counts as a rise, is grey.{lacking}",
        "one verdict: the detectors disagree. A loss can rise while a task still gains (see the tasks), and a gap alone is memorising, "
        "not harm.",
        panels,
        overfit_map.KEYS,
    )


def _budget(drawn: Figures, outlooks: Mapping[str, Outlook | str]) -> Iterator[Figure]:
    yield _laws(drawn, LOSS.measure, "laws-loss")
    done = [one for one in outlooks.values() if not isinstance(one, str)]
    if done:
        yield Figure(
            "residuals",
            "How far one law is off",
            f"Each run's validation loss less {outlook_figures.law_words(done)}; the grey band is one standard deviation. A pattern means "
            "that the law lacks something.",
            "that the law holds beyond the runs, even where there is no pattern.",
            [panel for one in done for panel in outlook_figures.residuals(one, drawn.model_colours, len(done) > 1)],
            [Key(model, colour) for model, colour in drawn.model_colours.items()],
        )
    yield from _budgets("iso-flop", outlooks)


def _budgets(name: str, outlooks: Mapping[str, Outlook | str]) -> Iterator[Figure]:
    """Which model for a budget, for each objective and pool, or why that cannot be said."""
    done = [one for one in outlooks.values() if not isinstance(one, str)]
    if not done:
        yield Figure(name, "Which model for a budget", missing=" ".join(map(str, outlooks.values())))
    for one in done:
        for part in divide(one):
            yield outlook_figures.divided(name, one, part, len(done) > 1)


def _asked(drawn: Figures, asked: Asked, outlooks: Mapping[str, Outlook | str]) -> Iterator[Figure]:
    """What the fit's option ``outlook`` adds to the section of a score."""
    yield two_ways.figure(drawn, asked, list(outlooks))
    yield more_data.figure(drawn, asked, outlooks)
    yield from _budgets(f"budget-{asked.measure.task}", outlooks)


def _task(drawn: Figures, measure: Measure, asked: Sequence[Figure]) -> Iterator[Figure]:
    name = measure.task
    yield Figure(
        f"scaling-{name}",
        f"{capital(label(measure))} against data",
        "A marker for each run; lines are fitted laws of the error rate with their intervals, paler where they forecast; dotted lines are "
        f"what needs no pretraining.{_of_pools(drawn)}",
        "what another recipe of the task would give; the test set's own error is not in the bands.",
        drawn.scaling(measure),
        drawn.keys(),
    )
    yield from asked
    panels = drawn.correlation(measure)
    told = [one for one in drawn.fitted["diagnostics"]["correlation"] if (one["task"], one["metric"]) == measure[:2]]
    able = [one for one in told if one["all"]]
    yield Figure(
        f"proxy-{name}",
        "Does the validation loss foretell it?",
        "A marker for each run, with Spearman's rank correlation and its interval, which draws whole cells. The table has it without the "
        "over-fitted runs and within each model." + (" Each pool is by itself." if drawn.pools[1:] else ""),
        "that the loss is why: both follow data, model and length. Within one model few cells are left, and the interval is wide or "
        "missing.",
        panels if able else [],
        drawn.keys(),
        _correlations(able) if able else None,
        "" if able else "It takes three runs or more that differ in their loss and in this task.",
    )
    maps: list[Panel] = []
    several = len(drawn.objectives) > 1
    for objective in drawn.objectives:
        runs = [run for run in drawn.runs if run.setting.objective == objective]
        maps += overfit_map.task_map(runs, objective if several else "", measure, _noise(drawn, objective, measure))
    yield Figure(
        f"overfitting-{name}",
        "Where it gets worse with length",
        "A box for each model, longer schedule and subset: how far the task is behind the best of the shorter schedules, worse being "
        "positive; points of a score between 0 and 1. What two seeds can differ by is grey.",
        "why: a longer schedule also changes the learning rate's path.",
        maps,
        overfit_map.KEYS,
        missing=""
        if maps
        else "The study has one length, so that it cannot be told whether this task falls with longer training.",
    )
    if chosen.entries(drawn.fitted, measure):
        yield _laws(drawn, measure, f"laws-{name}")


def _laws(drawn: Figures, measure: Measure, name: str) -> Figure:
    found = chosen.judged(drawn.fitted, measure)
    if not found:
        lacks = "No law could be chosen by what it forecast: it takes four sizes of subset or more, of which the largest is held out."
        return Figure(name, "Laws, chosen by what they forecast", missing=lacks)
    panels = chosen.panels(found, measure)
    several = len(found) > 1
    tables = [(chosen.name_of(one), chosen.table(one)) for one in found]
    rows = tuple(((objective, *row) if several else row) for objective, table in tables for row in table.rows)
    head = ("of", *chosen.HEAD) if several else chosen.HEAD
    said: dict[str, list[str]] = {}
    for one in found:
        for part in chosen.remarks(one):
            said.setdefault(part, []).append(chosen.name_of(one))
    remarks = [part if len(of) == len(found) else f"{', '.join(of)}: {part}" for part, of in said.items()]
    remarks += levels_of(drawn.fitted, measure)
    return Figure(
        name,
        "Laws, chosen by what they forecast",
        "Every run against the law with the lowest error on runs that it had not seen: grey where it was fitted, coloured where it was "
        f"forecast. {' '.join(remarks)}",
        "how it would do further out than the runs held out. The law was chosen by these very forecasts, so that its error on them is a "
        "little too small.",
        panels,
        chosen.keys(found),
        Table(head, rows),
    )


def _correlations(told: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    several = len(told) > 1
    for one in told:
        of = one["objective"] + (f" ({one[POOL]})" if POOL in one else "")
        parts = {"all runs": one["all"], "without over-fitted": one["without_risen"]}
        parts |= {f"{model} alone": found for model, found in one["models"].items() if len(one["models"]) > 1}
        for name, found in parts.items():
            text = (
                (interval(found["estimate"], found["low"], found["high"]), str(found["count"]))
                if found
                else ("", "too few")
            )
            rows.append((of, name, *text) if several else (name, *text))
    head = ("runs", "Spearman's ρ and its interval", "of")
    return Table(("objective", *head) if several else head, tuple(rows))


def _equivalence(drawn: Figures) -> Figure:
    pairs = alike.alike(drawn.runs, drawn.measures, float(drawn.fitted["options"]["margin"]))
    if not pairs:
        return Figure(
            "equivalence",
            "Subsets and objectives, pair by pair",
            missing="The study has no two subsets of as many images, and no two objectives with a task, at equal other coordinates on two "
            "seeds or more.",
        )
    same = sum(pair.test.equivalent for pair in pairs)
    return Figure(
        "equivalence",
        "Subsets and objectives, pair by pair",
        f"90 % intervals of the difference, second minus first, paired by seed, mean over all settings that both have; and the margin of "
        f"{pairs[0].margin:g} % within which it would not matter (the fit's option 'margin'). {same} of {len(pairs)} pairs are shown to be "
        "equivalent (two one-sided tests at 5 %).",
        "for an interval that leaves the margin, sameness or, if it covers zero, a difference. With two seeds most intervals are wide.",
        alike.figure(pairs),
        alike.KEYS,
    )


def _of_pools(drawn: Figures) -> str:
    """What the curves are of, where the runs are of several pools."""
    if not drawn.pools[1:]:
        return ""
    return f" Each curve is of one pool ({', '.join(drawn.pools)}); where a pool has too few sizes for a curve, its markers stand alone."


def _noise(drawn: Figures, objective: str, measure: Measure) -> float | None:
    for one in drawn.fitted["diagnostics"]["seed_noise"]:
        if (one["objective"], one["task"], one["metric"]) == (objective, *measure[:2]):
            return float(one["sd"])
    return None
