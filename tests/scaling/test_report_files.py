"""What lies beside the page: interactive figures, Markdown, LaTeX; and forecasts that are judged."""

import json
import re
from dataclasses import replace

import pytest

from mimcore import artifacts
from mimcore.scaling.report import report
from mimcore.scaling.table import read_results, runs_of


def write(root, forecasts):
    (root / "forecasts.json").write_text(json.dumps(forecasts))
    report(
        root / "results",
        root / "fit" / "fit.json",
        root / "runs",
        root / "none",
        root / "beside",
        root / "forecasts.json",
    )
    return root / "beside"


def bets(root, name, shift):
    runs = {run.name: run for run in runs_of(read_results(root / "results" / "results.parquet"))}
    observed = runs[name].values["pretrain", "val_loss"]
    definition = json.loads((root / "runs" / name / "metrics.json").read_text())["definition"]
    low, high = observed + shift - 0.01, observed + shift + 0.01
    return {
        "run": name, "definition": artifacts.digest(definition), "task": "pretrain", "metric": "val_loss", "value": observed + shift,
        "low": low, "high": high, "confidence": 0.9, "law": "joint", "runs": 20,
    }  # fmt: skip


def test_forecasts_are_judged_in_the_page_and_in_markdown(whole_study):
    first, second = "mae-tiny-n1024-long-s0", "mae-small-n2048-long-s0"
    forecasts = [bets(whole_study, first, 0.005), bets(whole_study, second, 0.02)]
    forecasts.append({**bets(whole_study, "mae-tiny-n2048-long-s0", 0.0), "definition": "another"})
    folder = write(whole_study, forecasts)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "1 of 2 forecasts held; 90 % should" in text
    table = (folder / "report.md").read_text(encoding="utf-8")
    assert re.search(rf"\| {first} \|.*\| hit \|", table)
    assert re.search(rf"\| {second} \|.*\| missed \|", table)
    assert "mae-tiny-n2048-long-s0 |" not in table


def test_a_study_without_forecasts_speaks_of_none(whole_study):
    text = (write(whole_study, []) / "report.md").read_text(encoding="utf-8")
    assert "Not in this report: No run was forecast before it was made" in text


def test_every_figure_is_interactive_and_needs_no_network(whole_study):
    folder = write(whole_study, [])
    text = (folder / "report.html").read_text(encoding="utf-8")
    specs = json.loads(re.search(r"const specs = (\{.*\});\n", text).group(1))
    drawn = {name.rpartition("-")[0] for name in specs}
    assert drawn == {path.stem for path in folder.glob("*.svg")}
    for name, spec in specs.items():
        assert f'<div class="panel" id="{name}"' in text
        assert spec["config"]["point"]["tooltip"]
        layers = spec.get("layer", [spec])
        has_numbers = not name.startswith("overfitting")
        assert sum("params" in layer for layer in layers) == has_numbers
        assert "url" not in json.dumps(spec)
    assert text.count("<script") == text.count("</script>") == 1


def test_a_name_cannot_end_the_script(build_study, small_plan):
    root, _ = build_study(replace(small_plan, objective="</script><b>"))
    text = (write(root, []) / "report.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 1
    assert "<b>" not in text[: text.index("<script")] + text[text.index("const specs") :]
    assert "<b>" not in (root / "beside" / "report.md").read_text(encoding="utf-8")


def test_tables_are_whole_latex(whole_study):
    text = (write(whole_study, []) / "tables.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 12
    for tabular in re.findall(r"\\begin\{tabular\}\{(l+)\}(.*?)\\end", text, re.DOTALL):
        rows = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(tabular[0])}
        assert not re.search(r"(?<!\\)[%#_]", "".join(rows))


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"run": "x"}]'])
def test_a_broken_file_of_forecasts_is_said(whole_study, content):
    with pytest.raises(Exception, match="no list of forecasts"):
        write(whole_study, json.loads(content))
