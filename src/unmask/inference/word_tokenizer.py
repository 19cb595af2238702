"""Whole words in a gap: which subwords can make one, how a tokenizer spells it there, and how lengths are compared.

A filling of a blank counts as a word if its first subword begins one and the others go on with it
(:mod:`unmask.data.words`), if it has letters or digits and no punctuation at its ends, and if the tokenizer, given the
text with the word in it, makes these very subwords of it: ``re ##pair`` is none where the vocabulary has ``repair``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unmask.errors import ConfigError
from unmask.inference.markers import MarkerEncoder, TokenWriter
from unmask.inference.predict import MaskPredictor

if TYPE_CHECKING:
    from unmask.data.tokenizer import Vocabulary

LENGTH_POWER = 1.0
"""The score of a word of ``n`` subwords is its joint log-probability over ``n`` to this power."""

_BROKEN = "\ufffd"  # what a part of a character is decoded to
_NEAR = 64  # characters of the text around a gap that can change how a word in it is tokenized


def length_weight(subwords: int) -> float:
    """Return what a log-probability counts in the score of a word of so many subwords."""
    return float(subwords**-LENGTH_POWER)


class Context(NamedTuple):
    """The text around a gap.

    Attributes:
        before, after: the text up to the next space, and one space where the gap has one before it.
        head: the token ids before the gap.
        tails: those behind it, as they follow a mask and as they follow a word: a mask may leave a ``▁`` there.
    """

    before: str
    after: str
    head: list[int]
    tails: list[list[int]]


class WordTokenizer:
    """Tokenizes words in gaps.

    Args:
        encoder, writer, vocabulary: of the tokenizer.
        predictor: gets the kinds of places that words have.
    """

    def __init__(
        self, encoder: MarkerEncoder, writer: TokenWriter, vocabulary: Vocabulary, predictor: MaskPredictor
    ) -> None:
        self._encoder, self._writer = encoder, writer
        self._vocabulary, self._predictor = vocabulary, predictor

    def context(self, parts: Sequence[str], gap: int) -> Context:
        """Return the text around a gap of a text that is divided into parts at its gaps."""
        before, after = _last_word(parts[gap]), _first_word(parts[gap + 1])
        encode = self._encoder.encode_around
        ids = encode(before, None, after)
        place = ids.index(self._encoder.mask_id)
        tails = [ids[place + 1 :]]
        word, longer = encode("", "a", ""), encode("", "a", after)
        tail = longer[len(word) :]  # empty where the text behind merges with the word
        if longer[: len(word)] == word and tail and tail not in tails:
            tails.append(tail)
        return Context(before, after, ids[:place], tails)

    def tokenize(self, word: str, context: Context) -> tuple[int, ...]:
        """Return the subwords of a word in a gap.

        The text around the gap is tokenized with it. Where the word merges with that text, it is tokenized alone.
        """
        begin = len(context.head)
        ids = self._encoder.encode_around(context.before, word, context.after)
        for tail in context.tails if ids[:begin] == context.head else ():
            end = len(ids) - len(tail)
            if begin < end and ids[end:] == tail:
                return tuple(ids[begin:end])
        return tuple(
            self._encoder.encode_around(context.before[-1:] if context.before.isspace() else "", word, "")
        )

    def can_be_word(self, subwords: Sequence[int | None], context: Context) -> bool:
        """Whether the subwords of a gap are one word, as the tokenizer splits it.

        Where some are still missing (``None``): whether those in front of them can be the beginning of one. A part of
        what a tokenizer makes of a word is what it makes of that part of the word, be it WordPiece, BPE or Unigram.
        """
        known = tuple(takewhile(lambda subword: subword is not None, subwords))
        if len(known) == len(subwords):
            return self._is_word(known, context)  # type: ignore[arg-type]
        return len(known) < 2 or self._begins_word(known, context)  # type: ignore[arg-type]

    def _is_word(self, token_ids: tuple[int, ...], context: Context) -> bool:
        words = self._vocabulary.words
        assert words is not None
        if words.starts(np.array(token_ids))[1:].any():
            return False
        text = self._writer.text(token_ids)
        if not text or not (_is_letter(text[0]) and _is_letter(text[-1])) or _BROKEN in text:
            return False
        return self.tokenize(text, context) == token_ids

    def _begins_word(self, token_ids: tuple[int, ...], context: Context) -> bool:
        text = self._writer.text(token_ids)
        if _BROKEN in text:  # the rest of a character is still to come
            return True
        ids = self._encoder.encode_around(context.before, text, "")
        return tuple(ids[-len(token_ids) :]) == token_ids

    def kinds(self, context: Context, subwords: int) -> list[int]:
        """Return the kind of place of each subword of a word in a gap.

        Raises:
            ConfigError: the vocabulary does not mark where words begin.
        """
        marked = self._is_marked(context)
        first, rest = self._kinds[(marked, subwords == 1)], self._kinds["rest"]
        return [first] + [rest] * (subwords - 1)

    def _is_marked(self, context: Context) -> bool:
        """Whether a word in this gap begins with the mark of a beginning word."""
        if not self._writer.opening:
            return False
        subwords = self.tokenize("a", context)
        return bool(subwords) and self._writer.token(subwords[0]).startswith(self._writer.opening)

    @cached_property
    def _kinds(self) -> dict[object, int]:
        words = self._vocabulary.words
        if words is None:
            raise ConfigError(
                "the vocabulary of this tokenizer does not mark where words begin, so it cannot fill ___ or {1-4}; "
                "use the mask token, once for each subword"
            )
        size = len(self._predictor.candidates)
        spelt = [raw.decode("utf-8", "replace") for raw in words.spelling]
        bare = np.array([not text for text in spelt])
        wordlike = np.array([bool(text) and (_is_letter(text[0]) or text[0] == _BROKEN) for text in spelt])
        opening = self._writer.opening
        marked = np.array([bool(opening) and self._writer.token(n).startswith(opening) for n in range(size)])
        begins = words.opens if not opening else np.ones(size, dtype=bool)
        kinds: dict[object, int] = {"rest": self._predictor.add_kind(~words.opens & ~words.closes & ~bare)}
        for mark in (False, True):
            first = begins & (marked == mark)
            kinds[(mark, True)] = self._predictor.add_kind(first & wordlike)
            kinds[(mark, False)] = self._predictor.add_kind(first & (wordlike | bare) & ~words.closes)
        return kinds


def _is_letter(character: str) -> bool:
    """Whether it is a letter, a digit or a mark on one."""
    return unicodedata.category(character)[0] in "LNM"


def _last_word(text: str) -> str:
    """Return the end of a text from its last space on, that space with it."""
    near = text[-_NEAR:]
    if near and near[-1].isspace():
        return " "
    words = near.split()
    if not words:
        return ""
    return (" " if len(words[-1]) < len(near) else "") + words[-1]


def _first_word(text: str) -> str:
    """Return the beginning of a text up to its first space."""
    near = text[:_NEAR]
    return "" if not near or near[0].isspace() else near.split()[0]
