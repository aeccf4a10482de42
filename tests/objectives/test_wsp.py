"""Tags: which are learned, the loss against its definition, and images shown by the inverse square root of their tags' frequency."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import language
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from language import encoder, run_of
from safetensors.torch import load_file
from torch.nn import functional

from mimcore.data.loader import Batches
from mimcore.data.order import epoch
from mimcore.errors import UserError
from mimcore.models.objective import Given
from mimcore.models.vocabulary import VocabularyOptions, canonical, learn_vocabulary
from mimcore.objectives.wsp import Config, Objective, prepare
from mimcore.training.flops import trace
from mimcore.training.step import backward

TAGS = [["Dog", "#dog", "park"], ["cat"], [], None, ["DOG "], ["cat", "dog", "sun_set"]]


def table(tags: list[Any] = TAGS, column: str = "tags") -> pa.Table:
    kind = {"tags": pa.list_(pa.string()), "label": pa.int64(), "caption": pa.string()}[column]
    return pa.table({"key": [str(i) for i in range(len(tags))], column: pa.array(tags, kind)})


def built(folder: Path, tags: list[Any] = TAGS, **options: Any) -> Objective:
    config = Config(**options)
    prepare(config, table(tags), folder)
    return Objective(encoder(), config, Given(prepared=folder))


def names(tags: list[Any], column: str = "tags", **options: Any) -> dict[str, int]:
    found = learn_vocabulary(VocabularyOptions(tags_from=column, **options), table(tags, column))  # type: ignore[arg-type]
    return dict(zip(found.names, found.images, strict=True))


def test_tags_are_counted_once_an_image_by_their_canonical_names() -> None:
    assert names(TAGS) == {"dog": 3, "cat": 2, "park": 1, "sun set": 1}
    assert names(TAGS, aliases={"cat": "pet", "dog": "pet"}) == {"pet": 4, "park": 1, "sun set": 1}
    assert names(TAGS, min_images=2) == {"dog": 3, "cat": 2}
    assert names(TAGS, max_frequency=0.4) == {"cat": 2, "park": 1, "sun set": 1}
    assert names(TAGS, max_tags=3) == {"dog": 3, "cat": 2, "park": 1}
    assert canonical("#Straße", {}) == canonical("STRASSE", {}) == "strasse"


def test_labels_and_words_of_captions_are_tags_too() -> None:
    assert names([3, 3, None, 10], "label") == {"3": 2, "10": 1}
    captions = ["A photo of a passenger car", "the Car is on a hill", None, ""]
    assert names(captions, "caption") == {"car": 2, "hill": 1, "passenger": 1}


@pytest.mark.parametrize("options", [{"min_images": 9}, {"tags_from": "label"}])
def test_no_tag_left_is_a_sentence(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is left"):
        prepare(Config(**options), table(), tmp_path)


def test_the_loss_is_the_cross_entropy_to_shares_of_one(tmp_path: Path) -> None:
    objective = built(tmp_path).eval()
    images = torch.randn(6, 3, language.SIDE, language.SIDE)
    read = objective.read(table())
    assert objective(images, read)["loss"].item() == pytest.approx(math.log(4))  # the head starts at nothing
    torch.nn.init.normal_(objective.head.weight)
    logits = objective.head(objective.encoder.forward_features(images)[:, 0])
    target = torch.zeros(6, 4)  # dog, cat, park, sun set
    target[0, [0, 2]], target[1, 1], target[4, 0], target[5, [0, 1, 3]] = 1 / 2, 1, 1, 1 / 3
    expected = functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(objective(images, read)["loss"], expected.sum() / 4)  # of four images something is known
    objective.train()
    torch.testing.assert_close(
        objective(images, read)["loss"], expected.sum() / 6
    )  # parts of a batch weigh by their images


def test_parts_of_a_batch_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    prepare(Config(), table(), tmp_path)
    found = []
    for micro_batch in (6, 4):
        run = run_of({"module": "wsp"}, batch_size=6, images_seen=60)
        run.objective = run.replica = run.reducer = built(tmp_path)
        run.micro_batch = micro_batch
        pixels = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        loss = backward(run, pixels, run.objective.read(table()))
        found.append((loss, run.objective.head.weight.grad))
    torch.testing.assert_close(found[0], found[1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=20), st.text(max_size=3))
def test_an_epoch_has_the_whole_copies_and_at_most_one_more(copies: list[float], seed: str) -> None:
    keys = pa.array([str(i) for i in range(len(copies))])
    shown = np.bincount(epoch(np.array(copies), keys, seed), minlength=len(copies))
    assert all(math.floor(c) <= n <= math.ceil(c) for c, n in zip(copies, shown.tolist(), strict=True))


def test_parts_of_copies_are_as_many_on_average() -> None:
    keys = pa.array([str(i) for i in range(20_000)])
    shown = epoch(np.full(20_000, 1.3), keys, "s0")
    assert len(shown) == pytest.approx(26_000, abs=4 * math.sqrt(20_000 * 0.3 * 0.7))


@pytest.mark.parametrize(("threshold", "power"), [(1.0, 0.5), (None, 1.0)])
def test_tags_are_shown_by_the_square_root_of_their_frequency(
    tmp_path: Path, threshold: float | None, power: float
) -> None:
    """Of tags with 1,600, 400 and 100 images, showings are as 40 : 20 : 10; an image without a tag is shown never."""
    tags = [["a"]] * 1600 + [["b"]] * 400 + [["c"]] * 100 + [None] * 50
    objective = built(tmp_path, tags, resampling_threshold=threshold)
    rows = table(tags)
    copies = objective.copies(rows.select(["tags"]))
    assert copies is not None

    class Rows:
        def __init__(self) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(rows)

    order = epoch(copies, rows["key"], "s0")
    batches = Batches(Rows(), 100, "s0", epoch=order)  # type: ignore[arg-type]
    shown = Counter(str(tags[i]) for step in range(len(order) // 100) for i in batches.positions(step).tolist())
    assert shown["None"] == 0
    expected = np.array([1600, 400, 100]) ** power
    found = np.array([shown["['a']"], shown["['b']"], shown["['c']"]])
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), atol=0.01)


def test_an_image_has_the_factor_of_its_rarest_tag_and_frequent_tags_stay_as_they_are(tmp_path: Path) -> None:
    tags = [["a"]] * 80 + [["a", "b"]] * 19 + [["a", "b", "c"]]
    objective = built(tmp_path, tags, resampling_threshold=0.16)
    copies = objective.copies(table(tags))
    assert copies is not None
    # Gupta et al. 2019: max(1, sqrt(t / f)); f is 1, 0.2 and 0.01
    np.testing.assert_allclose(copies, [1.0] * 99 + [4.0])


def test_the_artifact_has_the_names_and_the_classifier(tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    objective = built(tmp_path / "prepared", pooling="map")
    objective.save_more(tmp_path)
    told = json.loads((tmp_path / "vocabulary.json").read_text())
    assert (told["names"], told["images"], told["all_images"]) == (["dog", "cat", "park", "sun set"], [3, 2, 1, 1], 6)
    head = load_file(tmp_path / "head.safetensors")
    assert head["weight"].shape == (4, 32)
    assert "pooling.attention.latent" in head


def test_it_is_counted_without_a_vocabulary() -> None:
    few, many = (trace(language.MODEL, {"module": "wsp", "max_tags": tags}) for tags in (10, 1000))
    assert many.params - few.params == 990 * 33
    assert many.forward - few.forward == 2 * 990 * 32
