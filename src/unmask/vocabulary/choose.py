"""Which words of a domain are worth an entry of their own in a vocabulary.

A word that the tokenizer cuts into k pieces costs k - 1 tokens more than it need, every time that it occurs. Words
are counted as the runs of token ids that the tokenizer itself makes of them, so its normalisation, its borders of
words and the number of pieces come for nothing.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.masking.terms import find_salient_terms
from unmask.data.tokenizer import Vocabulary, plain_copy
from unmask.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

MIN_COUNT = 5
_ANY = -math.inf


@dataclass(frozen=True)
class AddedWord:
    """A word that gets an entry of its own.

    Attributes:
        word: its text, as the tokenizer's normalisation leaves it.
        entry: the vocabulary entry, with the tokenizer's mark of a beginning word.
        pieces: ids of the tokens that it replaces, two or more.
        count: how often it occurs in the text.
        weight: how many times likelier it is there than in general text, at most 10; 1 without general text.
    """

    word: str
    entry: str
    pieces: tuple[int, ...]
    count: int
    weight: float = 1.0

    @property
    def tokens_saved(self) -> int:
        """Tokens that the text it was counted in becomes shorter by."""
        return (len(self.pieces) - 1) * self.count

    @property
    def score(self) -> float:
        """What it is ranked by."""
        return self.tokens_saved * self.weight


class WordCounts:
    """Counts the words of texts, each known by its token ids.

    Args:
        vocabulary: of the tokenizer that makes the ids.

    Raises:
        ConfigError: the tokenizer does not mark where words begin.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        if vocabulary.words is None:
            raise ConfigError(
                "the tokenizer does not mark where words begin, so no words can be added to it; "
                "WordPiece, byte-level BPE and Unigram tokenizers do"
            )
        self._tables = vocabulary.words
        self._counts: Counter[bytes] = Counter()
        self.tokens = self.words = 0

    def add(self, input_ids: np.ndarray) -> None:
        """Count the words of one text, given as ``int64 [T]`` token ids."""
        first = np.flatnonzero(self._tables.starts(input_ids))
        raw, width = input_ids.tobytes(), input_ids.itemsize
        ends = [*(first[1:] * width).tolist(), len(raw)]
        # A slice of bytes for each word: several times quicker than tuples of numbers.
        self._counts.update(
            raw[begin:end] for begin, end in zip((first * width).tolist(), ends, strict=True) if end
        )
        self.tokens += len(input_ids)
        self.words += len(first)

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Yield the token ids of every word and how often it occurred."""
        for raw, count in self._counts.items():
            yield tuple(np.frombuffer(raw, dtype=np.int64).tolist()), count


def choose_words(
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    counts: WordCounts,
    add: int,
    *,
    general: WordCounts | None = None,
    min_count: int = MIN_COUNT,
) -> list[AddedWord]:
    """Choose the words that save the most tokens, the best first.

    Whole words alone are replaced, so the saving of one does not depend on which others are chosen, and taking the
    best ones is the greedy choice.

    Args:
        tokenizer: the one to extend.
        vocabulary: its vocabulary.
        counts: words of the domain's text.
        add: how many, at most.
        general: words of general text; a word's saving is then weighted by how many times likelier it is in the
            domain, from the log-odds with a Dirichlet prior (Monroe, Colaresi & Quinn 2008).
        min_count: occurrences in the domain, at least.

    Raises:
        DataError: no word is worth an entry.
    """
    counter = _SubwordCounter(tokenizer, vocabulary)
    weights = {} if general is None else _weights(_texts(counter, counts), _texts(counter, general))
    found = [
        AddedWord(text, counter.entry(pieces), pieces, count, weights.get(text, 1.0))
        for pieces, count in counts
        if count >= min_count and len(pieces) > 1 and (text := counter.text(pieces)) and _is_word(text)
    ]
    found.sort(key=lambda word: (-word.score, word.entry))
    chosen = list(islice(filter(counter.can_add, found), add))
    if not chosen:
        raise DataError(
            f"no word is worth adding: of {counts.words:,} words in the text, none that the tokenizer cuts into "
            f"pieces occurs {min_count} times or more; give more text, or a lower --min-count"
        )
    return chosen


def _texts(counter: _SubwordCounter, counts: WordCounts) -> Counter[str]:
    """Count words by their text."""
    found: Counter[str] = Counter()
    for pieces, count in counts:
        found[counter.text(pieces)] += count
    del found[""]
    return found


def _weights(domain: Mapping[str, int], general: Mapping[str, int]) -> dict[str, float]:
    terms = find_salient_terms(domain, general, min_count=1, min_z=_ANY, most=len(domain))
    return {term.text: term.weight for term in terms}


def _is_word(text: str) -> bool:
    """Say whether a text is of letters, marks and digits, not of digits alone, and not Chinese.

    Chinese characters are words of their own here (:mod:`unmask.data.words`).
    """
    categories = [unicodedata.category(character) for character in text]
    return (
        all(category[0] in "LM" or category == "Nd" for category in categories)
        and any(category[0] == "L" for category in categories)
        and categories[0][0] != "M"
        and not any(unicodedata.name(character, "").startswith("CJK") for character in text)
    )


class _SubwordCounter:
    """Joins the subwords of a word, and checks whether the word can be one entry."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
        assert vocabulary.words is not None
        self._tables, self._special = vocabulary.words, vocabulary.special
        self._opens = vocabulary.words.opens
        self._core = plain_copy(tokenizer)
        self._names = {number: token for token, number in tokenizer.get_vocab().items()}
        self._prefix: str = getattr(self._core.model, "continuing_subword_prefix", None) or ""

    def text(self, pieces: tuple[int, ...]) -> str:
        """Return the text of a word, or nothing for one that does not open as words do or has special tokens."""
        if not self._opens[pieces[0]] or any(self._special[number] for number in pieces):
            return ""
        return self._tables.text(pieces)

    def entry(self, pieces: Iterable[int]) -> str:
        """Return the vocabulary entry of a word, in the tokenizer's own spelling."""
        first, *rest = [self._names[number] for number in pieces]
        return first + "".join(piece.removeprefix(self._prefix) for piece in rest)

    def can_add(self, word: AddedWord) -> bool:
        """Say whether the tokenizer takes the word alone for one word, and cuts it as it did in the text."""
        text = f" {word.word}"
        units = pre_tokens(self._core, text)
        return units == [word.entry] and self._core.encode(text, add_special_tokens=False).ids == list(
            word.pieces
        )


def pre_tokens(core: Tokenizer, text: str) -> list[str]:
    """Return what a tokenizer hands to its model, one by one."""
    if core.normalizer is not None:
        text = core.normalizer.normalize_str(text)
    return [text] if core.pre_tokenizer is None else [u for u, _ in core.pre_tokenizer.pre_tokenize_str(text)]
