"""The page of one law on one table."""

import csv
import json
import re

import numpy as np
import pytest
import yaml

from mimcore.scaling.fit_table import fit_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Chinchilla's law with a little noise on three models and four lengths; the largest model is held out."""
    root, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    with (root / "runs.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["name", "params", "images", "loss"])
        for params in (5e6, 2e7, 8e7):
            for images in (1e5, 3e5, 1e6, 3e6):
                loss = 0.4 + 3 * params**-0.3 + 9 * images**-0.35
                table.writerow([f"<{params:g}>", params, images, loss * np.exp(0.002 * rng.normal())])
    mapping = {
        "metric": {"column": "loss", "name": "loss"},
        "labels": ["name"],
        "variables": {"encoder_params": {"column": "params"}, "images_seen": {"column": "images"}},
    }
    (root / "map.yaml").write_text(yaml.safe_dump(mapping))
    fit_table(
        root / "runs.csv",
        "chinchilla",
        root / "fit.json",
        mapping=root / "map.yaml",
        holdout="params > 3e7",
        options={"bootstrap": 100},
        report=root / "report",
    )
    return root / "report"


def test_the_page_says_what_was_fitted_and_forecast(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    found = json.loads((folder.parent / "fit.json").read_text())
    assert "8 rows of loss fitted" in text
    assert "4 rows held out (params &gt; 3e7)" in text
    assert f"R² {found['r2']:.4f}" in text
    assert "&lt;5e+06&gt;" in text
    assert "<5e+06>" not in text[: text.index("<script")]
    assert text.count("<script") == text.count("</script>") == 1


def test_every_row_is_drawn_and_those_held_out_apart(folder):
    assert {path.name for path in folder.iterdir()} == {
        *("report.html", "report.md", "tables.tex"),
        *(f"{name}.{kind}" for name in ("law", "predictions", "residuals", "overfitting") for kind in ("png", "svg")),
    }
    text = (folder / "report.html").read_text(encoding="utf-8")
    specs = json.loads(re.search(r"const specs = (\{.*\});\n", text).group(1))

    def values(spec, layer):
        return spec["datasets"][spec["layer"][layer]["data"]["name"]]

    points = values(specs["predictions-0"], 1)
    assert [point["what"] for point in points].count("held out, forecast") == 4
    assert len(points) == 12
    drawn = values(specs["law-0"], -1)
    assert {point["of"] for point in drawn} == {"5M", "20M", "80M"}
    assert sum(point["held_out"] for point in drawn) == 4


def test_words_and_tables_lie_beside_the_page(folder):
    found = json.loads((folder.parent / "fit.json").read_text())
    words, tables = ((folder / name).read_text(encoding="utf-8") for name in ("report.md", "tables.tex"))
    assert f"`loss = {found['law']['formula']}`" in words
    assert "The loss of 0 of 3 cells is higher at their longest than at their shortest." in words
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", words)
    assert sorted(pictures) == ["law.png", "overfitting.png", "predictions.png", "residuals.png"]
    assert all((folder / picture).is_file() for picture in pictures)
    assert "| <" not in words
    assert tables.count("\\begin{tabular}") == tables.count("\\end{tabular}") == 2
    for name in found["parameters"]:
        assert f"\n{name} & " in tables
