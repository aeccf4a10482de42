"""One page with the answer, the figures and the evidence, which needs no network and no other file.

Beside it: its figures as PNG and SVG, ``report.md`` for a pull request, ``tables.tex``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
from altair.utils.schemapi import debug_mode

from mimcore import artifacts
from mimcore.scaling import evidence, interactive, next_runs, tables, words
from mimcore.scaling.applicable import held
from mimcore.scaling.chosen import extrapolating, preferred, through
from mimcore.scaling.estimate import Fit
from mimcore.scaling.figure import Section, Table
from mimcore.scaling.forecasts import judge, read_forecasts
from mimcore.scaling.gallery import gallery
from mimcore.scaling.numbers import count, interval, number, short
from mimcore.scaling.outlook import LAWS, LOSS, Asked, Outlook, outlook
from mimcore.scaling.plots import Figures
from mimcore.scaling.summary import Line, floor_text, label, lines, setting_label
from mimcore.scaling.table import Measure, Row, Run, Setting, headlines_of, read_results, runs_of, settings_of

TEMPLATE = Path(__file__).with_name("report.html.j2")


def report(
    results: Path, fit: Path, runs: Path, provenance: Path, output: Path, forecasts: Path = Path("forecasts.json")
) -> None:
    """Write ``report.html`` and what lies beside it.

    Args:
        results: the folder that ``collect`` wrote.
        fit: ``fit.json``.
        runs: the folder of run artifacts, for their reconstructions.
        provenance: the folder of provenance records; it may be missing. Only here does anything but the inputs show
            (times, memory, devices).
        output: the folder to write.
        forecasts: the file of forecasts; it may be missing.

    Raises:
        UserError: an input is missing or broken.
    """
    rows = read_results(results / "results.parquet")
    fitted = artifacts.read_json(fit)
    if fitted["options"].get("pools") == "alike":
        rows = [replace(row, pool=None) for row in rows]
    notes = artifacts.read_json(results / "notes.json")
    curves = pq.read_table(results / "curves.parquet").to_pylist()
    made = runs_of(rows)
    stored = read_forecasts(forecasts)
    judged = judge(stored, made, _definitions(stored, runs))
    pace = evidence.pace(made, provenance)
    with artifacts.directory(output) as folder:
        # Altair checks every part of a chart against its schema while it is put together; half of the time goes there.
        with debug_mode(False):
            drawn = Figures(rows, fitted, curves)
            outlooks = _outlooks(made, fitted, drawn.objectives)
            sections = gallery(drawn, outlooks, stored, judged)
        told = {
            "title": notes["title"],
            "scope": words.scope(rows),
            "answers": words.answers(rows, fitted),
            "claims": words.claims(fitted),
            "advice": _advice(outlooks, runs_of(rows, imported=True), fitted, pace),
            "flags": words.flags(rows, fitted, notes, evidence.peak_rates(curves)),
            "headline": _headline(rows, fitted),
            "noise": _noise(fitted),
            "laws": _laws(rows, fitted),
            "sections": sections,
        }
        for section in sections:
            for figure in section.figures:
                figure.save(folder)
        (folder / "report.md").write_text(tables.markdown(told), encoding="utf-8")
        (folder / "tables.tex").write_text(tables.latex(told), encoding="utf-8")
        text = page(
            {
                **told,
                "confidence": 100 * fitted["options"]["confidence"],
                "law": fitted["law"],
                "pictures": evidence.pictures(made, runs),
                "everything": evidence.everything(rows),
                "libraries": {name: ", ".join(found) for name, found in notes["libraries"].items()},
                "provenance": evidence.provenance(made, provenance),
                "options": fitted["options"],
            },
            sections,
        )
        (folder / "report.html").write_text(text, encoding="utf-8")


def page(told: Mapping[str, Any], sections: Sequence[Section], template: str = TEMPLATE.name) -> str:
    """Fill a template of the page; figures can be pointed at, and are pictures where there is no script."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    drawn = [
        {
            "name": one.name,
            "title": one.title,
            "folded": one.folded,
            "figures": [figure.page() for figure in one.figures],
        }
        for one in sections
    ]
    charts = {
        f"{figure.name}-{i}": panel
        for one in sections
        for figure in one.figures
        for i, panel in enumerate(figure.panels)
    }
    return environment.get_template(template).render(
        **{**told, "sections": drawn, "script": interactive.script(charts)}
    )


def _definitions(forecasts: Sequence[Mapping[str, Any]], runs: Path) -> dict[str, Any]:
    """What each run that was forecast was made from, where it is there."""
    files = {one["run"]: runs / one["run"] / "metrics.json" for one in forecasts}
    return {name: artifacts.read_json(file)["definition"] for name, file in files.items() if file.is_file()}


def _outlooks(
    made: Sequence[Run], fitted: Mapping[str, Any], objectives: Sequence[str]
) -> dict[Asked, dict[str, Outlook | str]]:
    """Of the validation loss, and of each metric that the fit's option ``outlook`` names: one law for all runs of each objective."""
    options = fitted["options"]
    confidence = float(options["confidence"])
    found: dict[Asked, dict[str, Outlook | str]] = {
        LOSS: {one: outlook(made, one, LOSS, confidence, (*preferred(fitted, one), *LAWS)) for one in objectives}
    }
    directions = {f"{one['task']}/{one['metric']}": bool(one["higher_is_better"]) for one in fitted["fits"]}
    for name in options.get("outlook", ()):
        task, _, metric = name.partition("/")
        measure = Measure(task, metric, directions[name])
        asked = Asked(measure, options.get("guess", {}).get(name))
        for one in () if measure == LOSS.measure else objectives:
            laws, step = extrapolating(fitted, one, measure), through(fitted, one, measure)
            told = laws if isinstance(laws, str) else outlook(made, one, asked, confidence, laws, step)
            found.setdefault(asked, {})[one] = told
    return found


def _advice(
    outlooks: Mapping[Asked, Mapping[str, Outlook | str]],
    evidence: Sequence[Run],
    fitted: Mapping[str, Any],
    pace: float | None,
) -> list[dict[str, Any]]:
    """For each metric and objective what to run next, as two tables; a sentence where nothing can be advised.

    Of the validation loss it is what ``mimcore advise`` says of these runs, by the same law.
    """
    found: list[dict[str, Any]] = []
    for asked, objective, other in ((asked, *pair) for asked, of in outlooks.items() for pair in of.items()):
        one = next_runs.asked(evidence, objective, fitted) if asked == LOSS else other
        about = f" of {objective}" if len(outlooks[asked]) > 1 else ""
        score = "" if asked == LOSS else f"the {label(asked.measure)} of "
        advice = None if isinstance(one, str) else next_runs.next_runs(one)
        if advice is None or isinstance(one, str):
            reason = (
                one
                if isinstance(one, str)
                else f"The law '{one.fit.law.name}' has no refits to judge by, or every run that it could be asked of is made."
            )
            found.append(
                {"about": f" for {score.removesuffix(' of ')}" * bool(score) + about, "missing": reason, "tables": []}
            )
            continue
        titles = (
            f"Runs that narrow the forecast of {score}{advice.target} most for their cost",
            f"Runs that {'raise' if asked.measure.higher_is_better else 'lower'} the {label(asked.measure)} most for their cost",
        )
        told = []
        for title, telling in zip(titles, (True, False), strict=True):
            head, cells = next_runs.rows(advice, pace, telling)
            told.append((title, Table(head, tuple(cells))))
        found.append({"about": about, "missing": "", "law": one.fit.law.name, "same": _held(one.fit), "tables": told})
    return found


def _held(fit: Fit) -> str:
    """What all runs share, so that the law can be asked of such runs alone; empty where they share nothing."""
    names = {"encoder_params": "encoder parameters", "unique_images": "unique images", "images_seen": "images seen"}
    return " and ".join(f"{value:,.0f} {names[name]}" for name, value in held(fit).items())


def _headline(rows: Sequence[Row], fitted: Mapping[str, Any]) -> dict[str, Any]:
    """The table from the smallest to the largest subset; a cell has both means, and whether they differ by no more than seeds do."""
    least = {
        (one["objective"], one["task"], one["metric"]): one["least_difference"]
        for one in fitted["diagnostics"]["seed_noise"]
    }
    summary, measures = lines(rows), headlines_of(rows)
    settings = [line.setting for line in summary]
    return {
        "columns": [label(measure) for measure in measures],
        "floors": [floor_text(rows, measure) for measure in measures],
        "lines": [
            {
                "setting": setting_label(line.setting, settings, line.pool),
                "sizes": tuple(dict.fromkeys((count(line.smallest), count(line.largest)))),
                "cells": [_ends(line, measure) for measure in measures],
                "quiet": [_within_noise(line, measure, least) for measure in measures],
            }
            for line in summary
        ],
    }


def _ends(line: Line, measure: Measure) -> tuple[str, ...]:
    """Both means of a cell, or the one that there is of a single size."""
    ends = tuple(str(part) for part in line.ends[measure] or ())
    return ends[:1] if line.smallest == line.largest else ends


def _within_noise(line: Line, measure: Measure, least: Mapping[tuple[str, str, str], float]) -> bool:
    """Whether both means of a cell differ by less than seeds let one tell."""
    ends, needed = line.ends[measure], least.get((line.setting.objective, measure.task, measure.metric))
    return bool(ends and needed and line.smallest < line.largest and abs(ends[0].value - ends[1].value) < needed)


def _laws(rows: Sequence[Row], fitted: Mapping[str, Any]) -> list[dict[str, Any]]:
    settings = settings_of(runs_of(rows))
    found = []
    for one in fitted["fits"]:
        setting = Setting(one["objective"], one["model"], one["schedule"])
        line: dict[str, Any] = {
            "setting": setting_label(setting, settings, one.get("pool")),
            "quantity": one["quantity"] if one["task"] == "pretrain" else f"{one['task']}: {one['quantity']}",
            "note": one["note"],
            "fitted": one["fitted"],
        }
        if one["fitted"]:
            ahead = one["forecast"]
            line["parameters"] = {
                name: interval(p["value"], p["low"], p["high"])
                for name, p in one["parameters"].items()
                if name != "amplitude"
            }
            line["forecast"] = [
                f"{short(n)}: {interval(value, *_ordered(low, high))}"
                for n, value, low, high in zip(
                    *(ahead[key] for key in ("unique_images", "value", "low", "high")), strict=True
                )
            ]
            line["check"] = words.check_sentence(one)
        found.append(line)
    return found


def _ordered(low: float | None, high: float | None) -> tuple[float | None, float | None]:
    return (low, high) if low is None or high is None else (min(low, high), max(low, high))


def _noise(fitted: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "name": f"{one['objective']} {label(Measure(one['task'], one['metric'], True))}",
            "sd": number(one["sd"], 2),
            "least": number(one["least_difference"], 2),
            "freedom": str(one["degrees_of_freedom"]),
        }
        for one in fitted["diagnostics"]["seed_noise"]
    ]
