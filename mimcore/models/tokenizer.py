"""Texts to numbers: a byte-pair vocabulary learned from captions, plain bytes, or the one that open_clip ships."""

import heapq
import importlib
import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from mimcore import artifacts
from mimcore.definition import Definition
from mimcore.errors import UserError

#: What ``prepare`` writes, and a run's ``text.json`` repeats.
FILE = "tokenizer.json"

#: A contraction, letters, one digit, or anything else that is no space: CLIP's released pattern, in Python's own terms.
_PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+")

#: Bytes within a word, then bytes that end one; merges follow, then the two marks around a text.
_BYTES = 256
_BASE = 2 * _BYTES

#: A pair that is met less often is not merged.
_LEAST = 2

Pair = tuple[int, int]
I64 = npt.NDArray[np.int64]


class TokenizerOptions(Definition):
    """Options of an objective that reads texts."""

    #: ``bpe``, byte pairs learned from the captions of the subset (Sennrich et al. 2016; over bytes: Radford et al. 2019); ``bytes``,
    #: the same without merges; or ``open_clip``, CLIP's own 49,408 tokens, which that package ships.
    tokenizer: Literal["bpe", "bytes", "open_clip"] = "bpe"
    #: Tokens of the vocabulary at most, the 512 of single bytes and the two marks among them (Radford et al. 2021, table 18).
    vocab_size: int = Field(49408, ge=_BASE + 2)
    #: Tokens of a text, both marks included; what is longer is cut (77 in CLIP's released code, 76 in section 2.4).
    context_length: int = Field(77, ge=3)


class Tokenizer(Protocol):
    """Turns texts into rows of numbers; ``end`` closes each, and what follows it means nothing."""

    vocab_size: int
    end: int

    def __call__(self, texts: Sequence[str], context_length: int) -> I64:
        """Tokens of N texts, int64 ``(N, context_length)``; zeros fill up."""
        ...

    def description(self) -> dict[str, Any]:
        """What ``from_description`` makes it from again."""
        ...


@dataclass
class BytePairs:
    """Byte-level byte-pair encoding of words in lower case (Radford et al. 2021, section 2.4).

    Attributes:
        merges: pairs of tokens that become one, the first learned first.
        reserved: tokens at least, where no vocabulary was learned and one of this many is only counted.
    """

    merges: Sequence[Pair]
    reserved: int = 0

    def __post_init__(self) -> None:
        learned = _BASE + len(self.merges) + 2
        self.vocab_size = max(learned, self.reserved)
        self.start, self.end = self.vocab_size - 2, self.vocab_size - 1
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(self.merges)}
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str], context_length: int) -> I64:
        """Tokens of N texts, int64 ``(N, context_length)``: a start, the text, an end, zeros."""
        found = np.zeros((len(texts), context_length), np.int64)
        for row, text in zip(found, texts, strict=True):
            tokens = [self.start, *self.encode(text)[: context_length - 2], self.end]
            row[: len(tokens)] = tokens
        return found

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without marks and in full."""
        return [token for piece in pieces(text) for token in self._word(piece)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The words of tokens, a space after each; marks are left out."""
        made: list[bytes] = [bytes([b]) for b in range(_BYTES)] + [bytes([b]) + b" " for b in range(_BYTES)]
        for left, right in self.merges:
            made.append(made[left] + made[right])
        return b"".join(made[token] for token in tokens if token < len(made)).decode(errors="replace").strip()

    def description(self) -> dict[str, Any]:
        """The kind and the merges."""
        return {"kind": "byte_pairs", "merges": [list(pair) for pair in self.merges]}

    def _word(self, piece: str) -> list[int]:
        if piece not in self._known:
            word = symbols(piece)
            while len(word) > 1:
                rank, at = min((self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(_pairs(word)))
                if rank == len(self._ranks):
                    break
                word[at : at + 2] = [_BASE + rank]
            self._known[piece] = word
        return self._known[piece]


class OpenClip:
    """CLIP's own vocabulary, as the package ``open_clip`` ships it."""

    def __init__(self) -> None:
        """Load it.

        Raises:
            UserError: the package is not installed.
        """
        try:
            package = importlib.import_module("open_clip")
        except ImportError:
            raise UserError(
                "objectives.tokenizer: 'open_clip' needs the package of that name; 'pip install open_clip_torch', or take 'bpe'."
            ) from None
        self._tokenizer: Any = package.SimpleTokenizer()
        self.vocab_size = int(self._tokenizer.vocab_size)
        self.end = int(self._tokenizer.eot_token_id)

    def __call__(self, texts: Sequence[str], context_length: int) -> I64:
        """Tokens of N texts, int64 ``(N, context_length)``."""
        return np.asarray(self._tokenizer(list(texts), context_length=context_length), np.int64)

    def description(self) -> dict[str, Any]:
        """The kind."""
        return {"kind": "open_clip"}


def pieces(text: str) -> list[str]:
    """Words, digits and signs of a text, in lower case."""
    return _PIECE.findall(unicodedata.normalize("NFC", text).lower())


def symbols(piece: str) -> list[int]:
    """The bytes of a word as tokens, the last one marked as such."""
    data = list(piece.encode())
    return [*data[:-1], _BYTES + data[-1]]


def learn_merges(captions: Iterable[str], merges: int) -> list[Pair]:
    """Learn which pairs of tokens to merge: again and again the one that is met most (Sennrich et al. 2016, algorithm 1).

    Of pairs met equally often the one of smaller tokens is first, so that the result depends on the captions alone, not on
    their order. Counts are kept up to date by the words that change.

    Args:
        captions: texts.
        merges: how many at most.
    """
    counts = Counter(piece for caption in captions for piece in pieces(caption))
    spelled = sorted(counts)
    words, times = [symbols(piece) for piece in spelled], [counts[piece] for piece in spelled]
    met: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, word in enumerate(words):
        for pair in _pairs(word):
            met[pair] += times[number]
            where[pair].add(number)
    queue = [(-count, pair) for pair, count in met.items()]
    heapq.heapify(queue)
    learned: list[Pair] = []
    while queue and len(learned) < merges:
        count, best = heapq.heappop(queue)
        if -count != met[best]:  # what was queued before the last change
            continue
        if met[best] < _LEAST:
            break
        changed: set[Pair] = set()
        for number in where.pop(best):
            for pair in _pairs(words[number]):
                met[pair] -= times[number]
                changed.add(pair)
            words[number] = _merged(words[number], best, _BASE + len(learned))
            for pair in _pairs(words[number]):
                met[pair] += times[number]
                where[pair].add(number)
                changed.add(pair)
        learned.append(best)
        for pair in changed:
            if met[pair] > 0:
                heapq.heappush(queue, (-met[pair], pair))
    return learned


def prepare_tokenizer(config: TokenizerOptions, rows: pa.Table, folder: Path) -> None:
    """Write ``tokenizer.json``: what is learned from the captions of a subset, or which one is used.

    Raises:
        UserError: the tokenizer's package is missing, or no image has a caption to learn from.
    """
    if config.tokenizer == "open_clip":
        tokenizer: Tokenizer = OpenClip()
    elif config.tokenizer == "bytes":
        tokenizer = BytePairs([])
    else:
        captions = rows["caption"].drop_null().to_pylist() if "caption" in rows.column_names else []
        if not any(caption.strip() for caption in captions):
            raise UserError(
                "objectives.tokenizer: 'bpe' learns from captions, and no image of the subset has one; take a pool that has them."
            )
        tokenizer = BytePairs(learn_merges(captions, config.vocab_size - _BASE - 2))
    artifacts.write_json(folder / FILE, tokenizer.description())


def load_tokenizer(config: TokenizerOptions, prepared: Path | None) -> Tokenizer:
    """The tokenizer of a run.

    Args:
        config: options.
        prepared: folder that ``prepare_tokenizer`` wrote; None where a run is only counted: bytes then stand in for a
            vocabulary of ``vocab_size``.
    """
    if prepared is not None:
        return from_description(artifacts.read_json(prepared / FILE))
    if config.tokenizer == "open_clip":
        return OpenClip()
    return BytePairs([], reserved=config.vocab_size if config.tokenizer == "bpe" else 0)


def from_description(description: dict[str, Any]) -> Tokenizer:
    """Make a tokenizer again."""
    if description["kind"] == "open_clip":
        return OpenClip()
    return BytePairs([(left, right) for left, right in description["merges"]])


def _pairs(word: Sequence[int]) -> list[Pair]:
    return list(itertools.pairwise(word))


def _merged(word: list[int], pair: Pair, token: int) -> list[int]:
    made: list[int] = []
    at = 0
    while at < len(word):
        if at + 1 < len(word) and (word[at], word[at + 1]) == pair:
            made.append(token)
            at += 2
        else:
            made.append(word[at])
            at += 1
    return made
