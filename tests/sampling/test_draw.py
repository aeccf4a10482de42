import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawing import drawing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mimcore import registry
from mimcore.data.index import build_index
from mimcore.data.listing import scan
from mimcore.data.loader import Batches, Images
from mimcore.data.pool import load_pool
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.draw import Subset, sample
from mimcore.sampling.strategies import random

OPTIONS = {"format": "digits", "images": 130, "val_images": 30}

KEYS = st.lists(st.text("abc0123", min_size=1, max_size=9), unique=True, min_size=1, max_size=60)


def drawn(keys: list[str], images: int, seed: str = "s0", **options: Any) -> list[str]:
    config = random.Config(**options)
    return drawing(random, config, seed)(pa.table({"key": keys}), images)


@given(KEYS, st.data())
def test_draws_are_nested(keys: list[str], data: st.DataObject) -> None:
    large = data.draw(st.integers(0, len(keys)))
    small = data.draw(st.integers(0, large))
    assert drawn(keys, large)[:small] == drawn(keys, small)


@given(KEYS, st.data())
def test_the_order_of_rows_does_not_matter(keys: list[str], data: st.DataObject) -> None:
    images = data.draw(st.integers(0, len(keys)))
    assert drawn(data.draw(st.permutations(keys)), images) == drawn(keys, images)


@given(KEYS, st.data())
def test_a_grown_pool_changes_a_draw_by_newcomers_alone(keys: list[str], data: st.DataObject) -> None:
    before = data.draw(st.integers(1, len(keys)))
    images = data.draw(st.integers(1, before))
    old, new = drawn(keys[:before], images), drawn(keys, images)
    assert set(new) - set(old) <= set(keys[before:])
    # Who stays keeps the order of the draw, and who goes was drawn last.
    stayed = [key for key in new if key in old]
    assert stayed == old[: len(stayed)]


def test_golden_draw() -> None:
    keys = [f"{number:09d}" for number in range(1000)]
    assert drawn(keys, 5) == ["000000435", "000000722", "000000015", "000000930", "000000545"]
    assert drawn(keys, 5, "s1") != drawn(keys, 5)
    assert drawn(keys, 5, salt="a") != drawn(keys, 5)


def test_each_image_is_drawn_as_often_as_any() -> None:
    # 40 seeds draw 100 of 1000: each image 4 times on average, with the binomial's variance 3.6.
    keys = [f"image {number}" for number in range(1000)]
    counts = np.zeros(1000)
    for seed in range(40):
        counts[[keys.index(key) for key in drawn(keys, 100, f"s{seed}")]] += 1
    assert counts.mean() == 4
    assert 3 < counts.var() < 4.2


@pytest.mark.parametrize("name", registry.names("strategy"))
def test_every_strategy_keeps_the_contract(name: str) -> None:
    module = registry.load("strategy", name)
    assert issubclass(module.Config, Definition)
    keeps, draws = (
        hasattr(module, "meets") or hasattr(module, "keep"),
        hasattr(module, "order") or hasattr(module, "draw"),
    )
    assert keeps or draws
    assert draws == hasattr(module, "nested")
    assert callable(module.columns)
    assert not {"size", "nfiles"} & {*module.Config.model_fields}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    index(root, "digits", OPTIONS)
    return root


def index(root: Path, name: str, options: dict[str, Any]) -> None:
    listing = root / f"listings/{name}.json"
    scan(load_pool(name, options, root), listing)
    build_index(name, options, listing, root / "artifacts/index" / name, root, root / ".mimcore")


def draw_subset(root: Path, name: str, pool: str, options: dict[str, Any], images: int | None) -> dict[str, Any]:
    subset = {"pool": pool, "images": images}
    output = root / f"artifacts/subsets/{name}-s0"
    return sample(name, subset, "s0", options, root / "artifacts/index" / pool, output, root)


def test_manifest_card_and_picture(study: Path) -> None:
    card = draw_subset(study, "n70", "digits", OPTIONS, 70)
    output = study / "artifacts/subsets/n70-s0"
    manifest = pq.read_table(output / "manifest.parquet")
    whole = pq.read_table(study / "artifacts/index/digits/index.parquet")
    assert manifest.column_names == [*whole.column_names, "rank"]
    assert manifest["rank"].type == pa.int64()
    assert manifest["rank"].to_pylist() == list(range(70))
    assert set(manifest["split"].to_pylist()) == {"train"}
    by_key = {row["key"]: row for row in whole.to_pylist()}
    for row in manifest.to_pylist():
        assert {name: value for name, value in row.items() if name != "rank"} == by_key[row["key"]]
    assert json.loads((output / "card.json").read_text()) == card
    assert (card["images"], card["pool_images"], card["fraction"]) == (70, 100, 0.7)
    labels = manifest["label"].to_pylist()
    assert card["labels"]["subset"]["seven"] == labels.count(7)
    assert sum(card["labels"]["pool"].values()) == 100
    assert card["sides"]["subset"]["width"]["0.5"] == 64
    assert card["first_key"] == manifest["key"][0].as_py()
    lengths = sorted(len(text) for text in manifest["caption"].to_pylist())
    assert card["captions"]["subset"]["characters"]["1"] == lengths[-1]
    with Image.open(output / "contact_sheet.png") as sheet:
        assert sheet.size == (8 * 102 + 6, 8 * 102 + 6)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    draw_subset(study, "n70", "digits", OPTIONS, 70)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_sizes(study: Path) -> None:
    assert draw_subset(study, "all", "digits", OPTIONS, None)["images"] == 100
    assert draw_subset(study, "one", "digits", OPTIONS, 1)["images"] == 1
    with Image.open(study / "artifacts/subsets/one-s0/contact_sheet.png") as sheet:
        assert sheet.size == (108, 108)


def test_mistakes(study: Path) -> None:
    with pytest.raises(UserError) as caught:
        draw_subset(study, "n99999", "digits", OPTIONS, 99999)
    assert str(caught.value) == (
        "subsets.n99999.images: 99999 are asked for but pool 'digits' has 100 training images; ask for fewer, or grow"
        " the pool and pin it anew with 'mimcore scan' and '--adopt'."
    )
    rest = ("s0", OPTIONS, study / "artifacts/index/digits", study / "out", study)
    for options, message in [
        ({"pool": "digits", "strategy": "randon"}, r"subsets\.x\.strategy: .* did you mean 'random'\?"),
        ({"pool": "digits", "options": {"sald": "a"}}, r"subsets\.x\.options\.sald: unknown option; did you mean"),
        ({"pool": "digits", "image": 3}, r"subsets\.x\.image: unknown option; did you mean 'images'"),
        ({"pool": "digits", "images": 0}, r"subsets\.x\.images: .*greater than or equal to 1"),
        ({}, r"subsets\.x\.pool: required"),
    ]:
        with pytest.raises(UserError, match=message):
            sample("x", options, *rest)
    assert not (study / "out").exists()
    assert not {"size", "nfiles"} & {*Subset.model_fields, *random.Config.model_fields}


def test_tars_and_a_folder_of_the_same_images_give_the_same_batches(tmp_path: Path) -> None:
    source = Path(__file__).resolve().parents[2].parent / "shared/data/websample"
    if not source.is_dir():
        pytest.skip("the real images are not there")
    (tmp_path / "folder").mkdir()
    for path in sorted(source.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    (tmp_path / "folder" / member.name).write_bytes(tar.extractfile(member).read())  # type: ignore
    pools = {
        "tars": {"format": "tar", "path": str(source), "val_images": 100},
        "folder": {"format": "folder", "path": "folder", "val_images": 100},
    }
    found = {}
    for name, options in pools.items():
        index(tmp_path, name, options)
        card = draw_subset(tmp_path, name, name, options, 90)
        manifest = pq.read_table(tmp_path / f"artifacts/subsets/{name}-s0/manifest.parquet")
        batches = Batches(Images(options, manifest, 32, tmp_path), 40, "s0")
        sheet = (tmp_path / f"artifacts/subsets/{name}-s0/contact_sheet.png").read_bytes()
        pixels = b"".join(batch.tobytes() for batch in batches.stream(0, 5))
        found[name] = (manifest["key"].to_pylist(), card["keys_digest"], pixels, sheet)
    assert found["tars"] == found["folder"]
