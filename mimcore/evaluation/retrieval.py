"""Zero-shot retrieval: the caption of each test image among all captions, and an image of each caption among all images.

Both lie in the space of the texts, and the nearest come first (Radford et al. 2021, appendix E.1 and table 13). Captions that are equal
word for word, case and white space aside, are one text:

* from image to text, an image has one right answer among the M different texts;
* from text to image, each text is asked for once, and any image that has it is right, as is usual where an image has several captions.

What lies exactly as near as the right answer counts as nearer, so that an encoder that puts all in one place finds nothing.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import field_validator
from scipy.stats import rankdata
from torch import Tensor

from mimcore.errors import UserError
from mimcore.evaluation.frozen import Frozen, ProbeConfig
from mimcore.evaluation.permutations import dealt
from mimcore.evaluation.prompts import name_vectors, one_place_each, text_tower
from mimcore.evaluation.task import Context, Metric, Needs, Value, accuracy

#: Ranks of table 13.
RECALL_AT = (1, 5, 10)

# The percentile is first: it tells runs apart while recall is still near 0, or already near 1.
METRICS = {
    "percentile": Metric("Mean percentile of the right caption", floor=0.5),
    "beyond_chance": Metric("Mean percentile beyond that of captions dealt at random", floor=None),
    **{f"image_to_text_{k}": Metric(f"Recall at {k} from image to text") for k in RECALL_AT},
    **{f"text_to_image_{k}": Metric(f"Recall at {k} from text to image") for k in RECALL_AT},
}
PIXELS = False
NEEDS: Needs = "captions"

#: Cosines that are held at a time.
_HELD = 1 << 20

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


class Config(ProbeConfig):
    """Options of retrieval."""

    #: Prompts with '{}' where the caption stands; a text's vector is the mean over these. Here captions as they are, since they are most
    #: often of the kind that was trained on. The paper has "a photo of {}", for descriptions by annotators (appendix E.1: 1 to 2 points).
    templates: tuple[str, ...] = ("{}",)

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not one_place_each(value):
            raise ValueError("at least one is needed, and each must have '{}' once, where the caption stands")
        return value


def numbered(captions: Sequence[str | None]) -> tuple[list[str], list[int], I64]:
    """Different texts, and which image has which.

    Returns:
        The M texts as they are first met; the images that have a caption, ascending; the text of each of these, int64 ``(N,)``.
    """
    numbers: dict[str, int] = {}
    texts, images, truth = [], [], []
    for image, caption in enumerate(captions):
        if not (said := " ".join((caption or "").lower().split())):
            continue
        if said not in numbers:
            texts.append(caption or "")
        images.append(image)
        truth.append(numbers.setdefault(said, len(numbers)))
    return texts, images, np.array(truth, np.int64)


def ahead(queries: Tensor, answers: Tensor, asked: Tensor, told: Tensor) -> Tensor:
    """How many wrong answers lie as near to each query as its nearest right one, or nearer.

    Args:
        queries: vectors, float32 ``(Q, D)``.
        answers: vectors, float32 ``(A, D)``.
        asked: text of each query, int64 ``(Q,)``.
        told: text of each answer, int64 ``(A,)``; it is right where these are equal.

    Returns:
        int64 ``(Q,)``.
    """
    found = []
    for rows in _parts(len(queries), len(answers)):
        cosines, right = queries[rows] @ answers.T, asked[rows, None] == told
        nearest = cosines.masked_fill(~right, -math.inf).amax(dim=1, keepdim=True)
        found.append(((cosines >= nearest) & ~right).sum(dim=1))
    return torch.cat(found)


def percentiles(images: Tensor, texts: Tensor, truth: I64) -> tuple[F64, float, float]:
    """Share of the other texts that lie farther from each image than its own, ties counting half, and what chance gives.

    Args:
        images: vectors, float32 ``(N, D)``.
        texts: vectors of different texts, float32 ``(M, D)``, M at least 2.
        truth: text of each image, ``(N,)``.

    Returns:
        ``(N,)``, and the mean and standard deviation of their mean where the captions, as often as they are there, are dealt to the
        images at random.
    """
    often = np.bincount(truth, minlength=len(texts)).astype(float)
    own, by_image, by_text, squares = [], [], np.zeros(len(texts)), 0.0
    for rows in _parts(len(images), len(texts)):
        ranks = rankdata((images[rows] @ texts.T).cpu().numpy(), axis=1)
        # Around 0, where sums of squares lose the least; of a text, for each caption that says it.
        centred = (ranks - 1) / (len(texts) - 1) - 0.5
        own.append(centred[np.arange(len(centred)), truth[rows]])
        by_image.append(centred @ often)
        by_text += centred.sum(axis=0)
        squares += float((centred**2 @ often).sum())
    mean, deviation = dealt(squares, np.concatenate(by_image), by_text[truth])
    return np.concatenate(own) + 0.5, mean + 0.5, deviation


def probe(features: Frozen, config: Config, context: Context) -> dict[str, Value]:
    """Recall both ways and the percentile of the right caption, over the test images that have one.

    The error of ``percentile`` is over images, that of ``beyond_chance`` the spread over all ways to deal the captions to the images.
    Recall at k is left out where there are no more than k answers to choose from.

    Raises:
        NotApplicable: the run has no text tower.
        UserError: the test images have fewer than two different captions, or features are not finite.
    """
    tower = text_tower(context)
    captions, rows, numbers = numbered(features.test.rows["caption"].to_pylist())
    if len(captions) < 2:
        raise UserError(
            f"{context.where}: the {len(features.test)} test images have {len(captions)} different captions, and retrieval needs two;"
            " give the pool captions, or take the probe out of the study."
        )
    texts = name_vectors(tower, captions, config.templates, context)
    images = torch.tensor(features.test.arrays["projected"][rows], device=context.device)
    if not (images.isfinite().all() and texts.isfinite().all()):
        raise UserError(
            f"{context.where}: the run's vectors are not finite; look at the run's loss, and train it again."
        )
    own, mean, deviation = percentiles(images, texts, numbers)
    value = float(own.mean())
    found = {
        "percentile": Value(value, float(own.std() / math.sqrt(len(own)))),
        "beyond_chance": Value(value - mean, deviation),
    }
    truth, each = torch.from_numpy(numbers).to(context.device), torch.arange(len(texts), device=context.device)
    ways = {"image_to_text": (images, texts, truth, each), "text_to_image": (texts, images, each, truth)}
    for way, (queries, answers, asked, told) in ways.items():
        before = ahead(queries, answers, asked, told).cpu()
        found |= {f"{way}_{k}": accuracy(before < k) for k in RECALL_AT if k < len(answers)}
    return found


def _parts(rows: int, columns: int) -> Iterator[slice]:
    """Rows of a matrix of cosines, some at a time."""
    step = max(1, _HELD // columns)
    return (slice(start, start + step) for start in range(0, rows, step))
