"""What the figures are put together from: points read off fits and curves, and the lines drawn behind them."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from mimcore.scaling.drawing import INK
from mimcore.scaling.table import POOL

Points = list[dict[str, Any]]


def data(points: Sequence[Mapping[str, Any]]) -> Any:
    """Give points to a chart as they are."""
    return {"values": list(points)}


def curve_points(fit: Mapping[str, Any]) -> Points:
    """The law's curve, cut where the forecast starts: at the largest subset. The means where nothing was fitted."""
    about = {name: fit[name] for name in ("model", "schedule", POOL) if name in fit}
    largest = max(point["unique_images"] for point in fit["points"])
    if not fit["fitted"]:
        return [
            {**about, "n": p["unique_images"], "y": p["mean"], "low": p["mean"], "high": p["mean"], "ahead": False}
            for p in fit["points"]
        ]
    found = []
    curve = fit["curve"]
    for n, y, low, high in zip(*(curve[k] for k in ("unique_images", "value", "low", "high")), strict=True):
        band = {"low": y if low is None else min(low, high), "high": y if high is None else max(low, high)}
        if n <= largest * 1.001:
            found.append({**about, "n": n, "y": y, **band, "ahead": False})
        if n >= largest * 0.999:
            found.append({**about, "n": n, "y": y, **band, "ahead": True})
    return found


def mean_curves(curves: Sequence[Mapping[str, Any]]) -> Points:
    """Average the seeds of each size and split where they were measured at the same number of images seen."""
    grouped: dict[tuple[int, str, int], list[float]] = {}
    for point in curves:
        grouped.setdefault((point["unique_images"], point["split"], point["images_seen"]), []).append(point["loss"])
    return [
        {"size": str(size), "split": split, "x": seen, "y": sum(losses) / len(losses)}
        for (size, split, seen), losses in sorted(grouped.items())
    ]


def below(points: Points, top: float) -> Points:
    """Cut each loss curve where it comes down through ``top``, so that nothing needs clipping."""
    found: Points = []
    before: dict[str, Any] | None = None
    for point in points:
        same = before is not None and (before["size"], before["split"]) == (point["size"], point["split"])
        if point["y"] <= top:
            if same and before is not None and before["y"] > top:
                share = (before["y"] - top) / (before["y"] - point["y"])
                found.append({**point, "x": before["x"] + share * (point["x"] - before["x"]), "y": top})
            found.append(point)
        before = point
    return found


def floor_layers(
    lows: Sequence[tuple[str, float]], colours: Mapping[str, str], right: float, domain: list[float] | None
) -> list[Any]:
    """Dotted lines with their names at the right; names closer than a line of text share one."""
    merged: list[dict[str, Any]] = []
    near = 0.06 * (domain[1] - domain[0]) if domain else 0.0
    for name, value in sorted(lows, key=lambda low: low[1]):
        if merged and value - merged[-1]["y"] <= near:
            merged[-1] |= {"text": f"{merged[-1]['text']}, {name}", "y": value}
        else:
            merged.append({"text": name, "y": value, "n": right})
    layers: list[Any] = []
    for name, value in lows:
        colour = colours.get(name.removeprefix("untrained "), INK)
        rule = alt.Chart(data([{"y": value}])).mark_rule(strokeDash=[1, 3], strokeWidth=1.4, color=colour)
        layers.append(rule.encode(y="y:Q"))
    for text in merged:
        mark = alt.Chart(data([text])).mark_text(align="right", baseline="bottom", dy=-3, opacity=0.85)
        layers.append(mark.encode(x="n:Q", y="y:Q", text="text:N"))
    return layers


def forecast_layers(largest: float, bottom: float) -> list[Any]:
    """A line where the data end and the forecast begins."""
    point = data([{"n": largest * 1.06, "y": bottom, "text": "forecast"}])
    rule = alt.Chart(point).mark_rule(opacity=0.25, color=INK).encode(x="n:Q")
    words = alt.Chart(point).mark_text(align="left", baseline="bottom", dx=5, dy=-2, opacity=0.7)
    return [rule, words.encode(x="n:Q", y="y:Q", text="text:N")]


def capital(text: str) -> str:
    """Begin with a capital and leave the rest; a column's name, such as ``val_loss``, stays as it is."""
    return text if "_" in text.partition(" ")[0] else text[:1].upper() + text[1:]


def padded(values: Sequence[float]) -> list[float]:
    """Low and high of an axis that shows ``values`` with some air."""
    low, high = min(values), max(values)
    pad = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - pad, high + pad]
