"""Figures that can be pointed at: Vega inside the page, started when a figure is first touched, and no network."""

import json
from collections.abc import Mapping
from typing import Any

import vl_convert
from markupsafe import Markup

from mimcore.scaling.drawing import INK, Panel

#: Puts the chart in the place of its picture the first time that it is pointed at, so that a page of many figures opens at once, and
#: prints as it is.
START = """
const dark = matchMedia('(prefers-color-scheme: dark)');
async function start(place) {
  if (place.dataset.live) return;
  place.dataset.live = 'yes';
  const room = document.createElement('div');
  room.style.width = '100%';
  room.style.position = 'absolute';
  room.style.visibility = 'hidden';
  place.append(room);
  try {
    await vegaEmbed(room, specs[place.id], {actions: false, renderer: 'svg', tooltip: {theme: dark.matches ? 'dark' : 'light'}});
    place.querySelector('svg.still').remove();
    room.style.position = room.style.visibility = '';
  } catch (error) {
    room.remove();
    console.error(place.id, error);
  }
}
for (const place of document.querySelectorAll('.panel')) {
  for (const touch of ['pointerenter', 'focus', 'click']) place.addEventListener(touch, () => start(place), {once: true});
}
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(one => one.open = true));
window.startFigures = () => Promise.all([...document.querySelectorAll('.panel')].map(start));
"""


def script(charts: Mapping[str, Panel]) -> Markup:
    """The page's script: the charts by the name of their place, and Vega. Nothing without charts."""
    if not charts:
        return Markup("")
    specs = {name: interactive(panel) for name, panel in charts.items()}
    # A name in the data cannot end the script: no tag can begin in it.
    told = json.dumps(specs, sort_keys=True).replace("<", "\\u003c")
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    return Markup(f'<script type="module">{library}\nconst specs = {told};\n{START}</script>')


def interactive(panel: Panel) -> dict[str, Any]:
    """A panel's chart with tooltips, as wide as its place, and with axes that can be moved where both are numbers."""
    # Five digits are more than a reader of a tooltip wants, and half of the page's size.
    told = json.dumps(panel.spec).replace(INK, "currentColor")
    spec: dict[str, Any] = json.loads(told, parse_float=lambda text: float(f"{float(text):.5g}"))
    # Points and bars tell of themselves; lines and bands, of which a point is one of many, and the frame do not.
    marks = {
        name: {"tooltip": {"content": "data"}}
        for name in ("point", "rect", "rule", "tick", "circle", "bar", "area", "line")
    }
    spec["config"] = {**spec.get("config", {}), **marks, "aria": True}
    spec |= {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
    zoom = {
        "name": "zoom",
        "select": {"type": "interval", "zoom": "wheel![event.ctrlKey]"},
        "bind": "scales",
    }
    layers = spec.get("layer")
    if layers is None:
        return {**spec, "params": [*spec.get("params", []), zoom]} if _has_axes(spec) else spec
    # The scales are bound through a layer that has both axes as they are in the data; the others share them.
    chosen = next((i for i, layer in enumerate(layers) if _has_axes(layer)), None)
    if chosen is not None:
        spec["layer"] = [{**one, "params": [zoom]} if i == chosen else one for i, one in enumerate(layers)]
    return spec


def _has_axes(layer: Mapping[str, Any]) -> bool:
    axes = [layer.get("encoding", {}).get(axis, {}) for axis in ("x", "y")]
    return all("field" in axis and "aggregate" not in axis and axis.get("type") == "quantitative" for axis in axes)
