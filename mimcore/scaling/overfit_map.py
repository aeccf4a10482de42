"""Where runs over-fit: a map of models, lengths and subsets for each detector, kept apart since the detectors disagree."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from mimcore.scaling.detectors import by_length
from mimcore.scaling.drawing import INK, MODEL_COLOURS, PLOT_WIDTH, Key, Panel, render
from mimcore.scaling.layers import capital, data
from mimcore.scaling.numbers import short, signed
from mimcore.scaling.summary import label
from mimcore.scaling.table import VAL_LOSS, Measure, Run

WORSE, BETTER, NOISE = "worse", "better", "within seed noise"
COLOURS = {WORSE: MODEL_COLOURS[1], BETTER: MODEL_COLOURS[0], NOISE: "#868e96"}
KEYS = [Key(name, colour, mark="box") for name, colour in COLOURS.items()]
#: Opacity of the largest value of a map.
STRONG = 0.75

Cell = dict[str, Any]


def loss_maps(runs: Sequence[Run], objective: str, noise: float | None, threshold: float) -> list[Panel]:
    """Three detectors that need no task: the loss rose with length, it turned within the run, the gap.

    Args:
        runs: of one objective.
        objective: its name, for titles; empty where there is one.
        noise: standard deviation of the validation loss over seeds; None where it is not known.
        threshold: rise above the lowest loss, as a fraction of it, from which a loss counts as risen.
    """
    scale = 100 / float(np.mean([run.values[VAL_LOSS] for run in runs]))
    longer = _by_length(runs, lambda run: run.values[VAL_LOSS], noise, sign=1.0, scale=scale, from_best=False)
    turned = [
        _cell(run, 100 * rise / (loss - rise), 100 * threshold)
        for run, rise, loss in _means(runs, lambda run: run.rise, lambda run: run.values[VAL_LOSS])
    ]
    gaps = [
        _cell(run, 100 * gap / loss, 0.0)
        for run, gap, loss in _means(runs, lambda run: run.gap, lambda run: run.values[VAL_LOSS])
    ]
    told = (
        ("Loss rose with length", longer, "final validation loss less that of the shortest schedule, in per cent"),
        ("Loss turned within the run", turned, "final validation loss above the lowest of its curve, in per cent"),
        ("Gap to seen images", gaps, "validation loss less the loss on images of the subset, in per cent"),
    )
    return [_map(cells, title, objective, about, runs) for title, cells, about in told if cells]


def task_map(runs: Sequence[Run], objective: str, measure: Measure, noise: float | None) -> list[Panel]:
    """Where a task got worse at a longer schedule; nothing with one length."""
    key = (measure.task, measure.metric)
    having = [run for run in runs if key in run.values]
    sign = -1.0 if measure.higher_is_better else 1.0
    values = np.array([abs(run.values[key]) for run in having])
    # Scores between 0 and 1 are told in points.
    scale = 100.0 if len(values) and values.max() <= 1 else 1.0
    cells = _by_length(having, lambda run: run.values[key], noise, sign=sign, scale=scale, from_best=True)
    if not cells:
        return []
    about = f"{label(measure)} at each longer schedule against the best of the shorter ones, turned so that worse is positive"
    return [_map(cells, f"{label(measure)} got worse with length", objective, about, having)]


def _by_length(
    runs: Sequence[Run],
    value: Callable[[Run], float],
    noise: float | None,
    *,
    sign: float,
    scale: float,
    from_best: bool,
) -> list[Cell]:
    """A cell for each model, subset and schedule but the shortest: how much worse than at the shortest, or than at the best before."""
    found: list[Cell] = []
    lengths = sorted({run.images_seen for run in runs})
    for length in lengths[1:]:
        part = [run for run in runs if run.images_seen <= length]
        ends = {(run.setting.model, run.subset): run for run in part if run.images_seen == length}
        names = [f"{run.setting.model}\n{run.subset}" for run in part]
        losses = np.array([sign * value(run) for run in part])
        seen = np.array([float(run.images_seen) for run in part])
        for one in by_length(names, seen, losses, task=-losses, noise=noise):
            model, subset = one.cell.split("\n")
            run = ends.get((model, subset))
            if run is not None and one.task_change is not None:
                change = -one.task_change if from_best else one.loss_change
                quiet = 0.0 if noise is None else 2 * noise * 2**0.5 * scale
                found.append(_cell(run, change * scale, quiet))
    return found


def _cell(run: Run, value: float, quiet: float) -> Cell:
    side = NOISE if abs(value) <= quiet else WORSE if value > 0 else BETTER
    return {
        "model": run.setting.model,
        "schedule": run.setting.schedule,
        "subset": run.subset,
        "value": value,
        "side": side,
    }


def _means(runs: Iterable[Run], *values: Callable[[Run], float]) -> list[tuple[Any, ...]]:
    """One run of each cell and the means of some values over its seeds."""
    cells: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        cells[run.setting, run.subset].append(run)
    return [(cell[0], *(float(np.mean([value(run) for run in cell])) for value in values)) for cell in cells.values()]


def _map(cells: Sequence[Mapping[str, Any]], title: str, objective: str, about: str, runs: Sequence[Run]) -> Panel:
    rows = list(dict.fromkeys(f"{run.setting.model} {run.setting.schedule}" for run in runs))
    ordered = sorted(runs, key=lambda run: (run.unique_images, run.subset))
    sizes = {run.subset: run.unique_images for run in ordered}
    unique = len(set(sizes.values())) == len(sizes)
    columns = {subset: short(size) if unique else subset for subset, size in sizes.items()}
    largest = max(abs(float(cell["value"])) for cell in cells) or 1.0
    points = [
        {
            "setting": f"{cell['model']} {cell['schedule']}",
            "images": columns[cell["subset"]],
            "value": float(cell["value"]),
            "text": signed(float(cell["value"]), 2),
            "reading": cell["side"],
            "strength": 0.08 if cell["side"] == NOISE else 0.12 + (STRONG - 0.12) * abs(float(cell["value"])) / largest,
        }
        for cell in cells
    ]
    shown = [row for row in rows if any(point["setting"] == row for point in points)]
    base = alt.Chart(data(points))
    x = alt.X(
        "images:N",
        sort=list(columns.values()),
        title="unique images" if unique else "subset",
        axis=alt.Axis(labelAngle=0 if unique else -35, grid=False, domain=False, ticks=False),
    )
    y = alt.Y("setting:N", sort=shown, title=None, axis=alt.Axis(grid=False, domain=False, ticks=False, labelLimit=150))
    fill = alt.Fill("reading:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)
    boxes = base.mark_rect(cornerRadius=3, stroke=None).encode(
        x=x, y=y, fill=fill, fillOpacity=alt.FillOpacity("strength:Q", scale=None)
    )
    words = base.mark_text(fontSize=11, color=INK).encode(x=x, y=y, text="text:N")
    heading = capital(f"{title} ({objective})" if objective else title)
    chart = alt.layer(boxes, words).properties(width=PLOT_WIDTH, height=max(26 * len(shown), 52), title=heading)
    return render(chart, f"{heading}: {about}.")
