import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import scaling_study
from rich.console import Console

from mimcore.scaling import drawing, numbers
from mimcore.scaling.collect import collect
from mimcore.scaling.fit import fit
from mimcore.scaling.headline import headline_table
from mimcore.scaling.report import report
from mimcore.scaling.words import learning_rates

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what is asked about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.loads, self.tags, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.loads += [attributes[k] for k in ("src", "href", "xlink:href", "data", "srcset") if k in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def write_report(root, name="report"):
    report(root / "results", root / "fit" / "fit.json", root / "runs", root / "provenance", root / name)
    return root / name


@pytest.fixture(scope="module")
def folder(whole_study):
    return write_report(whole_study)


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_else(html):
    page = Page(html)
    assert page.tags.count("script") == 1
    assert "link" not in page.tags
    still = re.sub(r"data:image/png;base64,[\w+/=]+", "", html[: html.index("<script")])
    assert not re.search(r"https?://|//[a-z]|@import|url\((?!#)", still)
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert len(page.ids) == len(set(page.ids))
    references = set(re.findall(r"url\(#([\w-]+)\)", still))
    assert references <= set(page.ids)


def test_the_page_opens_with_the_answer(html):
    text = " ".join(Page(html).words)
    opening = text.index("the validation loss falls in 4 of 4 settings")
    assert opening < text.index("From the smallest to the largest subset ") or opening < text.index(
        "Claims, held against these runs"
    )
    assert (
        text.index("Claims, held against these runs")
        < text.index("What more data buys")
        < text.index("Reconstructions")
    )
    for needed in (
        "48 runs: 1 objective, 2 models, 6 subset sizes from 1,024 to 32,768 images, 2 schedules, 2 seeds.",
        "the highest floor is 0.290 (pixels)",
        "Over-fitting: the validation loss of small long on 1,024 images ended",
        "same learning rate, 0.00015",
        "mae-tiny-n1024-short-s0",
        "torch 2.15.0",
        "49 min",
    ):
        assert needed in text, needed


def test_text_in_figures_follows_the_page_in_the_dark(html):
    # Vega brings colour scales of its own, which no figure uses.
    script = html.index("const specs")
    still = re.sub(r"(?s)<style>.*?</style>", "", html[: html.index("<script")])
    assert drawing.INK not in still + html[script:]
    assert "prefers-color-scheme: dark" in html
    assert "currentColor" in html


def test_pictures_lie_beside_the_page(folder):
    names = sorted(path.name for path in folder.iterdir())
    tasks = ("detection", "finetune", "linear")
    drawn = ["curves", "iso-flop", "laws-loss", "overfitting", "residuals", "saturation", "scaling"]
    drawn += [f"{part}-{task}" for part in ("laws", "overfitting", "proxy", "scaling") for task in tasks]
    beside = ["report.html", "report.md", "tables.tex"]
    assert names == sorted([f"{name}.{kind}" for name in drawn for kind in ("png", "svg")] + beside)
    for path in folder.glob("*.png"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_bytes_are_the_same_again(whole_study, folder):
    again = write_report(whole_study, "again")
    for path in folder.iterdir():
        other = again / path.name
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest(), path.name


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": (1024,), "seeds": ("s0",), "tasks": ()},
        {"sizes": (1024, 4096), "schedules": {"short": 4096, "long": 65536}},
        {"models": ("tiny", "small"), "seeds": ("s0",)},
    ],
)
def test_small_studies_have_a_page_too(build_study, small_plan, change):
    root, _ = build_study(replace(small_plan, **change))
    text = (write_report(root) / "report.html").read_text(encoding="utf-8")
    Page(text)
    assert "nan" not in " ".join(Page(text).words).lower().split()


def test_a_forecast_without_an_interval_says_so(build_study, small_plan):
    root, _ = build_study(replace(small_plan, sizes=(256, 1024, 4096), seeds=("s0",), overfit=0.0))
    text = " ".join(Page((write_report(root) / "report.html").read_text(encoding="utf-8")).words)
    assert "(with too few runs for an interval)" in text
    assert ">256<" in (root / "report" / "report.html").read_text(encoding="utf-8")


def test_two_objectives_share_a_page_and_keep_their_losses_apart(tmp_path, small_plan):
    study = scaling_study.build(tmp_path, small_plan)
    other = scaling_study.build(tmp_path, replace(small_plan, objective="simmim"))
    study["runs"] |= other["runs"]
    study["evals"] |= other["evals"]
    collect(study, tmp_path, tmp_path / "results")
    fit(tmp_path / "results" / "results.parquet", {"bootstrap": 100}, tmp_path / "fit")
    text = " ".join(Page((write_report(tmp_path) / "report.html").read_text(encoding="utf-8")).words)
    assert "the validation loss of mae falls" in text
    assert "the validation loss of simmim falls" in text
    assert set(json.loads((tmp_path / "results" / "headline.json").read_text())["val_loss"]) == {"mae", "simmim"}


def test_a_name_cannot_break_the_page(build_study, small_plan):
    root, _ = build_study(replace(small_plan, objective="<b>&\"x'", schedules={"<script>": 65536}))
    page = Page((write_report(root) / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert "b" not in page.tags


def test_the_terminal_shows_the_same_headline(whole_study):
    table = headline_table(whole_study / "results" / "results.parquet", whole_study / "fit" / "fit.json")
    console = Console(width=240, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    text = captured.get()
    assert "small long" in text
    assert "1,024 → 32,768" in text
    assert "pixels 0.290" in text
    assert "supported: More data lowers the validation loss" in text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.51234, 0.0021, "0.5123 ± 0.0021"),
        (0.80676, 0.00022, "0.8068 ± 0.0002"),
        (12.3456, 0.5, "12.35 ± 0.50"),
        (1234.5, 30.0, "1234 ± 30"),
        (0.5, None, "0.5000"),
        (-0.12345, 0.02, "−0.123 ± 0.020"),
    ],
)
def test_a_value_has_as_many_digits_as_its_error_allows(value, error, text):
    assert numbers.measured(value, error) == text


def test_numbers_for_people():
    assert numbers.interval(0.38, 0.2437, 0.5409) == "0.38 [0.24, 0.54]"
    assert numbers.short(1024) == "1k"
    assert numbers.short(131072) == "131k"
    assert numbers.short(1_281_167) == "1.3M"
    assert numbers.duration(42) == "42 s"
    assert numbers.duration(7200) == "2.0 h"
    assert numbers.signed(0.01234) == "+0.0123"


def test_untuned_and_mixed_learning_rates_are_said():
    assert "not tuned" in learning_rates([1.5e-4, 1.5e-4])
    assert "2 learning rates, 0.0001 to 0.00015" in learning_rates([1e-4, 1.5e-4])
    assert "do not record" in learning_rates([])
