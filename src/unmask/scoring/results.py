"""What scoring returns: a text, its pseudo-log-likelihood, and that of its tokens and words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from unmask.errors import plural
from unmask.reporting.results import Result, Rows, short
from unmask.scoring.masked_copies import Method


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The score of one token.

    Attributes:
        token: the vocabulary's own spelling, for example ``##ing``.
        text: its part of the text.
        word: number of the word that it belongs to, from 0.
        pll: natural logarithm of its probability.
    """

    token: str
    text: str
    word: int
    pll: float


@dataclass(frozen=True, slots=True)
class WordScore:
    """The score of one word: its part of the text, how many tokens it has, and the sum of their scores."""

    text: str
    tokens: int
    pll: float


def across_vocabularies(method: str, unknown: int) -> bool:
    """Return whether scores per byte or word compare models with different vocabularies.

    They do where the score of a word does not depend on how it is split: with ``within_word_l2r``. With ``original`` a
    token sees the later subwords of its word, so that a finer vocabulary gains; with ``whole_word`` it loses. An unknown
    token stands for any number of bytes.
    """
    return method == "within_word_l2r" and not unknown


@dataclass(frozen=True, slots=True, repr=False)
class Score(Result):
    """The score of one text.

    Attributes:
        text: the text as it was given.
        pll: the sum of the tokens' natural log-probabilities; ``nan`` where there is an error.
        tokens: how many tokens were scored; special tokens such as ``[CLS]`` are none of them.
        words: how many words they make.
        bytes: length of the text in UTF-8.
        method: how it was scored.
        unknown: unknown tokens, for text outside the vocabulary; their scores mean little.
        token_scores: in order; their sum is ``pll``.
        word_scores: in order; their sum is ``pll``.
        error: why the text could not be scored, or ``None``.
    """

    text: str
    pll: float
    tokens: int
    words: int
    bytes: int
    method: Method
    unknown: int = 0
    token_scores: tuple[TokenScore, ...] = ()
    word_scores: tuple[WordScore, ...] = ()
    error: str | None = None

    @property
    def per_token(self) -> float:
        """Mean score of a token, in nats."""
        return self.pll / self.tokens if self.tokens else math.nan

    @property
    def per_word(self) -> float:
        """Mean score of a word, in nats."""
        return self.pll / self.words if self.words else math.nan

    @property
    def per_byte(self) -> float:
        """Mean score of a byte, in nats; between vocabularies it compares only as :func:`across_vocabularies` says."""
        return self.pll / self.bytes if self.bytes else math.nan

    @property
    def bits_per_byte(self) -> float:
        """The same as a cost in bits."""
        return -self.per_byte / math.log(2)

    def _title(self) -> str:
        found = (
            self.error
            or f"PLL {self.pll:.2f} over {plural(self.tokens, 'token')}, {self.per_token:.2f} per token"
        )
        return f"score of '{short(self.text)}': {found}"

    def to_rows(self) -> Rows:
        """Return one row: the text, its scores and what they are over."""
        names = ("text", "pll", "per_token", "per_word", "bits_per_byte", "tokens", "words", "error")
        return [{name: getattr(self, name) for name in names}]

    def _shown_rows(self) -> Rows:
        return [{"word": word.text, "pll": word.pll} for word in self.word_scores]

    def to_dict(self, details: bool = False) -> dict[str, Any]:
        """Return what is written for a text, ready for JSON; with details, each token and word as well."""
        row: dict[str, Any] = {"text": self.text, "pll": _rounded(self.pll), "tokens": self.tokens}
        row |= {"words": self.words, "bytes": self.bytes, "method": self.method, "unknown": self.unknown}
        for name in ("per_token", "per_word", "per_byte", "bits_per_byte"):
            row[name] = _rounded(getattr(self, name))
        if details:
            row["token_scores"] = [
                {"token": item.token, "text": item.text, "word": item.word, "pll": _rounded(item.pll)}
                for item in self.token_scores
            ]
            row["word_scores"] = [
                {"text": item.text, "tokens": item.tokens, "pll": _rounded(item.pll)}
                for item in self.word_scores
            ]
        return row


def _rounded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
