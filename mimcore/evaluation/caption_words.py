"""Zero-shot classification where no image has a label: an image's class is what words its caption has.

As in ``zeroshot``, an image is of the class whose prompts lie nearest (Radford et al. 2021, section 3.1). Captions name classes unevenly,
and an encoder that knows nothing may still favour frequent ones. So the share of right answers stands beside that of the same answers
dealt to the images at random.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from mimcore.artifacts import write_json
from mimcore.errors import UserError
from mimcore.evaluation.frozen import Frozen, ProbeConfig
from mimcore.evaluation.permutations import dealt
from mimcore.evaluation.prompts import name_vectors, one_place_each, text_tower
from mimcore.evaluation.task import Context, Metric, Needs, Value, accuracy

METRICS = {
    "top1": Metric("Top-1 accuracy over words of captions"),
    "dealt": Metric("Top-1 accuracy of the same answers, dealt at random", floor=0.0),
    "beyond_chance": Metric("Top-1 accuracy beyond that of answers dealt at random", floor=None),
}
PIXELS = False
NEEDS: Needs = "captions"


class Config(ProbeConfig):
    """Options of zero-shot classification over the words of captions."""

    #: Names of the classes to the words that stand for them in captions, in lower case.
    words: dict[str, tuple[str, ...]] = Field(min_length=2)
    #: What the prompts have: these words, or the name alone, as for a run that knows 'dog' and has never read 'terrier'.
    prompt_with: Literal["words", "name"] = "words"
    #: Prompts with '{}' where the word or name stands; a class's vector is the mean over its words and these.
    templates: tuple[str, ...] = ("a photo of a {}",)

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not one_place_each(value):
            raise ValueError("at least one is needed, and each must have '{}' once, where the word stands")
        return value

    @field_validator("words")
    @classmethod
    def _apart(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        every = [word for words in value.values() for word in words]
        if not all(value.values()) or not all(re.fullmatch(r"[^\W\d_]+", w) and w == w.lower() for w in every):
            raise ValueError("each class needs words, single and in lower case")
        if twice := sorted({word for word in every if every.count(word) > 1}):
            raise ValueError(f"'{twice[0]}' stands for two classes")
        return value


def named_class(caption: str | None, words: Mapping[str, Sequence[str]]) -> int | None:
    """The number of the one class that a caption names by a whole word; None where it names none, or several."""
    said = set(re.findall(r"[^\W\d_]+", (caption or "").lower()))
    found = [number for number, names in enumerate(words.values()) if said.intersection(names)]
    return found[0] if len(found) == 1 else None


def dealt_answers(answers: np.ndarray, truth: np.ndarray, classes: int) -> tuple[float, float]:
    """Mean and standard deviation of the accuracy of ``answers``, int64 ``(N,)``, over all permutations of ``truth``, ``(N,)``."""
    given, true = (np.bincount(numbers, minlength=classes).astype(float) for numbers in (answers, truth))
    # c(i, j) is 1 where answer i is truth j, else 0.
    return dealt(float(given @ true), true[answers], given[truth])


def probe(features: Frozen, config: Config, context: Context) -> dict[str, Value]:
    """Accuracy on the test images whose captions name one class, and what chance gives.

    The error of ``dealt`` and of ``beyond_chance`` is the spread over permutations. Writes ``words.json``: of each class, how many of
    its images are right.

    Raises:
        NotApplicable: the run has no text tower.
        UserError: fewer than two classes are named in the test images' captions.
    """
    tower = text_tower(context)
    classes = [named_class(caption, config.words) for caption in features.test.rows["caption"].to_pylist()]
    rows = [row for row, number in enumerate(classes) if number is not None]
    truth = np.array([classes[row] for row in rows], np.int64)
    if len(set(truth.tolist())) < 2:
        raise UserError(
            f"{context.where}.words: the captions of the {len(classes)} test images name {len(set(truth.tolist()))} of the"
            f" {len(config.words)} classes; give words that they have, or more test images."
        )
    means = [
        name_vectors(tower, words if config.prompt_with == "words" else (name,), config.templates, context).mean(
            dim=0, keepdim=True
        )
        for name, words in config.words.items()
    ]
    vectors = torch.nn.functional.normalize(torch.cat(means), dim=-1)
    images = torch.tensor(features.test.arrays["projected"][rows], device=context.device)
    answers = (images @ vectors.T).argmax(dim=1).cpu().numpy()
    top1 = accuracy(torch.from_numpy(answers == truth))
    counts = {
        name: {"images": int((truth == number).sum()), "right": int((answers[truth == number] == number).sum())}
        for number, name in enumerate(config.words)
    }
    write_json(context.folder / "words.json", {"images": len(rows), "classes": counts})
    mean, deviation = dealt_answers(answers, truth, len(config.words))
    return {
        "top1": top1,
        "dealt": Value(mean, deviation),
        "beyond_chance": Value(top1.value - mean, deviation),
    }
