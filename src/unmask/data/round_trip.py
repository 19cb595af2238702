"""What a tokenizer loses of a text: characters that its normalizer drops, words that differ when decoded again."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from unmask.data.words import IDEOGRAPHS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS = 1_000_000
_BATCH = 10_000
_EXAMPLES = 5
_JOINERS = "\u200c\u200d"  # they change letters in Persian and in the scripts of India
_HIDDEN = re.compile("\0\\d+")  # the unknown token of Unigram, in a plain copy


class WordCounter:
    """Counts words in bounded memory: the rarest are dropped when there are too many.

    Args:
        pattern: what is counted; by default words, and every other character but white space and the digits and
            punctuation of ASCII, which no tokenizer loses. A word is a run of letters with their marks, or one Chinese
            character.

    Attributes:
        counts: occurrences by word or character.
        dropped: occurrences of those that were dropped.
    """

    def __init__(self, pattern: re.Pattern[str] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.dropped = 0
        self._pattern = pattern or _units()
        self._least = 1

    def add(self, text: str) -> None:
        """Count what a text contains."""
        self.counts.update(self._pattern.findall(text))
        if len(self.counts) > _WORDS:
            self._drop()

    def _drop(self) -> None:
        while len(self.counts) > _WORDS // 2:
            self._least += 1
            kept = Counter({word: count for word, count in self.counts.items() if count >= self._least})
            self.dropped += self.counts.total() - kept.total()
            self.counts = kept


@lru_cache(maxsize=1)
def mark_pattern() -> str:
    r"""Return a regular expression of one mark or joiner; ``\w`` leaves them out, and would split words of many scripts."""
    marks = (chr(code) for code in range(0x300, 0x1E950) if unicodedata.category(chr(code))[0] == "M")
    return (
        f"(?:(?![\0-\u02ff])[{''.join(marks)}{_JOINERS}])"  # few characters are compared with the long class
    )


@lru_cache(maxsize=1)
def _units() -> re.Pattern[str]:
    letter, mark = f"[^\\W\\d_{IDEOGRAPHS}]", mark_pattern()
    return re.compile(f"{letter}+(?:{mark}+{letter}*)*|[{IDEOGRAPHS}]|{mark}|[^\\s!-@[-`{{-~]")


def is_word(text: str) -> bool:
    """Return whether what :class:`WordCounter` counted is a word, not another character."""
    return any(map(str.isalpha, text))


class EncodedWord(NamedTuple):
    """A word and what a tokenizer makes of it.

    Attributes:
        word: as it occurs in the text.
        occurrences: how often it occurs.
        normal: the word as the tokenizer normalises it.
        tokens: its tokens.
        ids: their ids.
        decoded: the text of these tokens.
    """

    word: str
    occurrences: int
    normal: str
    tokens: list[str]
    ids: list[int]
    decoded: str


def encode_words(core: Tokenizer, counts: Mapping[str, int]) -> Iterator[EncodedWord]:
    """Yield each counted word with its tokens.

    Args:
        core: of :func:`unmask.data.tokenizer.plain_copy`.
        counts: occurrences by word.
    """
    normalizer: Any = core.normalizer
    if '"ByteLevel"' in str(json.loads(core.to_str())["normalizer"]).replace("'", '"'):
        normalizer = None  # it spells bytes, and loses nothing
    words = iter(counts.items())
    while batch := list(islice(words, _BATCH)):
        # A space in front: in running text most words follow one, and byte-level vocabularies tell them apart.
        found = core.encode_batch([f" {word}" for word, _ in batch], add_special_tokens=False)
        for (word, count), encoded in zip(batch, found, strict=True):
            normal = normalizer.normalize_str(word) if normalizer is not None else word
            joined = (
                core.decode(encoded.ids, skip_special_tokens=False)
                if core.decoder
                else "".join(encoded.tokens)
            )
            decoded = _HIDDEN.sub("\ufffd", "".join(joined.split()))
            yield EncodedWord(word, count, normal, encoded.tokens, encoded.ids, decoded)


class RoundTrip:
    """How much of a text a tokenizer loses; canonically equivalent and compatible characters count as equal.

    Attributes:
        characters: characters that :class:`WordCounter` counts, marks separately.
        dropped: those that the normalizer removes.
        words: words of the text.
        changed: words that differ when their tokens are decoded, in more than case; unknown words are among them.
        case_only: words that differ in case only.
    """

    def __init__(self) -> None:
        self.characters = self.dropped = self.words = self.changed = self.case_only = 0
        self._examples: Counter[tuple[str, str]] = Counter()

    @staticmethod
    def of(core: Tokenizer, counts: Mapping[str, int]) -> RoundTrip:
        """Measure counted words and characters (:class:`WordCounter`)."""
        found = RoundTrip()
        for item in encode_words(core, counts):
            found.add(item)
        return found

    def add(self, item: EncodedWord) -> None:
        """Count a word or character."""
        parts, kept = (_folded("NFKD", text) for text in (item.word, item.normal))
        self.characters += len(parts) * item.occurrences
        if parts != kept:
            self.dropped += (Counter(parts) - Counter(kept)).total() * item.occurrences
        if not is_word(item.word):
            return
        self.words += item.occurrences
        before, after = (unicodedata.normalize("NFKC", text) for text in (item.word, item.decoded))
        if before == after:
            return
        if _folded("NFKC", before) == _folded("NFKC", after):
            self.case_only += item.occurrences
        else:
            self.changed += item.occurrences
            self._examples[item.word, item.decoded] += item.occurrences

    def to_dict(self) -> dict[str, Any]:
        """Return counts, shares and examples ``[word, decoded]``, ready for JSON."""
        examples = sorted(self._examples.items(), key=lambda item: (-item[1], item[0]))[:_EXAMPLES]
        return {
            "characters": self.characters,
            "dropped": self.dropped,
            "dropped_share": self.dropped / max(1, self.characters),
            "words": self.words,
            "changed": self.changed,
            "changed_share": self.changed / max(1, self.words),
            "case_only": self.case_only,
            "case_only_share": self.case_only / max(1, self.words),
            "examples": [list(pair) for pair, _ in examples],
        }


def _folded(form: Any, text: str) -> str:
    return unicodedata.normalize(form, text).casefold()
