import itertools
import math
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from fakes import context
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation import prompts, retrieval
from mimcore.evaluation.frozen import Frozen, Split
from mimcore.evaluation.retrieval import Config, numbered, percentiles, probe
from mimcore.evaluation.task import NotApplicable, Value


class Tower:
    """A text tower whose vectors are drawn by the words, or the same for all."""

    def __init__(self, same: bool = False) -> None:
        self.same = same

    def to(self, _device: torch.device) -> "Tower":
        return self

    def encode(self, texts: list[str]) -> torch.Tensor:
        seeds = [0 if self.same else zlib.crc32(text.lower().encode()) for text in texts]
        drawn = [torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return F.normalize(torch.stack(drawn), dim=1)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.json").write_text("{}")
    monkeypatch.setattr(prompts, "load_text", lambda _folder: Tower())
    return tmp_path


def frozen(captions: list[str | None], vectors: torch.Tensor) -> Frozen:
    test = Split(pa.table({"caption": pa.array(captions, pa.string())}), {"projected": vectors.numpy()})
    return Frozen(test, test)


def asked(captions: list[str | None], vectors: torch.Tensor, run: Path, **options: object) -> dict[str, Value]:
    return probe(frozen(captions, vectors), Config(features="x", **options), context(run, run=run))


def test_captions_that_are_equal_word_for_word_are_one_text() -> None:
    texts, images, truth = numbered(["A dog", None, "a cat", " a  DOG ", "  ", "a dog."])
    assert texts == ["A dog", "a cat", "a dog."]
    assert images == [0, 2, 3, 5]
    assert truth.tolist() == [0, 1, 0, 2]


def test_a_worked_example() -> None:
    """Three images, texts along the axes; image 2 has text 0 again."""
    images = torch.tensor([[0.9, 0.5, 0.1], [0.6, 0.5, 0.4], [0.2, 0.3, 0.8]])
    own, mean, _ = percentiles(images, torch.eye(3), np.array([0, 1, 0]))
    assert own.tolist() == [1, 0.5, 0]
    # Dealt to the images at random, two captions of three say text 0: its share above the others is 1, 1 and 0, of text 1 it is 1/2 each.
    assert mean == pytest.approx((2 * (1 + 1 + 0) + (0.5 + 0.5 + 0.5)) / 9)
    texts, truth, each = torch.eye(3), torch.tensor([0, 1, 0]), torch.arange(3)
    assert retrieval.ahead(images, texts, truth, each).tolist() == [0, 1, 2]
    # Text 0 has images 0 (nearest of all) and 2; of text 1 image 1 is right, and image 0 as near; of text 2 none is.
    assert retrieval.ahead(texts, images, each, truth)[:2].tolist() == [0, 1]


def test_recall_and_percentile_are_those_of_plain_loops(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(5)
    captions: list[str | None] = [f"{'xyz'[n % 3] * (1 + n // 4)} {n // 2}" for n in range(40)]
    captions[7], captions[8] = None, ""
    captions[20] = captions[21] = captions[22]
    vectors = F.normalize(
        torch.randn(40, 6, generator=random) + 0.7 * Tower().encode([c or "-" for c in captions]), dim=1
    )
    found = asked(captions, vectors, run, templates=("{}", "the {}"))

    tower, kept = Tower(), [n for n, caption in enumerate(captions) if caption]
    texts = list(dict.fromkeys(captions[n] for n in kept))
    means = [F.normalize(tower.encode([t, f"the {t}"]).mean(0), dim=0) for t in texts if t]
    cosine = {(n, m): float(vectors[n] @ means[m]) for n in kept for m in range(len(texts))}
    own = {n: texts.index(captions[n]) for n in kept}
    shares = []
    for n in kept:
        others = [cosine[n, m] for m in range(len(texts)) if m != own[n]]
        shares.append(np.mean([c < cosine[n, own[n]] for c in others]))
    assert found["percentile"].value == pytest.approx(np.mean(shares))
    assert found["percentile"].standard_error == pytest.approx(np.std(shares) / math.sqrt(len(kept)))
    for k in (1, 5, 10):
        right = [own[n] in sorted(range(len(texts)), key=lambda m, n=n: -cosine[n, m])[:k] for n in kept]  # type: ignore[misc]
        assert found[f"image_to_text_{k}"].value == pytest.approx(np.mean(right))
        best = [sorted(kept, key=lambda n, m=m: -cosine[n, m])[:k] for m in range(len(texts))]  # type: ignore[misc]
        assert found[f"text_to_image_{k}"].value == pytest.approx(
            np.mean([m in {own[n] for n in b} for m, b in enumerate(best)])
        )
    monkeypatch.setattr(retrieval, "_HELD", 7 * len(texts))
    piecewise = asked(captions, vectors, run, templates=("{}", "the {}"))
    assert {k: v.value for k, v in piecewise.items()} == pytest.approx({k: v.value for k, v in found.items()})
    assert piecewise["beyond_chance"].standard_error == pytest.approx(found["beyond_chance"].standard_error)


@settings(max_examples=30)
@given(st.data())
def test_chance_is_that_of_all_ways_to_deal_the_captions(data: st.DataObject) -> None:
    """Small whole numbers, so that cosines are often equal."""
    count = data.draw(st.integers(2, 5))
    truth = np.array(
        data.draw(st.permutations([0, 1, *data.draw(st.lists(st.integers(0, 3), min_size=3, max_size=3))]))
    )
    truth = np.unique(truth[:count], return_inverse=True)[1]
    numbers = arrays(np.float32, (len(truth), 2), elements=st.integers(-2, 2).map(float))
    images, texts = torch.tensor(data.draw(numbers)), torch.tensor(data.draw(numbers))[: truth.max() + 1]
    assume(len(texts) > 1)
    _, mean, deviation = percentiles(images, texts, truth)
    every = [percentiles(images, texts, truth[list(order)])[0].mean() for order in itertools.permutations(range(count))]
    assert (mean, deviation) == (pytest.approx(np.mean(every)), pytest.approx(np.std(every), abs=1e-7))


def test_chance_is_a_half_where_no_two_captions_are_equal() -> None:
    random = torch.Generator().manual_seed(0)
    images, texts = torch.randn(50, 3, generator=random), torch.randn(50, 3, generator=random)
    assert percentiles(images, texts, np.arange(50))[1] == pytest.approx(0.5)


def test_an_oracle_finds_all_and_one_vector_for_all_finds_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str | None] = [f"{'abc'[n % 3]} {n}" for n in range(30)]
    vectors = Tower().encode([c or "" for c in captions])
    found = asked(captions, vectors, run)
    assert len(found) == 8
    assert all(value.value == 1 for name, value in found.items() if name != "beyond_chance")
    assert found["beyond_chance"].value == pytest.approx(0.5)
    assert found["beyond_chance"].value > 5 * (found["beyond_chance"].standard_error or 1)
    monkeypatch.setattr(prompts, "load_text", lambda _folder: Tower(same=True))
    found = asked(captions, vectors[:1].expand(30, 6), run)
    assert found.pop("percentile").value == pytest.approx(0.5)
    assert all(value.value == pytest.approx(0) for value in found.values())
    assert found["beyond_chance"].standard_error == pytest.approx(0, abs=1e-7)


def test_recall_among_no_more_than_k_is_left_out(run: Path) -> None:
    captions: list[str | None] = ["a dog", "a cat", "a dog", "a cow", "a dog", "a dog"]
    found = asked(captions, Tower().encode([c or "" for c in captions]), run)
    assert list(found) == ["percentile", "beyond_chance", "image_to_text_1", "text_to_image_1", "text_to_image_5"]
    assert next(iter(retrieval.METRICS)) == "percentile"


def test_what_does_not_apply_and_what_is_wrong_is_said(run: Path) -> None:
    captions: list[str | None] = ["a dog", "A dog", None]
    with pytest.raises(NotApplicable, match="no text tower"):
        probe(frozen(captions, torch.zeros(3, 6)), Config(features="x"), context(run))
    with pytest.raises(UserError, match=r"tasks\.t: the 3 test images have 1 different captions"):
        asked(captions, torch.zeros(3, 6), run)
    with pytest.raises(UserError, match=r"tasks\.t: the run's vectors are not finite"):
        asked(["a dog", "a cat"], torch.full((2, 6), torch.nan), run)
    for wrong in ((), ("a photo",), ("{} and {}",)):
        with pytest.raises(ValidationError, match=r"each must have '\{\}' once"):
            Config(features="x", templates=wrong)
