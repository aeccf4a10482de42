"""A figure of the report: panels, their legend, and in words what they show and what they do not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mimcore.scaling.drawing import Key, Panel, board, inline, save_png, swatch

#: Panels of one figure that the page shows at once; the others are folded.
AT_ONCE = 6


@dataclass(frozen=True)
class Table:
    """A small table: ``head`` names its columns, each of ``rows`` has as many cells."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: of its files and of its place in the page.
        title: a heading.
        shows: what can be read off it.
        hides: what cannot, though one might think so.
        panels: its charts; none where ``missing`` says what the study lacks for it.
        keys: its legend.
        table: its numbers, where they are few.
        missing: a sentence.
    """

    name: str
    title: str
    shows: str = ""
    hides: str = ""
    panels: Sequence[Panel] = ()
    keys: Sequence[Key] = ()
    table: Table | None = None
    missing: str = ""

    def save(self, folder: Path) -> None:
        """Write it as SVG and PNG; nothing without panels."""
        if self.panels:
            drawing = board(self.panels, self.title, self.keys, columns=2)
            (folder / f"{self.name}.svg").write_text(drawing, encoding="utf-8")
            save_png(drawing, folder / f"{self.name}.png")

    def page(self) -> dict[str, Any]:
        """What the page's template is given."""
        panels = [
            (f"{self.name}-{i}", Markup(inline(panel, f"{self.name}-{i}"))) for i, panel in enumerate(self.panels)
        ]
        return {
            "name": self.name,
            "title": self.title,
            "shows": self.shows,
            "hides": self.hides,
            "missing": self.missing,
            "table": self.table,
            "keys": [(Markup(swatch(key)), key.text) for key in self.keys],
            "panels": panels[:AT_ONCE],
            "folded": panels[AT_ONCE:],
        }


@dataclass(frozen=True)
class Section:
    """Figures under one heading; ``folded`` ones are opened by the reader."""

    name: str
    title: str
    figures: Sequence[Figure] = field(default_factory=tuple)
    folded: bool = False
