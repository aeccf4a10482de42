"""Tables in LaTeX: any name comes out as it was written, and LaTeX itself takes them."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimcore.scaling.tables import table_latex

#: LaTeX's ten special characters (LaTeX: A Document Preparation System, section 2.1), and what else it does not print as it is.
SPECIAL = "\\&%$#_{}~^" + "[]*<>|`'-,"
#: How LaTeX prints what the tables may have; written from its manual and not from the code.
PRINTED = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textasciigrave{}": "`",
    r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", r"\&": "&", r"\%": "%", r"\$": "$", r"\#": "#",
    r"\_": "_", r"\{": "{", r"\}": "}", "{[}": "[", "{]}": "]", "{*}": "*", "{}": "", r"$\pm$": "±", r"$\to$": "→",
    r"$\approx$": "≈", r"$\times$": "×", r"$\rho$": "ρ", r"$^2$": "²", "$-$": "−",
}  # fmt: skip
ORDINARY = r"[^\\&%$#_{}~^\[\]*<>|`]"
TOKEN = re.compile("|".join([*map(re.escape, sorted(PRINTED, key=len, reverse=True)), ORDINARY]))
NAMES = st.text(st.one_of(st.sampled_from(SPECIAL + " ab1±→≈×ρ²−é"), st.characters(exclude_categories=["Cc", "Cs"])))
COMPILERS = [name for name in ("pdflatex", "tectonic") if shutil.which(name)]


def latex(lines):
    told = {"parameters": SimpleNamespace(head=lines[0], rows=lines[1:]), "sections": []}
    return table_latex(told)


def rows_of(text):
    return [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]


def printed(cell):
    """What LaTeX prints of a cell; an assertion fails at a character that it would take as its own."""
    tokens = TOKEN.findall(cell)
    assert "".join(tokens) == cell
    assert not re.search(r"--|''|,,|^[*\[]", cell)
    return "".join(PRINTED.get(token, token) for token in tokens)


@given(st.integers(1, 5).flatmap(lambda width: st.lists(st.lists(NAMES, min_size=width, max_size=width), min_size=2)))
def test_every_name_comes_out_as_it_was_written(lines):
    rows = rows_of(latex(lines))
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        cells = re.split(r"(?<!\\)&", row)
        assert len(cells) == len(line)
        for cell, name in zip(cells, line, strict=True):
            assert printed(cell.strip(" ")) == " ".join(name.split())


def test_a_table_too_wide_for_a_line_fills_it():
    short, sentence = "supported", "What the largest subset gains over the smallest is +0.104 (2 seeds). " * 3
    narrow, wide = latex([["claim", "verdict"], [short, short]]), latex([["claim", "verdict"], [sentence, short]])
    assert r"\begin{tabular}{@{}ll@{}}" in narrow
    widths = [float(width) for width in re.findall(r"p\{([0-9.]+)\\linewidth\}", wide)]
    assert len(widths) == 2
    # A line of LaTeX's article at 10 points is 345 points wide, and the space between two columns 12.
    assert 0.9 < sum(widths) + 12 / 345 <= 1
    assert widths[1] > len(short) / 75


@pytest.mark.skipif(not COMPILERS, reason="neither pdflatex nor tectonic is on the PATH")
def test_latex_takes_every_special_character_and_keeps_to_the_line(tmp_path):
    names = [f"a{character}b{character}{character}" for character in SPECIAL + "±→≈×ρ²−"]
    sentence = "The rise of the validation loss on the smallest subset minus that on the largest is +0.0358. " * 3
    lines = [["name", "*", "[2]"], *[[name, name[1:], sentence] for name in names], [SPECIAL, SPECIAL[::-1], ""]]
    body = latex(lines) + "\n\n\\bigskip\n" + latex([names[:5], names[5:10]])
    (tmp_path / "tables.tex").write_text(body, encoding="utf-8")
    head = "\\documentclass{article}\n\\usepackage{booktabs,array}\n\\textheight=2000pt\\paperheight=2500pt\n"
    (tmp_path / "paper.tex").write_text(
        head + "\\begin{document}\n\\input{tables}\n\\end{document}\n", encoding="utf-8"
    )
    command = {
        "pdflatex": ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"],
        "tectonic": ["tectonic", "--keep-logs"],
    }
    made = subprocess.run(
        [*command[COMPILERS[0]], "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert made.returncode == 0, made.stdout[-2000:]
    assert (tmp_path / "paper.pdf").is_file()
    log = (tmp_path / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert [float(points) for points in re.findall(r"Overfull \\hbox \(([0-9.]+)pt", log) if float(points) > 5] == []
