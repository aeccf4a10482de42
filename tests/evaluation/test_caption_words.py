import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from fakes import context
from pydantic import ValidationError
from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation import caption_words, prompts
from mimcore.evaluation.caption_words import Config, dealt_answers, named_class
from mimcore.evaluation.frozen import Frozen, Split
from mimcore.evaluation.task import NotApplicable

WORDS = {"dog": ["terrier", "dog"], "snake": ["snake"], "car": ["car", "van"]}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a photo of a Norfolk terrier", 0),
        ("a dog, a terrier: two words of one class", 0),
        ("DOGS and dogmas are no whole words", None),
        ("a dog in a car", None),
        ("a sea-snake!", 1),
        ("", None),
        (None, None),
    ],
)
def test_an_image_is_of_the_one_class_that_its_caption_names(caption: str | None, expected: int | None) -> None:
    assert named_class(caption, WORDS) == expected


def test_dealt_answers_have_the_mean_and_spread_of_all_permutations() -> None:
    answers, truth = np.array([0, 0, 1, 2, 1, 0]), np.array([0, 1, 1, 2, 2, 2])
    every = [np.mean(answers == truth[list(order)]) for order in itertools.permutations(range(6))]
    assert dealt_answers(answers, truth, 4) == (pytest.approx(np.mean(every)), pytest.approx(np.std(every)))
    # Who always says the same is right as often, however it is dealt.
    assert dealt_answers(np.ones(6, int), truth, 3) == (pytest.approx(1 / 3), pytest.approx(0))


class Tower:
    """A text tower whose vectors are drawn by the words."""

    def to(self, _device: torch.device) -> "Tower":
        return self

    def encode(self, texts: list[str]) -> torch.Tensor:
        seeds = [sum(text.encode()) for text in texts]
        return F.normalize(
            torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(s)) for s in seeds]), dim=1
        )


def frozen(captions: list[str | None], vectors: torch.Tensor) -> Frozen:
    test = Split(pa.table({"caption": pa.array(captions, pa.string())}), {"projected": vectors.numpy()})
    return Frozen(test, test)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.json").write_text("{}")
    monkeypatch.setattr(prompts, "load_text", lambda _folder: Tower())
    return tmp_path


def test_the_class_is_the_nearest_of_the_means_of_its_words_vectors(run: Path) -> None:
    tower, templates = Tower(), ("a photo of a {}", "the {}")
    captions = ["a terrier", "nothing", "a snake", "a van", "a dog in a car", None, "the dog"]
    vectors = F.normalize(torch.randn(7, 4, generator=torch.Generator().manual_seed(3)), dim=1)
    classes = []
    for words in WORDS.values():
        of_words = [F.normalize(tower.encode([t.format(word) for t in templates]).mean(0), dim=0) for word in words]
        classes.append(F.normalize(torch.stack(of_words).mean(0), dim=0))
    rows, truth = [0, 2, 3, 6], np.array([0, 1, 2, 0])
    answers = (vectors[rows] @ torch.stack(classes).T).argmax(1).numpy()
    config = Config(features="x", words=WORDS, templates=templates)
    found = caption_words.probe(frozen(captions, vectors), config, context(run, run=run))
    mean, deviation = dealt_answers(answers, truth, 3)
    assert found["top1"].value == pytest.approx(np.mean(answers == truth))
    assert found["beyond_chance"].value == pytest.approx(np.mean(answers == truth) - mean)
    assert found["dealt"].standard_error == found["beyond_chance"].standard_error == pytest.approx(deviation)
    told = json.loads((run / "words.json").read_text())
    assert told["images"] == 4
    assert told["classes"]["dog"]["images"] == 2
    assert sum(one["right"] for one in told["classes"].values()) == (answers == truth).sum()


def test_prompts_may_have_the_names_that_no_caption_has(run: Path) -> None:
    tower, names = Tower(), ("dog", "vehicle")
    words = {"dog": ("terrier", "spaniel"), "vehicle": ("van",)}
    found = caption_words.probe(
        frozen(
            ["a terrier", "a van", "a spaniel"],
            tower.encode(["a photo of a dog", "a photo of a vehicle", "a photo of a dog"]),
        ),
        Config(features="x", words=words, prompt_with="name"),
        context(run, run=run),
    )
    assert found["top1"].value == 1
    # The same vectors, asked by the words: the prompts lie elsewhere.
    images = tower.encode([f"a photo of a {name}" for name in names])
    by_words = [
        tower.encode(["a photo of a terrier", "a photo of a spaniel"]).mean(0),
        tower.encode(["a photo of a van"])[0],
    ]
    nearest = (images @ F.normalize(torch.stack(by_words), dim=1).T).argmax(1)
    asked = caption_words.probe(
        frozen(["a terrier", "a van"], images), Config(features="x", words=words), context(run, run=run)
    )
    assert asked["top1"].value == pytest.approx((nearest == torch.tensor([0, 1])).float().mean().item())


def test_what_does_not_apply_and_what_is_wrong_is_said(run: Path) -> None:
    config, data = Config(features="x", words=WORDS), frozen(["a dog", "a terrier"], torch.zeros(2, 4))
    with pytest.raises(NotApplicable, match="no text tower"):
        caption_words.probe(data, config, context(run))
    with pytest.raises(UserError, match=r"tasks\.t\.words: the captions of the 2 test images name 1 of the 3 classes"):
        caption_words.probe(data, config, context(run, run=run))
    for wrong in ({"a": ["x"]}, {"a": ["x"], "b": []}, {"a": ["x"], "b": ["two words"]}, {"a": ["x"], "b": ["X"]}):
        with pytest.raises(ValidationError, match=r"words"):
            Config(features="x", words=wrong)
    with pytest.raises(ValidationError, match="'x' stands for two classes"):
        Config(features="x", words={"a": ["x"], "b": ["x"]})
    with pytest.raises(ValidationError, match=r"each must have '\{\}' once"):
        Config(features="x", words=WORDS, templates=("a photo",))
