"""The figures of docs/laws.md: the 63 runs of Xie et al. 2023, fitted and forecast.

python docs/examples/xie2023.py xie2023_simmim_swinv2_data_scaling.csv docs/images
"""

import sys
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from mimcore import registry
from mimcore.scaling.covariate import with_covariates
from mimcore.scaling.detectors import by_length
from mimcore.scaling.estimate import Fit, fit_law
from mimcore.scaling.mapping import Map, observe, read_map
from mimcore.scaling.observations import Observations

MAP = Path(__file__).with_name("xie2023.map.yaml")
MODELS = ["Small", "Base", "Large", "Huge", "giant"]
COLOURS = alt.Scale(domain=MODELS, range=["#0b78be", "#15916b", "#8a7a10", "#d8660a", "#b8559a"])
DATA = ["ImageNet-1K 10%", "ImageNet-1K 20%", "ImageNet-1K 50%", "ImageNet-1K", "ImageNet-22K"]


def model_of(rows: Observations, i: int) -> str:
    """Return the model of a row."""
    return str(rows.columns["model"][i]).removeprefix("SwinV2-")


def curves(fit: Fit, rows: Observations) -> list[dict[str, Any]]:
    """The law along the length, for every model and set of images in the table."""
    found = []
    for label in dict.fromkeys(zip(rows.columns["model"], rows.columns["data"], strict=True)):
        i = next(
            j for j, pair in enumerate(zip(rows.columns["model"], rows.columns["data"], strict=True)) if pair == label
        )
        seen = np.geomspace(2e8, 1.3e9, 25)
        ahead = {key: np.full(25, values[i]) for key, values in rows.variables.items()} | {"images_seen": seen}
        forecast = fit.predict(ahead)
        for j in range(25):
            place = {"model": model_of(rows, i), "data": label[1], "seen": seen[j] / 1e6}
            found.append({**place, "loss": forecast.mean[j], "low": forecast.low[j], "high": forecast.high[j]})
    return found


def forecasts(fit: Fit, rows: Observations, held_out: Any) -> alt.VConcatChart:
    """Draw the loss against length, a panel for each set of images, with the law's bands; held-out runs are hollow."""
    points = [
        {
            "model": model_of(rows, i),
            "data": rows.columns["data"][i],
            "seen": rows.variables["images_seen"][i] / 1e6,
            "loss": rows.metric[i],
            "run": "forecast" if held_out[i] else "fitted",
        }
        for i in range(len(rows))
    ]
    lines = curves(fit, rows)
    x = alt.X(
        "seen:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=[256, 512, 1024]),
        title="images seen, millions",
    )
    y = alt.Y("loss:Q", scale=alt.Scale(zero=False), title="validation loss")
    colour = alt.Color("model:N", scale=COLOURS, sort=MODELS)
    panels = []
    for data in DATA:
        line = alt.Chart(alt.Data(values=[one for one in lines if one["data"] == data]))
        point = alt.Chart(alt.Data(values=[one for one in points if one["data"] == data]))
        filled = alt.condition("datum.run == 'fitted'", alt.value(1.0), alt.value(0.0))
        layers = (
            line.mark_area(opacity=0.18).encode(
                x=x, y=alt.Y("low:Q", title="validation loss"), y2="high:Q", color=colour
            ),
            line.mark_line().encode(x=x, y=y, color=colour),
            point.mark_point(size=60, strokeWidth=2, filled=True).encode(
                x=x, y=y, stroke=colour, fill=colour, fillOpacity=filled
            ),
        )
        panels.append(alt.layer(*layers).properties(width=230, height=200, title=data))
    return alt.vconcat(alt.hconcat(*panels[:3]), alt.hconcat(*panels[3:]))


def map_of_overfitting(loss: Observations, task: Observations) -> alt.LayerChart:
    """Draw which cells over-fitted, by two detectors."""
    cells = [f"{model_of(loss, i)}|{loss.columns['data'][i]}" for i in range(len(loss))]
    rows = []
    for one in by_length(cells, loss.variables["images_seen"], loss.metric, task=task.metric):
        model, data = one.cell.split("|")
        verdict = "neither"
        if one.loss_rose:
            verdict = "loss rose, accuracy fell" if one.task_fell else "loss rose, accuracy still rose"
        rows.append({"model": model, "data": data, "verdict": verdict, "change": f"{one.loss_change:+.4f}"})
    domain = ["neither", "loss rose, accuracy still rose", "loss rose, accuracy fell"]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("data:N", sort=DATA, title=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("model:N", sort=MODELS, title=None),
    )
    colour = alt.Color(
        "verdict:N", scale=alt.Scale(domain=domain, range=["#e8edf1", "#e9b44c", "#c04a3c"]), title="from 125K to 500K"
    )
    return (base.mark_rect(stroke="white").encode(color=colour) + base.mark_text().encode(text="change:N")).properties(
        width=560, height=180, title="Change of the validation loss from the shortest to the longest run"
    )


def scatter(loss: Observations, task: Observations) -> alt.Chart:
    """Draw accuracy against loss."""
    rows = [
        {
            "model": model_of(loss, i),
            "data": loss.columns["data"][i],
            "loss": loss.metric[i],
            "accuracy": task.metric[i],
        }
        for i in range(len(loss))
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_point(size=60, filled=True)
        .encode(
            x=alt.X("loss:Q", scale=alt.Scale(zero=False), title="validation loss"),
            y=alt.Y("accuracy:Q", scale=alt.Scale(zero=False), title="ImageNet-1K top-1 after fine-tuning, %"),
            color=alt.Color("model:N", scale=COLOURS, sort=MODELS),
            shape=alt.Shape("data:N", sort=DATA),
        )
        .properties(width=420, height=300)
    )


def main() -> None:
    """Write the figures."""
    table, folder = Path(sys.argv[1]), Path(sys.argv[2])
    mapping = read_map(MAP)
    loss = observe(table, mapping)
    top1 = {"column": "value", "name": "top1", "higher_is_better": True, "ceiling": 100, "floor": 0.1}
    task = observe(
        table, Map.model_validate({**mapping.model_dump(), "rows": "metric == 'in1k_ft_top1'", "metric": top1})
    )
    law = with_covariates(registry.load("law", "repetition").Law(), mapping.covariates)
    giant = loss.columns["params_m"] > 1000
    fit = fit_law(law, loss.only(~giant))
    charts = {
        "laws-forecast": forecasts(fit, loss, giant),
        "laws-overfitting": map_of_overfitting(loss, task),
        "laws-proxy": scatter(loss, task),
    }
    for name, chart in charts.items():
        chart.save(folder / f"{name}.png", scale_factor=2)


if __name__ == "__main__":
    main()
