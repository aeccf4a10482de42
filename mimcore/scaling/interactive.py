"""The figures once more, to be pointed at and zoomed: a page with Vega inside, that needs no network."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import vl_convert

from mimcore.scaling.drawing import Panel

STYLE = """
body { font: 15px/1.45 "Liberation Sans", Arial, Helvetica, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1.2rem;
  color: #24292f; background: #fff; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; }
.caption { color: #57606a; max-width: 50rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; list-style: none; margin: 0 0 0.6rem; padding: 0; }
#vg-tooltip-element table tr td { padding: 1px 4px; }
"""


def page(title: str, figures: Sequence[Mapping[str, Any]]) -> str:
    """A page of all panels: a tooltip for every mark, zoom by the wheel, pan by dragging, double click to return.

    Args:
        title: of the study.
        figures: each with ``name``, ``title``, ``caption``, ``keys`` (swatch and text) and ``drawn``, its panels.
    """
    parts, specs = [], {}
    for figure in figures:
        places = []
        for i, panel in enumerate(figure["drawn"]):
            name = f"{figure['name']}-{i}"
            specs[name] = interactive(panel)
            places.append(f'<div id="{name}" role="img" aria-label="{html.escape(panel.about, quote=True)}"></div>')
        keys = [f"<li>{swatch} {html.escape(text)}</li>" for swatch, text in figure["keys"]]
        parts.append(
            f'<section><h2>{html.escape(figure["title"])}</h2><p class="caption">{html.escape(figure["caption"])}</p>'
            f'<ul class="legend">{"".join(keys)}</ul><div class="panels">{"".join(places)}</div></section>'
        )
    # A name in the data cannot end the script: no tag can begin in it.
    told = json.dumps(specs, sort_keys=True).replace("<", "\\u003c")
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    draw = f"const specs = {told};\nfor (const name in specs) vegaEmbed('#' + name, specs[name], {{actions: false, renderer: 'svg'}});"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}: figures</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        '<p class="caption">Point at a mark for its numbers; turn the wheel to zoom, drag to move, double-click to return.</p>'
        f'{"".join(parts)}<script type="module">{library}\n{draw}</script></body></html>\n'
    )


def interactive(panel: Panel) -> dict[str, Any]:
    """A panel's chart with tooltips and with axes that can be moved."""
    spec = dict(panel.spec)
    config = {**spec.get("config", {}), "mark": {"tooltip": {"content": "data"}}, "background": "white", "aria": True}
    zoom = {"name": "zoom", "select": {"type": "interval", "zoom": True}, "bind": "scales"}
    layers = spec.get("layer")
    if layers is None:
        return {**spec, "params": [*spec.get("params", []), zoom], "config": config}
    # The scales are bound through a layer that has both axes as they are in the data; the others share them.
    chosen = next((i for i, layer in enumerate(layers) if _has_axes(layer)), 0)
    spec["layer"] = [{**one, "params": [zoom]} if i == chosen else one for i, one in enumerate(layers)]
    return {**spec, "config": config}


def _has_axes(layer: Mapping[str, Any]) -> bool:
    axes = [layer.get("encoding", {}).get(axis, {}) for axis in ("x", "y")]
    return all("field" in axis and "aggregate" not in axis for axis in axes)
