"""The tags that a subset teaches: canonical names, how many images have each, and how often an image is to be shown."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from mimcore import artifacts
from mimcore.definition import Definition
from mimcore.errors import UserError

FILE = "vocabulary.json"

F64 = npt.NDArray[np.float64]

#: Letters of three or more: what a caption is taken to speak of, but for these.
_WORD = re.compile(r"[^\W\d_]{3,}")
_FUNCTION_WORDS = (
    "about above after all also and any are around been before behind being below beside both but can down each for from had "
    "has have her here him his image into its just like many more most near not off one only onto other our out over photo "
    "photograph picture some such than that the their them then there these they this those through under was were what when "
    "where which while who will with without you your"
)
_SKIPPED = frozenset(_FUNCTION_WORDS.split())


class VocabularyOptions(Definition):
    """Options that say what an image's tags are, and which of them are learned."""

    #: Column that the tags come from: ``tags``; ``label``, one tag an image; or ``caption``, whose words of three letters or more are
    #: taken, in lower case, without English function words. The paper's are hashtags.
    tags_from: Literal["tags", "label", "caption"] = "tags"
    #: Names that stand for another, such as synonyms for their synset (WordNet's in SWAG: Singh et al. 2023, section 4.1).
    aliases: dict[str, str] = Field(default_factory=dict)
    #: A tag of fewer images of the subset is not learned.
    min_images: int = Field(1, ge=1)
    #: Nor is one of a larger part of all images, such as a word that every caption has.
    max_frequency: float = Field(1.0, gt=0, le=1)
    #: The most frequent tags are kept, so many (28K in Singh et al. 2023, section 4.1).
    max_tags: int = Field(28_000, ge=1)
    #: Images are shown max(1, sqrt(t / f)) times as often, with f the part of all images that have their rarest tag (Gupta et al. 2019,
    #: LVIS, appendix B.2; Detectron2's ``RepeatFactorTrainingSampler``). With t = 1 all tags count by their inverse square root; None
    #: shows all images alike. SWAG resamples 3.6B images to 5B, Singh et al. 2023 (section 4.1) 3B to 5B: that they do so by the
    #: inverse square root, as Mahajan et al. 2018, could not be checked.
    resampling_threshold: float | None = Field(1.0, gt=0, le=1)


class Vocabulary:
    """Names by their number, the most frequent first, and the number of images of each."""

    def __init__(self, options: VocabularyOptions, names: list[str], images: list[int], all_images: int) -> None:
        self.options, self.names, self.images, self.all_images = options, names, images, all_images
        self.numbers = {name: number for number, name in enumerate(names)}

    def tags(self, rows: pa.Table) -> list[list[int]]:
        """Numbers of the tags of each image, ascending; none where nothing is known."""
        known = self.numbers
        return [sorted(known[name] for name in names if name in known) for names in names_of(rows, self.options)]

    def copies(self, rows: pa.Table) -> F64:
        """How often each image is to be shown for each time that the least shown one is, float64 ``(N,)``; 0 without a tag."""
        threshold = self.options.resampling_threshold
        frequency = np.array(self.images, np.float64) / self.all_images
        factors = np.maximum(1.0, np.sqrt((threshold or 0.0) / frequency))
        # An image has the factor of its rarest tag: the last in order of frequency.
        found = np.array([factors[tags[-1]] if tags else 0.0 for tags in self.tags(rows)])
        return found / found[found > 0].min() if found.any() else found


def canonical(name: str, aliases: Mapping[str, str]) -> str:
    """A tag's name without case, marks of a hashtag and doubled spaces, or the name that it stands for."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("#", " ").split())
    return aliases.get(plain, plain)


def names_of(rows: pa.Table, options: VocabularyOptions) -> Iterable[set[str]]:
    """The canonical names of the tags of each image."""
    for value in rows[options.tags_from].to_pylist():
        if value is None:
            yield set()
            continue
        given = [str(value)] if options.tags_from == "label" else value
        if options.tags_from == "caption":
            given = [word for word in _WORD.findall(value.lower()) if word not in _SKIPPED]
        yield {name for name in (canonical(tag, options.aliases) for tag in given) if name}


def learn_vocabulary(options: VocabularyOptions, rows: pa.Table) -> Vocabulary:
    """Count the tags of a subset and keep those that the options ask for.

    Raises:
        UserError: none is left.
    """
    counts: Counter[str] = Counter()
    if options.tags_from in rows.column_names:
        for names in names_of(rows, options):
            counts.update(names)
    most = options.max_frequency * len(rows)
    kept = sorted(
        ((name, n) for name, n in counts.items() if options.min_images <= n <= most),
        key=lambda pair: (-pair[1], pair[0]),
    )[: options.max_tags]
    if not kept:
        raise UserError(
            f"objectives.tags_from: of the {len(counts)} tags in the column '{options.tags_from}' of {len(rows)} images none is left by "
            "min_images and max_frequency; choose another column, or other bounds."
        )
    return Vocabulary(options, [name for name, _ in kept], [n for _, n in kept], len(rows))


def write_vocabulary(vocabulary: Vocabulary, folder: Path, **more: Any) -> None:
    """Write ``vocabulary.json``."""
    told = {"tags_from": vocabulary.options.tags_from, "all_images": vocabulary.all_images, **more}
    artifacts.write_json(folder / FILE, {**told, "names": vocabulary.names, "images": vocabulary.images})


def read_vocabulary(options: VocabularyOptions, folder: Path) -> Vocabulary:
    """Read what ``write_vocabulary`` wrote."""
    told = artifacts.read_json(folder / FILE)
    return Vocabulary(options, told["names"], told["images"], told["all_images"])
