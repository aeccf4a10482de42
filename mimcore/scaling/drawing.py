"""From charts to pictures: one SVG per panel for the page, and boards of panels as PNG."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert

#: The renderer brings this font along; Arial and Helvetica share its widths, so that text fits wherever it is shown.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
#: Colour of all text and lines that are no data; on the page it becomes the colour of the page's text.
INK = "#24292f"
#: Colours of models: tell apart with every common colour blindness, and on white as on black (after Okabe & Ito 2008).
MODEL_COLOURS = ("#0b78be", "#d8660a", "#15916b", "#b8559a", "#8a7a10", "#4fa3d9", "#7a6fd0", "#c04a3c")
#: Lines and markers of schedules, the longest first.
SCHEDULE_DASHES: tuple[tuple[int, int], ...] = ((1, 0), (6, 4), (2, 3), (10, 3))
SCHEDULE_SHAPES = ("circle", "triangle-up", "square", "diamond")
#: Ends and middle of the colours of sizes, smallest first.
SIZE_COLOURS = ("#e0a030", "#dd7a3c", "#cb5c5e", "#a8578c", "#6f64ae", "#3b7ab8")

PLOT_WIDTH, PLOT_HEIGHT = 330, 230

CONFIG: dict[str, Any] = {
    "aria": False,
    "background": None,
    "font": FONT,
    "padding": 4,
    "view": {"stroke": None},
    "title": {"anchor": "start", "color": INK, "fontSize": 14, "fontWeight": 600, "offset": 10, "frame": "group"},
    "axis": {
        "domainColor": INK,
        "domainOpacity": 0.35,
        "gridColor": INK,
        "gridOpacity": 0.1,
        "labelColor": INK,
        "labelFontSize": 12,
        "labelOpacity": 0.8,
        "tickColor": INK,
        "tickOpacity": 0.35,
        "titleColor": INK,
        "titleFontSize": 12,
        "titleFontWeight": 400,
        "titleOpacity": 0.8,
        "titlePadding": 7,
    },
    "text": {"color": INK, "fontSize": 11},
}


@dataclass(frozen=True)
class Panel:
    """A rendered chart; ``about`` says in a sentence what it shows, ``spec`` is the chart in Vega-Lite."""

    svg: str
    width: float
    height: float
    about: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a line with an optional marker, or with ``mark`` a thing of its own.

    ``mark`` is ``hollow``, ``ring``, ``box`` or ``dot``.
    """

    text: str
    colour: str
    dash: tuple[int, int] = (1, 0)
    shape: str | None = None
    mark: str | None = None


def render(chart: Any, about: str) -> Panel:
    """Draw an altair chart."""
    # Checking a chart against the schema takes longer than drawing it, and the tests look at what is drawn.
    spec = {**chart.to_dict(validate=False), "config": CONFIG}
    svg = vl_convert.vegalite_to_svg(spec)
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    width, height = (float(part) for part in found.groups()) if found else (0.0, 0.0)
    return Panel(svg, width, height, about, spec)


def inline(panel: Panel, name: str) -> str:
    """Make a panel part of a page: it takes the page's width and text colour, and its ids clash with no other's."""
    title = html.escape(panel.about, quote=True)
    body = _body(panel, name).replace(INK, "currentColor")
    return f'<svg class="still" viewBox="0 0 {panel.width:g} {panel.height:g}" role="img" aria-label="{title}">{body}</svg>'


def swatch(key: Key) -> str:
    """Draw the line and marker of a legend's entry, for the page."""
    return f'<svg class="swatch" width="30" height="12" viewBox="0 -6 30 12" aria-hidden="true">{_sample(key)}</svg>'


def board(panels: Sequence[Panel], title: str, keys: Sequence[Key], columns: int) -> str:
    """Lay panels out on white, row by row, below a title and one legend."""
    columns = min(columns, len(panels))
    cell = max(panel.width for panel in panels) + 20
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) + 20 for row in rows]
    width = max(cell * columns, 420) + 28
    entries, legend_height = _legend(keys, width - 48)
    top = 56 + legend_height
    body = [f'<text x="24" y="36" font-size="18" font-weight="bold" fill="{INK}">{html.escape(title)}</text>']
    body.append(f'<g transform="translate(24,60)">{entries}</g>')
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        place = f"translate({14 + column * cell:g},{top + sum(heights[:row]):g})"
        body.append(f'<g transform="{place}">{_body(panel, f"p{i}")}</g>')
    height = top + sum(heights) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="{FONT}">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>'
    )


def save_png(svg: str, path: Path) -> None:
    """Write a drawing as PNG at twice its size."""
    path.write_bytes(vl_convert.svg_to_png(svg, scale=2))


def size_colours(count: int) -> list[str]:
    """Colours for ``count`` sizes of subset, from the smallest to the largest."""
    if count == 1:
        return [SIZE_COLOURS[-1]]
    found = []
    for i in range(count):
        position = i * (len(SIZE_COLOURS) - 1) / (count - 1)
        low = min(int(position), len(SIZE_COLOURS) - 2)
        found.append(_mix(SIZE_COLOURS[low], SIZE_COLOURS[low + 1], position - low))
    return found


def _mix(first: str, second: str, share: float) -> str:
    channels = [(int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in channels)


def _body(panel: Panel, name: str) -> str:
    """What is inside a panel's root element; ids count from 0 after ``name``, as the renderer's go on for ever."""
    body = panel.svg[panel.svg.index(">") + 1 : panel.svg.rindex("</svg>")]
    # A hundredth of a pixel is enough, and makes half of the file; but what is written, such as 0.005 on an axis, is no pixel.
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"\d+\.\d{3,}", _hundredth, tag.group()), body)
    seen: dict[str, str] = {}

    def renumber(match: re.Match[str]) -> str:
        return match.group(1) + seen.setdefault(match.group(2), f"{name}-{len(seen)}")

    return re.sub(r'(\bid="|url\(#)([\w-]+)', renumber, body)


def _hundredth(match: re.Match[str]) -> str:
    return f"{float(match.group()):.2f}"


def _legend(keys: Sequence[Key], width: float) -> tuple[str, float]:
    """Draw the entries of a legend in rows no wider than ``width``; return the elements and their height."""
    parts, x, y = [], 0.0, 0.0
    for key in keys:
        entry = 56 + 6.9 * len(key.text)
        if x and x + entry > width:
            x, y = 0.0, y + 22
        text = f'<text x="37" y="4.2" font-size="13" fill="{INK}">{html.escape(key.text)}</text>'
        parts.append(f'<g transform="translate({x:g},{y:g})">{_sample(key)}{text}</g>')
        x += entry
    return "".join(parts), y + 22


def _sample(key: Key) -> str:
    """A short line with its marker, 30 wide, about the height 0."""
    alone = {
        "hollow": f'<circle cx="15" cy="0" r="4" fill="none" stroke="{key.colour}" stroke-width="1.6"/>',
        "ring": f'<circle cx="15" cy="0" r="2.6" fill="{key.colour}"/><circle cx="15" cy="0" r="5.4" fill="none" stroke="{key.colour}"/>',
        "box": f'<rect x="7" y="-5.5" width="16" height="11" rx="2" fill="{key.colour}" fill-opacity="0.6"/>',
        "dot": f'<circle cx="15" cy="0" r="4.2" fill="{key.colour}"/>',
    }
    if key.mark:
        return alone[key.mark]
    dash = "" if key.dash == (1, 0) else f' stroke-dasharray="{key.dash[0]} {key.dash[1]}"'
    marks = {
        "circle": '<circle cx="15" cy="0" r="4"',
        "triangle-up": '<path d="M10.5 3.6L19.5 3.6L15 -4.6Z"',
        "square": '<rect x="11.2" y="-3.8" width="7.6" height="7.6"',
        "diamond": '<path d="M15 -5L20 0L15 5L10 0Z"',
    }
    mark = f'{marks[key.shape]} fill="{key.colour}"/>' if key.shape else ""
    return f'<line x1="0" x2="30" y1="0" y2="0" stroke="{key.colour}" stroke-width="2.2"{dash}/>{mark}'
