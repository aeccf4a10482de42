"""The figures of the report, as altair charts of one panel each."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from mimcore.scaling.drawing import (
    INK,
    MODEL_COLOURS,
    PLOT_HEIGHT,
    PLOT_WIDTH,
    SCHEDULE_DASHES,
    SCHEDULE_SHAPES,
    Key,
    Panel,
    render,
    size_colours,
)
from mimcore.scaling.layers import (
    Points,
    below,
    capital,
    curve_points,
    data,
    floor_layers,
    forecast_layers,
    mean_curves,
    padded,
)
from mimcore.scaling.numbers import interval, short
from mimcore.scaling.pools import by_pool, levels
from mimcore.scaling.summary import floors, label, setting_label
from mimcore.scaling.table import MADE, POOL, VAL_LOSS, Measure, Row, Run, Setting, headlines_of, runs_of, settings_of

GREY = "#868e96"
#: The part of a loss curve that may leave its panel at the top.
EARLY = 0.12


class Figures:
    """The panels of one study.

    Colour says the model, line and marker the schedule; in loss curves colour says the size of the subset.

    Args:
        rows: the results.
        fitted: what ``fit.json`` holds.
        curves: rows of ``curves.parquet``.
    """

    def __init__(self, rows: Sequence[Row], fitted: Mapping[str, Any], curves: Sequence[Mapping[str, Any]]) -> None:
        self.rows, self.fitted, self.curves = rows, fitted, curves
        self.runs = runs_of(rows)
        self.imported = [run for run in runs_of(rows, imported=True) if run.source != MADE]
        self.measures = headlines_of(rows)
        self.pools = levels([run.pool for run in self.runs])
        self.settings = settings_of(self.runs)
        self.objectives = list(dict.fromkeys(setting.objective for setting in self.settings))
        everything = [*self.runs, *self.imported]
        self.models = list(
            dict.fromkeys(run.setting.model for run in sorted(everything, key=lambda r: r.encoder_params))
        )
        longest_first = sorted(everything, key=lambda run: -run.images_seen)
        self.schedules = list(dict.fromkeys(run.setting.schedule for run in longest_first))
        self.sizes = sorted({run.unique_images for run in self.runs})
        self.model_colours = {m: MODEL_COLOURS[i % len(MODEL_COLOURS)] for i, m in enumerate(self.models)}
        self.dashes = {s: SCHEDULE_DASHES[i % len(SCHEDULE_DASHES)] for i, s in enumerate(self.schedules)}
        self.shapes = {s: SCHEDULE_SHAPES[i % len(SCHEDULE_SHAPES)] for i, s in enumerate(self.schedules)}
        self.risen = {run["run"] for run in fitted["diagnostics"]["overfitting"]["runs"] if run["val_loss_rose"]}

    def keys(self) -> list[Key]:
        """Legend of the figures whose colour is the model."""
        found = [Key(model, colour) for model, colour in self.model_colours.items()]
        found += [Key(f"{s} schedule", GREY, self.dashes[s], self.shapes[s]) for s in self.schedules]
        found += [Key("loss rose again", GREY, mark="ring")] if self.risen else []
        return found + ([Key("imported run", GREY, mark="hollow")] if self.imported else [])

    def curve_keys(self) -> list[Key]:
        """Legend of the loss curves."""
        splits = [Key("unseen images", GREY), Key("images of the subset", GREY, (4, 3))]
        colours = size_colours(len(self.sizes))
        return splits + [Key(f"{short(size)} images", c) for size, c in zip(self.sizes, colours, strict=True)]

    def scaling(self, measure: Measure) -> list[Panel]:
        """A measure against unique images, with its laws and floors, for each objective that has it."""
        return [self._scaling(one, measure) for one in self.objectives if self._points(one, measure)]

    def correlation(self, measure: Measure) -> list[Panel]:
        """A task's measure against the validation loss, for each objective that has it and each pool."""
        pools = self.pools if self.pools[1:] else (None,)
        return [
            self._correlation(one, pool, measure, mine)
            for one in self.objectives
            for pool in pools
            if (mine := [p for p in self._points(one, measure) if pool is None or (p[POOL] or pools[0]) == pool])
        ]

    def losses(self) -> list[Panel]:
        """Loss curves of each setting on each pool, one colour per size, on unseen images and on images of the subset."""
        return [
            self._losses(setting, pool, {run.name for run in mine})
            for setting in self.settings
            for pool, of in by_pool(self.runs).items()
            if (mine := [run for run in of if run.setting == setting])
        ]

    # -- panels ----------------------------------------------------------------------------------------------------

    def _scaling(self, objective: str, measure: Measure) -> Panel:
        points = self._points(objective, measure)
        fits = [
            fit
            for fit in self.fitted["fits"]
            if (fit["objective"], fit["task"], fit["metric"]) == (objective, measure.task, measure.metric)
        ]
        curves = [point for fit in fits for point in curve_points(fit)]
        lows = floors(self.rows, measure)
        ys = [point["y"] for point in points] + [point["y"] for point in curves] + [value for _, value in lows]
        scale = alt.Scale(domain=padded(ys), nice=False, zero=False, clamp=True)
        ends = [point["n"] for point in points + curves]
        x = self._x(ends)
        y = alt.Y("y:Q", scale=scale, title=label(measure), axis=alt.Axis(tickCount=6))
        colour, dash = self._colour(), self._dash()
        layers = []
        if curves:
            base = alt.Chart(data(curves))
            # Curves of two pools are two lines of one colour.
            pools = ["pool:N"] if any(POOL in point for point in curves) else []
            layers.append(
                base.mark_area(opacity=0.13).encode(
                    x=x,
                    y=alt.Y("low:Q", scale=scale),
                    y2="high:Q",
                    color=colour,
                    detail=["schedule:N", *pools] if pools else "schedule:N",
                )
            )
            for ahead, opacity in ((False, 1.0), (True, 0.45)):
                part = [point for point in curves if point["ahead"] == ahead]
                line = alt.Chart(data(part)).mark_line(strokeWidth=2, opacity=opacity)
                several = {"detail": pools} if pools else {}
                layers.append(line.encode(x=x, y=y, color=colour, strokeDash=dash, **several))
        layers.append(self._marks(points, x, y))
        layers += floor_layers(lows, self.model_colours, max(ends), padded(ys))
        if curves and max(ends) > max(self.sizes):
            layers += forecast_layers(max(self.sizes), padded(ys)[0])
        chart = alt.layer(*layers).properties(
            width=PLOT_WIDTH, height=PLOT_HEIGHT, title=self._title(label(measure), objective)
        )
        return render(chart, f"{label(measure)} against unique images, {objective}, with fitted laws.")

    def _correlation(self, objective: str, pool: str | None, measure: Measure, points: Points) -> Panel:
        few = alt.Axis(tickCount=6)
        domains = [alt.Scale(domain=padded([p[part] for p in points]), nice=False) for part in ("loss", "y")]
        x = alt.X("loss:Q", scale=domains[0], title=f"validation loss ({objective})", axis=few)
        y = alt.Y("y:Q", scale=domains[1], title=label(measure), axis=few)
        title: Any = self._title(label(measure), objective, pool)
        for one in self.fitted["diagnostics"]["correlation"]:
            own = one.get(POOL) in (None, pool)
            if own and (one["objective"], one["task"]) == (objective, measure.task) and one["all"]:
                rho = interval(one["all"]["estimate"], one["all"]["low"], one["all"]["high"])
                title = alt.TitleParams(
                    title, subtitle=f"Spearman ρ = {rho}", subtitleColor=INK, subtitleFontSize=12, subtitlePadding=4
                )
        chart = self._marks(points, x, y).properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title)
        return render(chart, f"{label(measure)} against the validation loss, a point for each run.")

    def _losses(self, setting: Setting, pool: str | None, names: set[str]) -> Panel:
        points = mean_curves([c for c in self.curves if c["run"] in names and c["split"] in ("val", "seen")])
        last = max(point["x"] for point in points)
        domain = padded([point["y"] for point in points if point["x"] >= EARLY * last])
        points = below(points, domain[1])
        sizes = [str(size) for size in self.sizes]
        x = alt.X(
            "x:Q",
            title="images seen",
            axis=alt.Axis(format=".2~s", tickCount=5),
            scale=alt.Scale(domain=[0, last], nice=False),
        )
        chart = (
            alt.Chart(data(points))
            .mark_line(strokeWidth=1.8)
            .encode(
                x=x,
                y=alt.Y("y:Q", title="loss", axis=alt.Axis(tickCount=6), scale=alt.Scale(domain=domain, nice=False)),
                color=alt.Color("size:N", scale=alt.Scale(domain=sizes, range=size_colours(len(sizes))), legend=None),
                strokeDash=alt.StrokeDash(
                    "split:N", scale=alt.Scale(domain=["val", "seen"], range=[[1, 0], [4, 3]]), legend=None
                ),
            )
            .properties(
                width=PLOT_WIDTH, height=PLOT_HEIGHT, title=capital(setting_label(setting, self.settings, pool))
            )
        )
        return render(
            chart, f"Loss curves of {setting}: unseen images and images of the subset, a colour for each size."
        )

    # -- parts -----------------------------------------------------------------------------------------------------

    def _points(self, objective: str, measure: Measure) -> Points:
        key = (measure.task, measure.metric)
        return [
            {**self._about(run), "y": run.values[key], "loss": run.values[VAL_LOSS]}
            for run in (*self.runs, *self.imported)
            if run.setting.objective == objective and key in run.values
        ]

    def _about(self, run: Run) -> dict[str, Any]:
        return {
            "run": run.name,
            "n": run.unique_images,
            "images_seen": run.images_seen,
            "model": run.setting.model,
            "schedule": run.setting.schedule,
            "rose": run.name in self.risen,
            "imported": run.source != MADE,
            **({POOL: run.pool} if self.pools[1:] else {}),
        }

    def _title(self, text: str, objective: str, pool: str | None = None) -> str:
        of = [*([objective] if len(self.objectives) > 1 else []), *([pool] if pool else [])]
        return capital(f"{text} ({', '.join(of)})" if of else text)

    def _x(self, ends: Sequence[float]) -> Any:
        low, high = min(ends) / 1.12, max(ends) * 1.12
        ticks = self.sizes if len(self.sizes) <= 6 else self.sizes[:: -(-len(self.sizes) // 6)]
        ticks = ticks + [n for n in (max(self.sizes) * 2**k for k in (1, 2)) if n <= high]
        words = "format(datum.value, datum.value >= 1e3 && datum.value < 1e5 ? '.2~s' : '.3~s')"
        axis = alt.Axis(values=ticks, labelExpr=words, labelOverlap="greedy", grid=False)
        return alt.X(
            "n:Q", scale=alt.Scale(type="log", domain=[low, high], nice=False), title="unique images", axis=axis
        )

    def _colour(self) -> Any:
        scale = alt.Scale(domain=self.models, range=list(self.model_colours.values()))
        return alt.Color("model:N", scale=scale, legend=None)

    def _dash(self) -> Any:
        scale = alt.Scale(domain=self.schedules, range=[list(dash) for dash in self.dashes.values()])
        return alt.StrokeDash("schedule:N", scale=scale, legend=None)

    def _marks(self, points: Points, x: Any, y: Any) -> Any:
        """A marker for each run, hollow where it was imported, with a ring where its validation loss rose again."""
        scale = alt.Scale(domain=self.schedules, range=list(self.shapes.values()))
        colours = alt.Scale(domain=self.models, range=list(self.model_colours.values()))
        marks = alt.Chart(data(points)).mark_point(size=44, strokeWidth=1.6)
        drawn = marks.encode(
            x=x,
            y=y,
            color=self._colour(),
            fill=alt.Fill("model:N", scale=colours, legend=None),
            fillOpacity=alt.condition("datum.imported", alt.value(0), alt.value(0.85)),
            shape=alt.Shape("schedule:N", scale=scale, legend=None),
        )
        risen = [point for point in points if point["rose"]]
        if not risen:
            return drawn
        rings = alt.Chart(data(risen)).mark_point(size=150, strokeWidth=1.2, shape="circle", filled=False)
        return alt.layer(drawn, rings.encode(x=x, y=y, color=self._colour()))
