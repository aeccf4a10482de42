"""Byte pairs against a learner that counts everything anew at each merge, and what a text becomes."""

import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimcore.errors import UserError
from mimcore.models import tokenizer as tokenizers
from mimcore.models.tokenizer import (
    BytePairs,
    TokenizerOptions,
    learn_merges,
    load_tokenizer,
    pieces,
    prepare_tokenizer,
)

CAPTIONS = ["a small red three left of a large blue seven", "a photo of a megalith", "It's a photo, isn't it?", "1889!"]
TABLE = pa.table({"caption": pa.array([*CAPTIONS, None])})


def learned_by_counting(captions: list[str], merges: int) -> list[tuple[int, int]]:
    """Algorithm 1 of Sennrich et al. 2016 as it is printed: all pairs of all words are counted for each merge."""
    words = Counter((*p.encode()[:-1], 256 + p.encode()[-1]) for c in captions for p in pieces(c))
    found: list[tuple[int, int]] = []
    while len(found) < merges:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        if not pairs or max(pairs.values()) < 2:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        after: Counter[tuple[int, ...]] = Counter()
        for word, times in words.items():
            made, at = [], 0
            while at < len(word):
                both = word[at : at + 2] == best
                made.append(512 + len(found) if both else word[at])
                at += 2 if both else 1
            after[tuple(made)] += times
        found.append(best)
        words = after
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc ", max_size=12), max_size=8), st.integers(0, 12))
def test_merges_are_those_of_the_printed_algorithm(captions: list[str], merges: int) -> None:
    assert learn_merges(captions, merges) == learned_by_counting(captions, merges)


def test_merges_do_not_depend_on_the_order_of_captions() -> None:
    assert learn_merges(CAPTIONS, 40) == learn_merges(CAPTIONS[::-1], 40) == learned_by_counting(CAPTIONS, 40)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_words_come_back_whatever_was_learned(text: str) -> None:
    for merges in ([], learn_merges(CAPTIONS, 60)):
        tokenizer = BytePairs(merges)
        assert tokenizer.decode(tokenizer.encode(text)) == " ".join(pieces(text))


def test_merges_shorten_what_they_were_learned_from() -> None:
    plain, learned = BytePairs([]), BytePairs(learn_merges(CAPTIONS * 2, 400))
    for caption in CAPTIONS:
        assert len(plain.encode(caption)) == len("".join(pieces(caption)).encode())
        assert len(learned.encode(caption)) == len(pieces(caption))  # each word is a token


def test_pieces_are_those_of_clip() -> None:
    assert pieces("It's 1889: two_dogs, Ärger!!") == [
        "it",
        "'s",
        "1",
        "8",
        "8",
        "9",
        ":",
        "two",
        "_",
        "dogs",
        ",",
        "ärger",
        "!!",
    ]


def test_rows_are_marked_cut_and_filled() -> None:
    tokenizer = BytePairs([])
    found = tokenizer(["ab", "", "abcdefgh"], 6)
    start, end = 512, 513
    assert tokenizer.vocab_size == 514
    expected = [
        [start, ord("a"), 256 + ord("b"), end, 0, 0],
        [start, end, 0, 0, 0, 0],
        [start, *b"abcd", end],
    ]
    np.testing.assert_array_equal(found, expected)


def test_what_is_prepared_is_loaded_and_no_larger_than_asked(tmp_path: Path) -> None:
    config = TokenizerOptions(vocab_size=518)
    prepare_tokenizer(config, TABLE, tmp_path)
    tokenizer = load_tokenizer(config, tmp_path)
    assert tokenizer.vocab_size == 518
    assert tokenizer.description()["merges"] == [list(pair) for pair in learn_merges(CAPTIONS, 4)]
    assert load_tokenizer(config, None).vocab_size == 518
    assert load_tokenizer(TokenizerOptions(tokenizer="bytes"), None).vocab_size == 514


@pytest.mark.parametrize("table", [pa.table({"caption": pa.array([None, " "], pa.string())}), pa.table({"label": [1]})])
def test_no_captions_is_a_sentence(table: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image of the subset has one"):
        prepare_tokenizer(TokenizerOptions(), table, tmp_path)


def test_open_clip_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = TokenizerOptions(tokenizer="open_clip")

    class Simple:
        vocab_size, eot_token_id = 49408, 49407

        def __call__(self, texts: list[str], context_length: int) -> Any:
            return [[len(text)] * context_length for text in texts]

    monkeypatch.setattr(tokenizers.importlib, "import_module", lambda name: SimpleNamespace(SimpleTokenizer=Simple))
    prepare_tokenizer(config, TABLE, tmp_path)
    tokenizer = load_tokenizer(config, tmp_path)
    assert (tokenizer.vocab_size, tokenizer.end) == (49408, 49407)
    np.testing.assert_array_equal(tokenizer(["ab", "abc"], 3), [[2] * 3, [3] * 3])

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(tokenizers.importlib, "import_module", missing)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        load_tokenizer(config, tmp_path)
