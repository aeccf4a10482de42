"""Steps before a draw, copies of validation images, pinned files: whole subsets from indexes made by hand."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawing import KEYS, source_of
from hypothesis import given
from hypothesis import strategies as st

from mimcore.errors import UserError
from mimcore.sampling import draw
from mimcore.sampling.draw import mistakes, sample
from mimcore.sampling.pipeline import Step, load, load_draw, run_steps
from mimcore.sampling.source import Source

STEPS: list[dict[str, Any]] = [
    {"strategy": "dedup", "options": {"distance": 0}},
    {"strategy": "filter", "options": {"where": [{"column": "label", "one_of": [0, 1]}]}},
]
GOLDEN = ["t22", "t07", "t18", "t12"]


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows here point at no images."""
    monkeypatch.setattr(draw, "write_sheet", lambda *_: None)


def write_index(root: Path, name: str, train: int, val: list[int], hashed: bool = True) -> None:
    """Train images ``t0...`` have the hash of half their number, validation images those given."""
    folder = root / f"artifacts/index/{name}"
    folder.mkdir(parents=True)
    columns: dict[str, Any] = {
        "key": [*(f"t{n:02d}" for n in range(train)), *(f"v{n:02d}" for n in range(len(val)))],
        "width": [32] * (train + len(val)),
        "height": [32] * (train + len(val)),
        "split": ["train"] * train + ["val"] * len(val),
        "label": [n % 3 for n in range(train + len(val))],
    }
    if hashed:
        columns["phash"] = pa.array([*(n // 2 for n in range(train)), *val], pa.uint64())
    pq.write_table(pa.table(columns), folder / "index.parquet")
    (folder / "card.json").write_text(json.dumps({"classes": None}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_index(tmp_path, "photos", 24, [0, 5, 99])
    write_index(tmp_path, "others", 2, [7, 100])
    write_index(tmp_path, "plain", 12, [0], hashed=False)
    return tmp_path


def drawn(root: Path, pool: str = "photos", seed: str = "s0", **options: Any) -> tuple[list[str], dict[str, Any]]:
    output = root / "subset"
    card = sample("x", {"pool": pool, **options}, seed, {}, root / "artifacts/index" / pool, output, root)
    assert json.loads((output / "card.json").read_text()) == card
    return pq.read_table(output / "manifest.parquet")["key"].to_pylist(), card


def test_the_card_tells_of_each_step(root: Path) -> None:
    keys, card = drawn(root, steps=STEPS, images=4)
    assert keys == GOLDEN
    assert card["steps"] == [
        {"strategy": "dedup", "options": {"column": "phash", "distance": 0, "salt": ""}, "rows_in": 20, "rows_out": 10},
        {
            "strategy": "filter",
            "options": card["steps"][1]["options"],
            "rows_in": 10,
            "rows_out": card["steps"][1]["rows_out"],
        },
    ]
    assert card["nested"]
    assert (card["images"], card["pool_images"]) == (4, 24)
    assert card["overlap"] == {"column": "phash", "distance": 0, "excluded": True, "images": {"photos": 4}}
    all_keys, whole = drawn(root, steps=STEPS)
    assert whole["images"] == card["steps"][1]["rows_out"]
    assert all_keys[:4] == keys


def test_copies_of_validation_images_are_left_out_and_counted(root: Path) -> None:
    copies = {"t00", "t01", "t10", "t11"}
    assert copies.isdisjoint(drawn(root)[0])
    keys, card = drawn(root, overlap={"exclude": False})
    assert copies <= set(keys)
    assert (card["overlap"]["excluded"], card["overlap"]["images"]) == (False, {"photos": 4})
    keys, card = drawn(root, overlap={"pools": ["others"]})
    assert (copies | {"t14", "t15"}).isdisjoint(keys)
    assert card["overlap"]["images"] == {"photos": 4, "others": 2}
    # 0 and 5 differ in one bit from 1, 2, 4, 8 and from 1, 4, 7.
    keys, card = drawn(root, overlap={"distance": 1})
    assert {int(key[1:]) // 2 for key in keys} == {3, 6, 9, 10, 11}
    assert drawn(root, "plain")[1]["overlap"] is None
    assert len(drawn(root, "plain", overlap={"exclude": False})[0]) == 12
    for pool, options in [("plain", {"exclude": True}), ("plain", {"pools": ["others"]})]:
        with pytest.raises(UserError, match=r"^subsets\.x\.overlap\.column: the pool's index has no column 'phash'"):
            drawn(root, pool, overlap=options)
    with pytest.raises(
        UserError, match=r"^subsets\.x\.overlap\.pools: the index of pool 'plain' has no column 'phash'"
    ):
        drawn(root, overlap={"pools": ["plain"]})
    with pytest.raises(
        UserError,
        match=r"^subsets\.x\.overlap\.pools: the validation images of pool 'gone' are not known, since .* is missing; bring",
    ):
        drawn(root, overlap={"pools": ["gone"]})


def test_a_drawing_strategy_as_a_step_says_how_many_it_leaves(root: Path) -> None:
    steps = [{"strategy": "top", "images": 6, "options": {"column": "label"}}]
    keys, card = drawn(root, steps=steps, images=6, overlap={"exclude": False})
    assert {int(key[1:]) % 3 for key in keys} == {2}
    assert (card["steps"][0]["rows_in"], card["steps"][0]["rows_out"]) == (24, 6)
    with pytest.raises(UserError, match=r"^subsets\.x\.steps\.0\.images: 99 are asked for, but 20 are left"):
        drawn(root, steps=[{**steps[0], "images": 99}])


def test_too_few_are_left(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"^subsets\.x\.images: 9 are asked for but of the 24 training images .* \d are left"
    ):
        drawn(root, steps=STEPS, images=9)
    nothing = [{"strategy": "filter", "options": {"where": [{"column": "label", "above": 5}]}}]
    with pytest.raises(UserError, match=r"^subsets\.x: no image of pool 'photos' is left after 'overlap' and 'steps'"):
        drawn(root, steps=nothing)


def test_a_pinned_file_that_has_changed_is_refused(root: Path) -> None:
    file = root / "list.txt"
    file.write_text("t05\nt07\n")
    pin = {"path": "list.txt", "sha256": hashlib.sha256(b"t05\nt07\n").hexdigest()[:16]}
    steps = [{"strategy": "given", "options": {"file": pin}}]
    keys, card = drawn(root, steps=steps)
    assert sorted(keys) == ["t05", "t07"]
    assert card["steps"][0]["options"]["file"] == pin
    file.write_text("t05\nt06\n")
    digest = hashlib.sha256(b"t05\nt06\n").hexdigest()
    with pytest.raises(
        UserError, match=rf"^subsets\.x\.steps\.0\.options\.file\.sha256: .*list\.txt is not .*'sha256: {digest}'"
    ):
        drawn(root, steps=steps)
    file.unlink()
    with pytest.raises(UserError, match=r"^subsets\.x\.steps\.0\.options\.file\.path: there is no file .*list\.txt"):
        drawn(root, steps=steps)


def test_all_mistakes_are_told_at_once() -> None:
    wrong = mistakes(
        {
            "pool": "photos",
            "steps": [
                {"strategy": "dedupe"},
                {"strategy": "dedup", "images": 3},
                {"strategy": "top", "options": {"column": "score"}},
                {"strategy": "dedup", "options": {"distanse": 1}},
            ],
            "strategy": "filter",
            "options": {"where": [{"column": "x", "at_least": 1}]},
        },
        "subsets.x",
    )
    assert [sentence.partition(";")[0] for sentence in wrong] == [
        "subsets.x.steps.0.strategy: there is no strategy called 'dedupe'",
        "subsets.x.steps.1.images: the strategy 'dedup' keeps what fits and draws no number",
        "subsets.x.steps.2.images: the strategy 'top' draws",
        "subsets.x.steps.3.options.distanse: unknown option",
        "subsets.x.strategy: 'filter' draws no number of images",
    ]
    assert mistakes({"pool": "photos", "steps": STEPS}, "subsets.x") == []


def composed(rows: pa.Table, images: int, seed: str) -> list[str]:
    with source_of(rows) as source:
        left, _ = run_steps(source, source.left(), [Step(**step) for step in STEPS], seed, Path(), "x")
        strategy = load_draw("random", {}, "x")
        places = strategy.draw(source, left, min(images, left.count), seed)
    return rows["key"].take(pa.array(places)).to_pylist()


@given(KEYS, st.data())
def test_compositions_are_nested_order_free_and_grow_by_newcomers(keys: list[str], data: st.DataObject) -> None:
    """Copies have one label: a filter then keeps or drops all of them."""
    hashes = [data.draw(st.integers(0, 8)) for _ in keys]
    rows = pa.table({"key": keys, "phash": pa.array(hashes, pa.uint64()), "label": [h % 3 for h in hashes]})
    images = data.draw(st.integers(0, len(keys)))
    whole = composed(rows, len(keys), "s0")
    assert len(set(whole)) == len(whole) == len({h for h in hashes if h % 3 < 2})
    assert composed(rows, images, "s0") == whole[:images]
    order = data.draw(st.permutations(range(len(keys))))
    assert composed(rows.take(pa.array(order)), images, "s0") == whole[:images]
    before = data.draw(st.integers(1, len(keys)))
    old, new = composed(rows.slice(0, before), images, "s0"), composed(rows, images, "s0")
    assert set(new) - set(old) <= set(keys[before:])


@pytest.mark.parametrize("strategy", ["random", "top", "cluster", "filter"])
def test_a_file_that_cannot_be_read_is_no_fault_of_an_option(strategy: str, root: Path) -> None:
    file = root / "artifacts/index/photos/index.parquet"
    pinned = {"path": str(file), "sha256": "0" * 16}
    options: dict[str, Any] = {
        "random": {},
        "top": {"column": "label"},
        "cluster": {"features": pinned, "clusters": [2]},
        "filter": {"where": [{"column": "label", "above": 0}]},
    }[strategy]
    source = Source([file])
    file.unlink()
    step = load(strategy, options, "subsets.x")
    with pytest.raises(UserError, match=rf"^{file} is missing; bring it up to date"):
        if step.keeps:
            step.keep(source, source.left(), "s0")
        else:
            step.draw(source, source.left(), 3, "s0")
