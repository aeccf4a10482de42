"""One page with the answer, the figures and the evidence, which needs no network, no script and no other file.

Beside it: its figures as PNG and SVG, ``figures.html`` where they can be pointed at, ``report.md`` for a pull request, ``tables.tex``.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
from altair.utils.schemapi import debug_mode
from markupsafe import Markup

from mimcore import artifacts
from mimcore.scaling import alike, interactive, outlook_figures, tables, words
from mimcore.scaling.drawing import Key, Panel, board, inline, save_png, swatch
from mimcore.scaling.forecasts import judge, read_forecasts
from mimcore.scaling.numbers import count, duration, interval, measured, number, short
from mimcore.scaling.outlook import Outlook, outlook
from mimcore.scaling.plots import Figures
from mimcore.scaling.summary import floor_text, label, lines, setting_label
from mimcore.scaling.table import MADE, Measure, Row, Run, Setting, headlines_of, read_results, runs_of, settings_of

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
    notes = artifacts.read_json(results / "notes.json")
    curves = pq.read_table(results / "curves.parquet").to_pylist()
    with artifacts.directory(output) as folder:
        # Altair checks every part of a chart against its schema while it is put together; half of the time goes there.
        with debug_mode(False):
            figures, unsaid = _figures(Figures(rows, fitted, curves), folder)
        made = runs_of(rows)
        stored = read_forecasts(forecasts)
        judged = judge(stored, made, _definitions(stored, runs))
        told = {
            "title": notes["title"],
            "scope": words.scope(rows),
            "answers": words.answers(rows, fitted),
            "flags": [*words.flags(rows, fitted, notes, _peak_rates(curves)), *unsaid],
            "headline": _headline(rows),
            "laws": _laws(rows, fitted),
            "forecasts": judged,
        }
        (folder / "figures.html").write_text(interactive.page(notes["title"], figures), encoding="utf-8")
        (folder / "report.md").write_text(tables.markdown(told, figures), encoding="utf-8")
        (folder / "tables.tex").write_text(tables.latex(told), encoding="utf-8")
        page = _environment().get_template(TEMPLATE.name)
        text = page.render(
            **told,
            hits=words.hits(judged),
            claims=fitted["diagnostics"]["claims"],
            confidence=100 * fitted["options"]["confidence"],
            law=fitted["law"],
            noise=_noise(fitted),
            figures=figures,
            pictures=_pictures(made, runs),
            everything=_everything(rows),
            libraries={name: ", ".join(found) for name, found in notes["libraries"].items()},
            provenance=_provenance(made, provenance),
            options=fitted["options"],
        )
        (folder / "report.html").write_text(text, encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    return environment


def _definitions(forecasts: Sequence[Mapping[str, Any]], runs: Path) -> dict[str, Any]:
    """What each run that was forecast was made from, where it is there."""
    files = {one["run"]: runs / one["run"] / "metrics.json" for one in forecasts}
    return {name: artifacts.read_json(file)["definition"] for name, file in files.items() if file.is_file()}


def _figures(drawn: Figures, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Draw each figure for the page, and as PNG and SVG beside it; and say of which objectives one law could not be fitted."""
    hollow = "Hollow markers are runs whose validation loss rose again."
    plan: list[tuple[str, str, str, list[Panel], list[Key]]] = [
        (
            "scaling",
            "What more data buys",
            "A marker for each run; lines are the fitted laws with their intervals, paler where they forecast; dotted "
            f"lines are what needs no pretraining. {hollow}",
            drawn.scaling(),
            drawn.keys(),
        ),
        (
            "curves",
            "Loss while training",
            "Means over seeds, on unseen images and on images of the subset. A solid line that turns up is "
            "over-fitting; the space between a solid and a dashed line is the gap.",
            drawn.losses(),
            drawn.curve_keys(),
        ),
        (
            "overfitting",
            "Over-fitting",
            f"A marker for each run, lines through the means over seeds. {hollow}",
            drawn.overfitting(),
            drawn.keys(),
        ),
        (
            "correlation",
            "Does the validation loss foretell the tasks?",
            f"A marker for each run, with Spearman's rank correlation and its interval. {hollow}",
            drawn.correlation(),
            drawn.keys(),
        ),
    ]
    pairs = alike.alike(drawn.runs, drawn.fitted["options"]["margin"])
    if pairs:
        same = sum(pair.test.equivalent for pair in pairs)
        plan.append(
            (
                "equivalence",
                "Does it matter how the images are drawn?",
                f"Subsets of as many images, paired by seed: 90 % intervals of the difference, and the margin of {pairs[0].margin:g} % "
                f"within which it would not matter (the fit's option 'margin'). {same} of {len(pairs)} pairs are shown to be equivalent "
                "(two one-sided tests at 5 %); an interval that leaves the margin "
                "shows neither sameness nor, if it covers zero, a difference.",
                alike.figure(pairs),
                [],
            )
        )
    unsaid = []
    for objective in drawn.objectives:
        one = outlook(drawn.runs, objective, drawn.fitted["options"]["confidence"])
        if isinstance(one, str):
            unsaid.append(one)
            continue
        plan += _outlook_figures(one, drawn, f"-{objective}" if len(drawn.objectives) > 1 else "")
    found = []
    for name, title, caption, panels, keys in plan:
        if not panels:
            continue
        drawing = board(panels, title, keys, columns=2)
        (folder / f"{name}.svg").write_text(drawing, encoding="utf-8")
        save_png(drawing, folder / f"{name}.png")
        found.append(
            {
                "name": name,
                "title": title,
                "caption": caption,
                "panels": [Markup(inline(panel, f"{name}-{i}")) for i, panel in enumerate(panels)],
                "keys": [(Markup(swatch(key)), key.text) for key in keys],
                "drawn": panels,
            }
        )
    return found, unsaid


def _outlook_figures(
    one: Outlook, drawn: Figures, suffix: str
) -> Iterator[tuple[str, str, str, list[Panel], list[Key]]]:
    """The figures of one law for all runs of an objective."""
    fit, images = one.fit, short(one.unique_images)
    law = f"the law '{fit.law.name}' of {len(fit.observations)} runs (R² {fit.r2:.3f})"
    models = [Key(model, colour) for model, colour in drawn.model_colours.items()]
    yield (
        f"residuals{suffix}",
        "How far one law is off",
        f"Each run's validation loss less {law}; the grey band is one standard deviation. A pattern means that the law lacks "
        "something; points without one do not mean that it holds beyond them.",
        outlook_figures.residuals(one, drawn.model_colours),
        models,
    )
    panels, keys = outlook_figures.iso_flop(one)
    yield (
        f"iso-flop{suffix}",
        "Which model for a budget",
        f"What {law} expects of runs that cost the same, on {images} unique images: a larger model sees fewer. The mark is the lowest "
        "point. It says nothing of learning rates, which were not tuned for each size.",
        panels,
        keys,
    )
    edges = [two for two in one.frontier if two.at_edge]
    beyond = (
        f" At {len(edges)} of {len(one.frontier)} budgets the best size is an end of what was looked through."
        if edges
        else ""
    )
    yield (
        f"frontier{suffix}",
        "The best use of a budget",
        f"By {law}, on {images} unique images, with {100 * fit.confidence:g} % intervals over refits. Right of the dotted line no run was "
        f"made. The interval is that of the law, if it holds; it does not cover another law.{beyond}",
        outlook_figures.frontier(one),
        [],
    )


def _headline(rows: Sequence[Row]) -> dict[str, Any]:
    summary, measures = lines(rows), headlines_of(rows)
    settings = [line.setting for line in summary]
    return {
        "columns": [label(measure) for measure in measures],
        "floors": [floor_text(rows, measure) for measure in measures],
        "lines": [
            {
                "setting": setting_label(line.setting, settings),
                "sizes": (count(line.smallest), count(line.largest)),
                "cells": [tuple(str(part) for part in line.ends[measure] or ()) for measure in measures],
            }
            for line in summary
        ],
    }


def _laws(rows: Sequence[Row], fitted: Mapping[str, Any]) -> list[dict[str, Any]]:
    settings = settings_of(runs_of(rows))
    found = []
    for one in fitted["fits"]:
        setting = Setting(one["objective"], one["model"], one["schedule"])
        line: dict[str, Any] = {
            "setting": setting_label(setting, settings),
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


def _pictures(runs: Sequence[Run], folder: Path) -> list[dict[str, str]]:
    """Reconstructions of the last setting (largest model, longest schedule) on the smallest and the largest subset."""
    last = settings_of(runs)[-1]
    chosen = [run for run in runs if run.setting == last]
    seed = chosen[0].seed
    of_seed = [run for run in chosen if run.seed == seed]
    found = []
    for run in dict.fromkeys(run.name for run in (of_seed[0], of_seed[-1])):
        path = folder / run / "reconstructions.png"
        if path.is_file():
            images = next(count(one.unique_images) for one in of_seed if one.name == run)
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            found.append({"name": run, "images": images, "data": data})
    return found


def _everything(rows: Sequence[Row]) -> dict[str, Any]:
    """Every metric of every run."""
    runs = runs_of(rows)
    keys = list(dict.fromkeys((row.task, row.metric) for row in rows if row.kind == "run" and row.source == MADE))
    return {
        "columns": [f"{task} {metric}" for task, metric in keys],
        "runs": [
            {
                "name": run.name,
                "unique_images": count(run.unique_images),
                "images_seen": count(run.images_seen),
                "flops": number(run.flops),
                "cells": [measured(run.values[key], run.errors[key]) if key in run.values else "" for key in keys],
            }
            for run in runs
        ],
    }


def _peak_rates(curves: Sequence[Mapping[str, Any]]) -> list[float]:
    peaks: dict[str, float] = {}
    for point in curves:
        if point["learning_rate"] is not None:
            peaks[point["run"]] = max(peaks.get(point["run"], 0.0), point["learning_rate"])
    return list(peaks.values())


def _provenance(runs: Sequence[Run], folder: Path) -> list[dict[str, str]]:
    """Times, memory and devices of each stage, added up over the records of this study's runs and of shared stages."""
    known = {run.name for run in runs}
    totals: dict[str, dict[str, Any]] = defaultdict(
        lambda: {"records": 0, "seconds": 0.0, "memory": 0, "devices": set()}
    )
    for record in _records(folder, known):
        total = totals[str(record.get("stage", "?"))]
        total["records"] += 1
        total["seconds"] += float(record.get("wall_seconds", 0))
        total["memory"] = max(total["memory"], int(record.get("peak_memory_mib", 0)))
        total["devices"].add(str(record.get("device", "cpu")))
    return [
        {
            "stage": stage,
            "records": str(total["records"]),
            "time": duration(total["seconds"]),
            "memory": f"{total['memory']:,} MiB",
            "devices": ", ".join(sorted(total["devices"])),
        }
        for stage, total in sorted(totals.items())
    ]


def _records(folder: Path, known: set[str]) -> Iterator[Mapping[str, Any]]:
    for path in sorted(folder.rglob("*.json")) if folder.is_dir() else []:
        names = {path.stem, *path.relative_to(folder).parts}
        # Records of runs that the study no longer names may lie beside.
        if names & {"runs", "evals"} and not names & known:
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict):
            yield record
