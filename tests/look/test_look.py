"""The page that shows a subset: its numbers against those of plain Python, on a pool of known differences."""

import io
import json
import random
import re
import tarfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from scipy.stats import ks_2samp
from typer.testing import CliRunner

from mimcore.cli import app
from mimcore.data.hashing import hash64
from mimcore.errors import UserError
from mimcore.look import charts, facts
from mimcore.look.facts import gather, near_copies, word_differences
from mimcore.look.page import look

IMAGES = 120
STUDY: dict[str, Any] = {
    "pools": {"photos": {"format": "tar", "path": "pool", "val_images": 10}},
    "subsets": {"best": {"pool": "photos", "images": 40, "strategy": "top", "options": {"column": "quality"}}},
    "models": {"tiny": {}},
    "objectives": {"mae": {}},
    "schedules": {"short": {"images_seen": 64, "batch_size": 32, "warmup_images": 32}},
    "features": {"all": {"pool": "photos"}},
    "tasks": {"knn": {"features": "all"}},
    "study": {
        **{"pools": ["photos"], "subsets": ["best"], "models": ["tiny"], "objectives": ["mae"], "schedules": ["short"]},
        **{"seeds": ["s0"], "features": ["all"], "probes": ["knn"], "tasks": [], "phases": {}},
    },
}


def encoded(seed: int, width: int, height: int) -> bytes:
    grid = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good pictures are of dogs, every eighth of all has a twin, and ``<b>`` is in a caption."""
    folder = tmp_path_factory.mktemp("look")
    (folder / "pool").mkdir()
    dice = random.Random(0)
    with tarfile.open(folder / "pool/0.tar", "w") as tar:
        for number in range(IMAGES):
            quality = round(dice.random(), 3)
            caption = f"a {'dog' if quality > 0.6 else 'cat'} <b> in the grass" if number % 10 else ""
            picture = encoded(number - number % 8 // 7, 40 + number, 64)
            fields = {"quality": quality, "image_id": number} | ({"blur": quality / 2} if number % 3 else {})
            members = {"png": picture, "txt": caption.encode(), "cls": str(number % 4).encode()}
            for suffix, data in (members | {"json": json.dumps(fields).encode()}).items():
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (folder / "params.yaml").write_text(yaml.safe_dump(STUDY))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (["scan"], ["index", "photos"], ["sample", "best", "s0"], ["look", "best"]):
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, done.output
    assert done.stdout == "looks/best-s0/index.html\n"
    return folder


@pytest.fixture(scope="module")
def html(root: Path) -> str:
    return (root / "looks/best-s0/index.html").read_text(encoding="utf-8")


def rows(root: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of the subset, and of the pool it was drawn from."""
    subset = pq.read_table(root / "artifacts/subsets/best-s0/manifest.parquet").to_pylist()
    pool = pq.read_table(root / "artifacts/index/photos/index.parquet").to_pylist()
    return subset, [row for row in pool if row["split"] == "train"]


class Tables(HTMLParser):
    """The cells of every line of every table, what is loaded, and what is open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.alts: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.loads += [str(found[name]) for name in ("src", "href", "xlink:href", "srcset") if name in found]
        self.ids += [str(found["id"])] if "id" in found else []
        self.alts += [str(found["alt"])] if "alt" in found else []
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.lines[-1][-1] += data

    def line(self, head: str) -> list[str]:
        (found,) = [line for line in self.lines if line[0] == head]
        return found


def test_the_page_needs_no_network_and_no_script(html: str) -> None:
    page = Tables(html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(load.startswith(("data:image/jpeg;base64,", "#")) for load in page.loads)
    bare = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", html)
    assert not re.search(r"https?://|@import|url\((?!#)", bare)
    assert len(page.ids) == len(set(page.ids))
    assert "<b>" not in html
    assert any("&lt;b&gt; in the grass" in line for line in html.splitlines())


def test_numbers_are_those_of_the_rows(root: Path, html: str) -> None:
    subset, pool = rows(root)
    page = Tables(html)
    for name, column in (("quality", "quality"), ("blur", "blur"), ("width, pixels", "width")):
        line = page.line(name)
        both = [np.array([row[column] for row in some if row[column] is not None], float) for some in (subset, pool)]
        for values, median, spread in zip(both, line[1:5:2], line[2:5:2], strict=True):
            assert float(median) == pytest.approx(np.median(values), rel=6e-3)
            assert [float(end) for end in spread.split(" to ")] == pytest.approx(
                np.quantile(values, (0.05, 0.95)), rel=6e-3
            )
        assert float(line[5]) == pytest.approx(ks_2samp(*both).statistic, abs=6e-4)
    missing = [100 * sum(row["blur"] is None for row in some) / len(some) for some in (subset, pool)]
    assert page.line("blur")[6] == f"{missing[0]:.1f}% against {missing[1]:.1f}%"
    assert not [line for line in page.lines if line[0] in {"image_id", "phash", "rank", "offset", "height, pixels"}]


def test_sentences_say_what_differs(html: str, root: Path) -> None:
    subset, _ = rows(root)
    text = re.sub(r"<[^>]+>", " ", html)
    assert "40 images, 36.4% of the 110 training images of the pool &#39;photos&#39;; drawn by top, seed s0." in text
    assert re.search(r"Unlike the pool, by more than a random draw would be: (blur|quality) \(median 0\.", text)
    captions = sum(row["caption"] != "" for row in subset)
    assert captions < len(subset)
    assert f"{captions / len(subset):.1%} of its images have a caption." in text


def test_labels_and_words_are_counted(root: Path, html: str) -> None:
    subset, pool = rows(root)
    page = Tables(html)
    for label in range(4):
        mine, all_ = (sum(row["label"] == label for row in some) for some in (subset, pool))
        line = page.line(str(label))
        assert line[1:] == [str(mine), f"{100 * mine / len(subset):.2f}%", f"{100 * all_ / len(pool):.2f}%"]
    parts = {
        word: [np.mean([word in row["caption"].split() for row in some if row["caption"]]) for some in (subset, pool)]
        for word in ("dog", "cat")
    }
    for word, (here, there) in parts.items():
        assert page.line(word)[1:] == [f"{here:.2%}", f"{there:.2%}"]
    heads = [line[0] for line in page.lines]
    assert heads.index("More often in the subset") < heads.index("dog") < heads.index("Less often in the subset")
    assert heads.index("Less often in the subset") < heads.index("cat")
    assert "grass" not in heads, "what is as frequent is not shown"


def test_near_copies_are_those_of_all_pairs(root: Path, html: str) -> None:
    subset, _ = rows(root)
    hashes = [row["phash"] for row in subset]
    near = {
        (i, j): (hashes[i] ^ hashes[j]).bit_count()
        for i in range(len(hashes))
        for j in range(i)
        if (hashes[i] ^ hashes[j]).bit_count() <= 4
    }
    assert near, "the pool has twins"
    images = {place for pair in near for place in pair}
    assert f"{len(images)} of {len(subset)} images have a near copy" in html
    found = near_copies(root / "artifacts/subsets/best-s0/manifest.parquet", "phash", np.arange(len(subset)), 4, 100)
    assert found is not None
    assert {(pair.second, pair.first): pair.distance for pair in found.pairs} == near


def test_pictures_are_of_the_draw_and_of_the_ends(root: Path, html: str) -> None:
    subset, pool = rows(root)
    alts = Tables(html).alts
    named = [alt.partition(",")[0] for alt in alts]
    assert named[:40] == [row["key"] for row in subset]
    assert set(named[40:64]) <= {row["key"] for row in pool}
    assert len(set(named[40:64])) == 24
    highest = html[html.index("quality, highest") :]
    (first,) = re.findall(r'alt="(\d+),', highest)[:1]
    assert first == max(subset, key=lambda row: row["quality"])["key"]


def test_of_a_large_pool_a_fixed_sample_is_looked_at(root: Path) -> None:
    _, pool = rows(root)
    file = root / "artifacts/index/photos/index.parquet"
    whole, part = gather(file, len(pool)), gather(file, len(pool), limit=50)
    assert len(whole.places) == len(pool)
    limit = 50 / len(pool) * 2.0**64
    keys = [row["key"] for row in pool]
    expected = [key for key, found in zip(keys, hash64(keys, "look").tolist(), strict=True) if found < limit]
    index = pq.read_table(file)["key"].to_pylist()
    assert [index[place] for place in part.places] == expected
    assert part.labels.total() == part.numbers["width"].shape[0] == len(expected)
    assert 25 < len(expected) < 75


def test_the_page_says_what_it_is_a_sample_of(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimcore.look.page.gather", lambda file, total: gather(file, total, limit=60))
    options = STUDY["pools"]["photos"]
    page = look("x", root / "artifacts/subsets/best-s0", root / "artifacts/index/photos", options, tmp_path / "x", root)
    assert re.search(r"Of the pool, a fixed sample of \d\d rows is looked at\.", page.read_text())


def test_memory_for_words_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(facts, "_WORDS", 50)
    captions = [f"often w{number}" for number in range(500)]
    ones = [1] * len(captions)
    table = {
        "key": captions,
        "split": ["train"] * 500,
        "width": ones,
        "height": ones,
        "length": ones,
        "caption": captions,
    }
    pq.write_table(pa.table(table), tmp_path / "index.parquet", row_group_size=40)
    monkeypatch.setattr(facts, "_BATCH", 40)
    found = gather(tmp_path / "index.parquet", 500)
    assert found.words["often"] == found.captions == 500
    assert len(found.words) <= 50 + 40


def test_scores_of_words_are_log_odds() -> None:
    ours, theirs = (facts.Facts(100, np.arange(100), {}) for _ in range(2))
    ours.lengths, theirs.lengths = Counter({1: 100}), Counter({1: 1000})
    ours.words, theirs.words = Counter({"dog": 60, "cat": 30}), Counter({"dog": 300, "cat": 301, "emu": 5})
    (found,) = word_differences(ours, theirs)
    assert (found.word, found.subset, found.pool) == ("dog", 0.6, 0.3)
    odds = np.log(60.5 / 40.5) - np.log(300.5 / 700.5)
    assert found.score == pytest.approx(odds / np.sqrt(1 / 60.5 + 1 / 40.5 + 1 / 300.5 + 1 / 700.5))


@pytest.mark.parametrize("kind", ["normal", "wide", "whole", "same", "missing"])
def test_shares_of_a_histogram_add_up(kind: str) -> None:
    draws = np.random.default_rng(0)
    values = {
        "normal": draws.normal(size=500),
        "wide": np.exp(draws.normal(0, 3, 500)),
        "whole": draws.integers(3, 9, 500).astype(float),
        "same": np.r_[np.full(499, 2.0), 1e9],
        "missing": np.r_[np.full(50, np.nan), draws.random(450)],
    }[kind]
    edges, ours, theirs, logarithmic = charts.histogram(values[::5], values)
    assert ours.sum() == pytest.approx(1)
    assert theirs.sum() == pytest.approx(1)
    assert np.all(np.diff(edges) > 0)
    assert logarithmic == (kind in ("wide", "same"))
    if kind == "whole":
        assert theirs == pytest.approx(np.bincount(values.astype(int))[3:] / 500)
    svg = charts.numbers(kind, values[::5], values).svg
    assert "NaN" not in svg


def test_what_is_missing_is_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["look", "best", "s1"])
    assert isinstance(done.exception, UserError)
    assert "artifacts/subsets/best-s1/card.json is missing" in str(done.exception)
    assert not (root / "looks/best-s1").exists()
