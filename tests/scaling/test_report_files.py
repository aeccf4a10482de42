"""What lies beside the page: interactive figures, Markdown, LaTeX; and forecasts that are judged."""

import json
import re
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimcore import artifacts
from mimcore.scaling.fit import fit
from mimcore.scaling.layers import capital
from mimcore.scaling.report import report
from mimcore.scaling.table import read_results, runs_of, write_results


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
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 13
    tabulars = re.findall(r"\\begin\{tabular\}\{@\{\}([^\n]*)@\{\}\}\n(.*?)\\end", text, re.DOTALL)
    assert len(tabulars) == 13
    for columns, body in tabulars:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns.count("p{") or len(columns)}
        assert not re.search(r"(?<!\\)[%#_]", "".join(rows))


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"run": "x"}]'])
def test_a_broken_file_of_forecasts_is_said(whole_study, content):
    with pytest.raises(Exception, match="no list of forecasts"):
        write(whole_study, json.loads(content))


def specs_of(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    return json.loads(re.search(r"const specs = (\{.*\});\n", text).group(1))


def test_subsets_of_two_pools_have_levels_of_their_own(whole_study, tmp_path):
    shutil.copytree(whole_study / "results", tmp_path / "results")
    (tmp_path / "runs").mkdir()
    rows = []
    for row in read_results(whole_study / "results" / "results.parquet"):
        wide = row.subset in ("n4096", "n16384", "n32768")
        above = 0.05 if wide and row.task == "pretrain" else 0.0
        rows.append(
            replace(row, pool="wide" if wide else "home", value=row.value + above) if row.kind == "run" else row
        )
    write_results(tmp_path / "results" / "results.parquet", rows)
    fit(tmp_path / "results" / "results.parquet", {"bootstrap": 100, "laws": ["joint"]}, tmp_path / "fit")
    folder = write(tmp_path, [])
    text = (folder / "report.md").read_text(encoding="utf-8")
    said = re.search(
        r"\* The validation loss of runs on pool wide lies ([\d.]+) \[([\d.]+), ([\d.]+)\] above that of runs on home",
        text,
    )
    value, low, high = map(float, said.groups())
    assert low < value < high
    assert value == pytest.approx(0.05, abs=0.01)
    assert "The subsets are of 2 pools (home and wide), whose losses may be of different levels" in text
    assert "Each curve is of one pool (home, wide)" in text
    assert {path.stem for path in folder.glob("iso-flop*.svg")} == {"iso-flop-home", "iso-flop-wide"}
    assert "unique images of pool wide: a larger model sees fewer" in text
    assert re.search(r"\| model \| pool \| unique images \|.*\n.*\n\| (tiny|small) \| (home|wide) \|", text)
    curves = specs_of(folder)["scaling-0"]["datasets"].values()
    drawn = {(point["schedule"], point["pool"]) for points in curves for point in points if "ahead" in point}
    assert drawn == {("short", "home"), ("short", "wide"), ("long", "home"), ("long", "wide")}
    assert "small long (home)" in text
    assert "small long (wide)" in text
    assert "| tiny short (home) | 1,024 → 8,192 |" in text
    assert "| tiny short (wide) | 4,096 → 32,768 |" in text
    page = (folder / "report.html").read_text(encoding="utf-8")
    for pool in ("home", "wide"):
        assert f"at a fixed number of images seen. ({pool}) |" in text
        assert f"</span> <strong>{pool}</strong>" in page


def test_phases_and_imported_runs_stand_apart(whole_study, tmp_path):
    """A second phase is an objective of its own; an imported run has a hollow marker and is no run of the study."""
    rows = read_results(whole_study / "results" / "results.parquet")
    kept = [row for row in rows if row.kind != "run" or (row.model == "tiny" and row.unique_images < 9000)]
    first = [row for row in kept if row.kind == "run" and row.schedule == "short"]
    phases = [
        replace(
            row,
            run=f"pix-{str(row.run).removeprefix('mae-')}-after-mae-{row.subset}-short",
            objective="pix",
            after=row.run,
            use="weights",
            value=row.value * 0.99,
        )
        for row in first
    ]
    imported = [
        replace(row, run=f"elsewhere-{row.seed}", source="imported", unique_images=65536, headline=True)
        for row in first
        if (row.subset, row.metric) == ("n1024", "val_loss")
    ]
    for name in ("results", "runs"):
        (tmp_path / name).mkdir()
    for name in ("notes.json", "curves.parquet"):
        shutil.copy(whole_study / "results" / name, tmp_path / "results" / name)
    names = {row.run for row in kept}
    curves = pq.read_table(tmp_path / "results" / "curves.parquet").to_pylist()
    curves = [point for point in curves if point["run"] in names]
    curves += [
        {**point, "run": f"pix-{point['run'].removeprefix('mae-')}-after-mae-n{point['unique_images']}-short"}
        for point in curves
        if "-short-" in point["run"]
    ]
    pq.write_table(pa.Table.from_pylist(curves), tmp_path / "results" / "curves.parquet")
    write_results(tmp_path / "results" / "results.parquet", [*kept, *phases, *imported])
    fit(tmp_path / "results" / "results.parquet", {"bootstrap": 100, "laws": ["power", "joint"]}, tmp_path / "fit")
    folder = write(tmp_path, [])
    text = (folder / "report.html").read_text(encoding="utf-8")
    specs = json.loads(re.search(r"const specs = (\{.*\});\n", text).group(1))
    assert "imported run" in text
    drawn = [point for values in specs["scaling-0"]["datasets"].values() for point in values if point.get("imported")]
    assert {point["run"] for point in drawn} == {"elsewhere-s0", "elsewhere-s1"}
    assert "Validation loss (pix after mae short)" in text
    assert "elsewhere-s0" not in text[: text.index("<script")]


def test_a_title_leaves_the_name_of_a_column() -> None:
    assert [capital(text) for text in ("fall of the loss", "val_loss at 2M", "top1", "")] == [
        "Fall of the loss",
        "val_loss at 2M",
        "Top1",
        "",
    ]
