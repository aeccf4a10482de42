"""The answer as Markdown, for a pull request, and its tables in LaTeX, for a paper."""

from collections.abc import Mapping, Sequence
from typing import Any

#: What LaTeX reads as its own, and what stands for it.
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$", "−": r"$-$",
}  # fmt: skip


def markdown(told: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> str:
    """The answers, what to hold against them, the tables, and the pictures by their file names.

    Args:
        told: what the page is told: ``title``, ``scope``, ``answers``, ``flags``, ``headline``, ``laws``, ``forecasts``.
        figures: each with ``name``, ``title`` and ``caption``.
    """
    parts = [
        f"# {_plain(told['title'])}",
        told["scope"],
        "",
        *[f"* {_plain(sentence)}" for sentence in told["answers"]],
    ]
    parts += ["", "## From the smallest to the largest subset", "", *_grid(*_headline(told))]
    parts += ["", "## The laws", "", *_grid(*_laws(told))]
    if told["forecasts"]:
        parts += ["", "## Forecasts", "", *_grid(*_forecasts(told))]
    parts += ["", "## What to hold against these numbers", "", *[f"* {_plain(flag)}" for flag in told["flags"]]]
    for figure in figures:
        parts += [
            "",
            f"## {figure['title']}",
            "",
            f"![{figure['title']}]({figure['name']}.png)",
            "",
            _plain(figure["caption"]),
        ]
    return "\n".join(parts) + "\n"


def latex(told: Mapping[str, Any]) -> str:
    """The tables, for ``booktabs``; each is a ``tabular`` that a paper puts into a float of its own."""
    tables = [_headline(told), _laws(told), *([_forecasts(told)] if told["forecasts"] else [])]
    return "% Needs \\usepackage{booktabs}.\n" + "\n".join(_tabular(*table) for table in tables)


Table = tuple[list[str], list[list[str]]]


def _headline(told: Mapping[str, Any]) -> Table:
    head = told["headline"]
    rows = [
        [line["setting"], " → ".join(line["sizes"]), *(" → ".join(cell) or "–" for cell in line["cells"])]
        for line in head["lines"]
    ]
    return ["setting", "unique images", *head["columns"]], [*rows, ["floors", "", *head["floors"]]]


def _laws(told: Mapping[str, Any]) -> Table:
    rows = []
    for line in told["laws"]:
        if line["fitted"]:
            parameters = ", ".join(f"{name} {value}" for name, value in line["parameters"].items())
            rows.append([line["setting"], line["quantity"], parameters, "; ".join(line["forecast"]), line["check"]])
        else:
            rows.append([line["setting"], line["quantity"], line["note"], "", ""])
    return ["setting", "quantity", "parameters", "forecast", "test on the largest subset"], rows


def _forecasts(told: Mapping[str, Any]) -> Table:
    rows = [
        [
            one["run"],
            f"{one['value']:.4g} [{one['low']:.4g}, {one['high']:.4g}]",
            f"{one['observed']:.4g}",
            "hit" if one["hit"] else "missed",
        ]
        for one in told["forecasts"]
    ]
    return ["run", "forecast", "observed", ""], rows


def _grid(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(_plain(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _plain(text: str) -> str:
    """Text that Markdown cannot take for a tag."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _tabular(head: list[str], rows: list[list[str]]) -> str:
    lines = [" & ".join(map(_tex, line)) + r" \\" for line in [head, *rows]]
    top = [rf"\begin{{tabular}}{{{'l' * len(head)}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)
