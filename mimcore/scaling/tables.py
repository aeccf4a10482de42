"""The answer as Markdown, for a pull request, and its tables in LaTeX, for a paper."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mimcore.scaling.figure import Section

#: What LaTeX reads as its own, and what stands for it.
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$",
    "≈": r"$\approx$", "×": r"$\times$", "ρ": r"$\rho$", "²": r"$^2$", "[": "{[}", "]": "{]}", "−": r"$-$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "*": "{*}", "`": r"\textasciigrave{}",
}  # fmt: skip
#: Characters that a line of LaTeX's article holds, and those that the space between two columns takes.
LINE, BETWEEN = 74, 2.7


def markdown(told: Mapping[str, Any]) -> str:
    """The answers, the claims, what to hold against them, the tables, and the pictures by their file names.

    Args:
        told: what the page is told: ``title``, ``scope``, ``answers``, ``claims``, ``advice``, ``flags``, ``headline``, ``noise``,
            ``laws``, ``sections``.
    """
    parts = [
        f"# {_plain(told['title'])}",
        told["scope"],
        "",
        *[f"* {_plain(sentence)}" for sentence in told["answers"]],
    ]
    parts += ["", "## From the smallest to the largest subset", "", *_grid(*_headline(told))]
    if told["claims"]:
        parts += ["", "## Claims", "", *_grid(*_claims(told))]
    parts += ["", "## What to run next"]
    for one in told["advice"]:
        parts += ["", _plain(one["missing"])] if one["missing"] else []
        for title, table in one["tables"]:
            parts += ["", f"{title}{one['about']}:", "", *_grid(list(table.head), [list(row) for row in table.rows])]
    parts += ["", "## What to hold against these numbers", "", *[f"* {_plain(flag)}" for flag in told["flags"]]]
    if told["noise"]:
        parts += ["", *_grid(*_noise(told))]
    parts += _sections(told["sections"])
    parts += ["", "## The laws of each model and length", "", *_grid(*_laws(told))]
    return "\n".join(parts) + "\n"


def table_markdown(told: Mapping[str, Any]) -> str:
    """The same of one law on one table.

    Args:
        told: what its page is told: ``title``, ``law``, ``quantity``, ``answers``, ``parameters``, ``sections``.
    """
    law, grid = told["law"], told["parameters"]
    parts = [
        f"# {_plain(told['title'])}",
        f"The law '{law['name']}': `{told['quantity']} = {law['formula']}` ({_plain(law['source'])})",
        "",
        *[f"* {_plain(sentence)}" for sentence in told["answers"]],
        *["", "## Parameters", "", *_grid(list(grid.head), [list(row) for row in grid.rows])],
        *_sections(told["sections"]),
    ]
    return "\n".join(parts) + "\n"


def table_latex(told: Mapping[str, Any]) -> str:
    """The tables of one law on one table; ``told`` as for ``table_markdown``."""
    grid = told["parameters"]
    return _tabulars([("Parameters", (list(grid.head), [list(row) for row in grid.rows])), *_small(told["sections"])])


def _sections(sections: Sequence[Section]) -> list[str]:
    """Pictures by their file names, words and small tables."""
    parts: list[str] = []
    for section in sections:
        parts += ["", f"## {_plain(section.title)}"]
        for figure in section.figures:
            parts += ["", f"### {_plain(figure.title)}", ""]
            if figure.missing:
                parts.append(f"Not in this report: {_plain(figure.missing)}")
                continue
            parts += [
                f"![{_plain(figure.title)}]({figure.name}.png)",
                "",
                f"**Shows.** {_plain(figure.shows)} **Does not show** {_plain(figure.hides)}",
            ]
            if figure.table:
                parts += ["", *_grid(list(figure.table.head), [list(row) for row in figure.table.rows])]
    return parts


def latex(told: Mapping[str, Any]) -> str:
    """The tables, for ``booktabs`` and ``array``; each is a ``tabular`` that a paper puts into a float of its own."""
    tables = [
        ("From the smallest to the largest subset", _headline(told)),
        ("The laws of each model and length", _laws(told)),
    ]
    tables += [("Claims", _claims(told))] if told["claims"] else []
    tables += [("Seed noise", _noise(told))] if told["noise"] else []
    return _tabulars([*tables, *_small(told["sections"])])


def _small(sections: Sequence[Section]) -> list[tuple[str, "Table"]]:
    """The tables of figures."""
    return [
        (f"{section.title}: {figure.title}", (list(figure.table.head), [list(row) for row in figure.table.rows]))
        for section in sections
        for figure in section.figures
        if figure.table
    ]


def _tabulars(tables: Sequence[tuple[str, "Table"]]) -> str:
    return "% Needs \\usepackage{booktabs,array}.\n" + "\n\\bigskip\n\n".join(
        f"% {' '.join(title.split())}\n{_tabular(*table)}" for title, table in tables
    )


Table = tuple[list[str], list[list[str]]]


def _headline(told: Mapping[str, Any]) -> Table:
    head = told["headline"]
    rows = [
        [
            line["setting"],
            " → ".join(line["sizes"]),
            *(
                (" → ".join(cell) or "–") + (" (within seed noise)" if quiet else "")
                for cell, quiet in zip(line["cells"], line["quiet"], strict=True)
            ),
        ]
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


def _claims(told: Mapping[str, Any]) -> Table:
    rows = [
        [
            claim["claim"] + (f" ({claim['about']})" if claim["about"] else ""),
            claim["source"],
            claim["verdict"],
            claim["sentence"],
        ]
        for claim in told["claims"]
    ]
    return ["claim", "source", "verdict", "evidence"], rows


def _noise(told: Mapping[str, Any]) -> Table:
    head = ["seed noise", "standard deviation", "smallest difference that two cells can show", "degrees of freedom"]
    return head, [[one["name"], one["sd"], one["least"], one["freedom"]] for one in told["noise"]]


def _grid(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(_plain(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _plain(text: str) -> str:
    """Text that Markdown cannot take for a tag."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _tabular(head: list[str], rows: list[list[str]]) -> str:
    columns = _columns([head, *rows])
    lines = [" & ".join(map(_tex, line)) + r" \\" for line in [head, *rows]]
    # Between rows of several lines a little space tells where one ends.
    body = ("\n\\addlinespace\n" if "p{" in columns else "\n").join(lines[1:])
    top = [rf"\noindent\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*top, body, r"\bottomrule", r"\end{tabular}", ""])


def _columns(lines: list[list[str]]) -> str:
    """``l`` for each column where a line holds the table; else widths between the longest word and the longest cell of each."""
    cells = list(zip(*lines, strict=True))
    # One more than the letters of the longest word: some letters are wide.
    least = [1 + max(len(word) for cell in column for word in (cell.split() or [""])) for column in cells]
    most = [1 + max(map(len, column)) for column in cells]
    room = LINE - BETWEEN * (len(cells) - 1)
    if sum(most) <= room:
        return "l" * len(cells)
    crowded = min(1.0, room / sum(least))
    share = max(room - sum(least), 0) / (sum(most) - sum(least) or 1)
    widths = [crowded * (low + (high - low) * share) / LINE for low, high in zip(least, most, strict=True)]
    return "".join(rf">{{\raggedright\arraybackslash}}p{{{width:.3f}\linewidth}}" for width in widths)


def _tex(text: str) -> str:
    """Text that LaTeX prints as it is: its own characters escaped, on one line, two hyphens or primes no dash and no quote."""
    escaped = "".join(TEX.get(character, character) for character in " ".join(text.split()))
    return re.sub(r"([-',])(?=\1)", r"\1{}", escaped)
