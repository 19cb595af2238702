"""Choose the words of a domain to add to a vocabulary.

Adding a word that the tokenizer splits into k subwords saves k - 1 tokens per occurrence. Words are counted by their
subword ids, so normalisation, word boundaries and the number of subwords are those of the tokenizer.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.masking.terms import odds_ratios
from unmask.data.tokenizer import Vocabulary, plain_copy
from unmask.errors import ConfigError, DataError, plural

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

MIN_COUNT = 5
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


@dataclass(frozen=True)
class AddedWord:
    """A word to add to a vocabulary.

    Attributes:
        word: its normalised text.
        entry: the vocabulary entry, with the tokenizer's mark of a word start.
        subwords: ids of the two or more tokens that it replaces.
        count: occurrences in the text.
        weight: odds ratio of the word, domain to general text, at most 10; 1 without general text.
        given: the word as it was listed; ``None`` for one that was chosen by its count.
    """

    word: str
    entry: str
    subwords: tuple[int, ...]
    count: int
    weight: float = 1.0
    given: str | None = None

    @property
    def tokens_saved(self) -> int:
        """Tokens that it saves in the text it was counted in."""
        return (len(self.subwords) - 1) * self.count

    @property
    def score(self) -> float:
        """Weighted tokens saved, by which words are ranked."""
        return self.tokens_saved * self.weight


class WordCounts:
    """Counts words by their token ids.

    Args:
        vocabulary: vocabulary of the tokenizer.

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
        # Keys are slices of bytes, which are several times faster than tuples of integers.
        self._counts.update(
            raw[begin:end] for begin, end in zip((first * width).tolist(), ends, strict=True) if end
        )
        self.tokens += len(input_ids)
        self.words += len(first)

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Yield the token ids and the count of every word."""
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
    besides: Collection[tuple[int, ...]] = (),
) -> list[AddedWord]:
    """Return the words that save the most tokens, the best first.

    Only whole words are replaced, so what one word saves does not depend on the others.

    Args:
        tokenizer: the tokenizer to extend.
        vocabulary: its vocabulary.
        counts: word counts of domain text.
        add: most words to return.
        general: word counts of general text, to weight words by their odds ratio from log-odds with a Dirichlet prior
            (Monroe, Colaresi & Quinn 2008).
        min_count: fewest occurrences in the domain.
        besides: subwords of words that are added in any case.

    Raises:
        DataError: no word can be added, and none is added in any case.
    """
    joiner = SubwordJoiner(tokenizer, vocabulary)
    weights: dict[str, float] = {}
    if general is not None:
        weights = odds_ratios(joiner.count(counts), joiner.count(general))
    found = [
        AddedWord(text, joiner.entry(subwords), subwords, count, weights.get(text, 1.0))
        for subwords, count in counts
        if count >= min_count
        and len(subwords) > 1
        and subwords not in besides
        and (text := joiner.text(subwords))
        and _is_word(text)
    ]
    found.sort(key=lambda word: (-word.score, word.entry))
    chosen = list(islice(filter(joiner.can_add, found), add))
    if not chosen and not besides:
        raise DataError(_none_chosen(counts, vocabulary, min_count))
    return chosen


def _none_chosen(counts: WordCounts, vocabulary: Vocabulary, min_count: int) -> str:
    assert vocabulary.words is not None
    spell = vocabulary.words.text
    without = sum(count for subwords, count in counts if written_without_spaces(spell(subwords)))
    often, fewer = (
        (f" and occurs {min_count} times or more", ", or a lower --min-count") if min_count > 1 else ("", "")
    )
    others = "none is a word of letters that the tokenizer splits into subwords"
    advice = f"give more text{fewer}"
    if without:
        others = (
            f"{plural(without, 'is', 'are')} of scripts without spaces between words (Chinese, Japanese, Thai and some others), which "
            f"are never added, as they would not be found in running text; of the others {others}"
        )
        advice = f"for such text keep the tokenizer as it is; for other text {advice}"
    return (
        f"no word is worth adding: of {plural(counts.words, 'word')} in the text, {others}{often} (words that are unknown to it "
        f"have no subwords); {advice}"
    )


def written_without_spaces(text: str) -> bool:
    """Return whether a text has a character of a script in which no spaces stand between words."""
    return any(unicodedata.name(character, "").startswith(_WITHOUT_SPACES) for character in text)


def _is_word(text: str) -> bool:
    """Return whether a text has only letters, marks and digits, at least one letter, and spaces around it in its script."""
    categories = [unicodedata.category(character) for character in text]
    return (
        all(category[0] in "LM" or category == "Nd" for category in categories)
        and any(category[0] == "L" for category in categories)
        and categories[0][0] != "M"
        and not written_without_spaces(text)
    )


class SubwordJoiner:
    """Joins the subwords of words, and checks whether a word can be one entry."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
        assert vocabulary.words is not None
        self._tables, self._special = vocabulary.words, vocabulary.special
        self._opens = vocabulary.words.opens
        self._core = plain_copy(tokenizer)
        self._names = {number: token for token, number in tokenizer.get_vocab().items()}
        self._prefix: str = getattr(self._core.model, "continuing_subword_prefix", None) or ""

    def text(self, subwords: tuple[int, ...]) -> str:
        """Return the text of a word; empty if its first subword does not begin words or one is a special token."""
        if not self._opens[subwords[0]] or any(self._special[number] for number in subwords):
            return ""
        return self._tables.text(subwords)

    def count(self, counts: WordCounts) -> Counter[str]:
        """Count words by their text."""
        found: Counter[str] = Counter()
        for subwords, count in counts:
            found[self.text(subwords)] += count
        del found[""]
        return found

    def entry(self, subwords: Iterable[int]) -> str:
        """Return the vocabulary entry of a word."""
        first, *rest = [self._names[number] for number in subwords]
        return first + "".join(token.removeprefix(self._prefix) for token in rest)

    def can_add(self, word: AddedWord) -> bool:
        """Return whether the word alone is one pre-token of the same subwords as in the text."""
        text = f" {word.word}"
        ids = self._core.encode(text, add_special_tokens=False).ids
        return pre_tokens(self._core, text) == [word.entry] and ids == list(word.subwords)


def pre_tokens(core: Tokenizer, text: str) -> list[str]:
    """Return the pre-tokens of a text."""
    if core.normalizer is not None:
        text = core.normalizer.normalize_str(text)
    return [text] if core.pre_tokenizer is None else [t for t, _ in core.pre_tokenizer.pre_tokenize_str(text)]
