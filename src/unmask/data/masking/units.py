"""Masking strategies: group the tokens of sequences into units, which are masked as a whole or not at all.

Every token is in exactly one unit, and all units of a sequence have the same chance (with terms, chances solved from
weights), so the expected share of masked tokens is the mask rate for every strategy.

=========  =============================================================================================
token      single tokens (Devlin et al. 2019)
word       whole words
span       runs of words, of geometric length from 1 to 10 (SpanBERT, Joshi et al. 2020)
terms      domain terms of one or more words, which have a higher chance, else single words
custom     what a Python function says (:mod:`unmask.data.masking.custom`)
=========  =============================================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.masking.phrases import Phrases
from unmask.data.masking.random_bits import MaskKey, random_bits, threshold
from unmask.data.masking.terms import load_terms
from unmask.data.packing import Packed
from unmask.data.tokenizer import Vocabulary
from unmask.data.words import WordTables
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.config.settings import MaskingSettings

SPAN_P = 0.2
"""Parameter of the geometric span length (Joshi et al. 2020)."""
TERM_WEIGHT = 5.0
"""Chance of a term relative to other words, unless its file gives a weight."""


@dataclass(frozen=True, eq=False)
class MaskingPlan:
    """Masking settings with their vocabulary, and their phrases or strategy of one's own; see :func:`plan_of`."""

    settings: MaskingSettings
    vocabulary: Vocabulary
    phrases: Phrases | None = None
    custom: Callable[[Packed], MaskUnits] | None = None

    @property
    def hidden(self) -> MaskingPlan:
        """The plan with the same targets, all of them replaced by the mask token."""
        shares = {"mask_share": 1.0, "random_share": 0.0}
        return replace(self, settings=self.settings.model_copy(update=shares))


@dataclass(frozen=True, eq=False)
class MaskUnits:
    """``U`` consecutive units that cover all tokens.

    Attributes:
        first: ``int64 [U]``, the first token of each unit.
        weight: ``float64 [U]``, relative chance of each unit, or ``None`` if all are equal.
    """

    first: np.ndarray
    weight: np.ndarray | None = None


def plan_of(
    vocabulary: Vocabulary,
    settings: MaskingSettings,
    custom: Callable[[Packed], MaskUnits] | None = None,
) -> MaskingPlan:
    """Check masking settings against a vocabulary, and load their terms.

    Args:
        vocabulary: of the tokenizer.
        settings: masking settings.
        custom: groups the tokens where the strategy is ``custom``.

    Raises:
        ConfigError: the strategy needs words and the tokenizer does not mark them, or the file of terms is not
            set, cannot be read or is empty.
    """
    phrases = None
    if settings.strategy == "custom":
        if custom is None:
            raise ConfigError(
                "masking.strategy custom stands for a strategy of one's own, which only Python can pass: "
                "unmask.train(..., strategy=my_units). Use another strategy"
            )
    elif settings.strategy != "token":
        words = _words_of(vocabulary, settings.strategy)
        if settings.strategy == "terms":
            phrases = _terms(settings, words)
    return MaskingPlan(settings, vocabulary, phrases, custom)


def units_of(packed: Packed, plan: MaskingPlan, key: MaskKey) -> MaskUnits:
    """Group the tokens of packed sequences into the units of the strategy."""
    strategy = plan.settings.strategy
    if plan.custom is not None:
        return plan.custom(packed)
    if strategy == "token":
        return MaskUnits(np.arange(len(packed.input_ids)))
    first = np.flatnonzero(word_starts(packed, plan.vocabulary))
    if strategy == "span":
        return MaskUnits(_span_starts(packed, first, plan.settings, key))
    if plan.phrases is not None:
        return _phrase_units(packed, first, plan.phrases)
    return MaskUnits(first)


def word_starts(packed: Packed, vocabulary: Vocabulary) -> np.ndarray:
    """Return ``bool [T]``: where words and sequences begin; :class:`ConfigError` if the tokenizer does not mark words."""
    starts = _words_of(vocabulary, "word").starts(packed.input_ids)
    starts[packed.cu_seqlens[:-1][np.diff(packed.cu_seqlens) > 0]] = True
    return starts


def in_terms(packed: Packed, plan: MaskingPlan) -> np.ndarray:
    """Return ``bool [W]``: which words of packed sequences are part of a term of a plan."""
    first = np.flatnonzero(word_starts(packed, plan.vocabulary))
    found = np.zeros(len(first) + 1, dtype=np.int64)
    if plan.phrases is not None:
        matches = plan.phrases.find(packed.input_ids, first, sequence_of(packed, first))
        found[matches.word] += 1
        found[matches.word + matches.words] -= 1
    return np.cumsum(found[:-1]) > 0


def sequence_of(packed: Packed, index: np.ndarray) -> np.ndarray:
    """Return ``int64 [U]``: the sequences of the tokens at ``int64 [U]`` ascending positions."""
    return np.repeat(np.arange(len(packed.keys)), np.diff(np.searchsorted(index, packed.cu_seqlens)))


def _words_of(vocabulary: Vocabulary, strategy: str) -> WordTables:
    if vocabulary.words is None:
        raise ConfigError(
            f"masking.strategy {strategy} needs a tokenizer that marks where words begin (WordPiece's ##, byte-level "
            f"Ġ, Unigram ▁); this one does not. Use masking.strategy token"
        )
    return vocabulary.words


def _terms(settings: MaskingSettings, words: WordTables) -> Phrases:
    if settings.terms is None and settings.terms_pattern is None:
        raise ConfigError(
            "masking.strategy terms needs a file with a term on each line, or a regular expression; give it with "
            "--set masking.terms=FILE or --set masking.terms_pattern=REGEX"
        )
    weights = {} if settings.terms is None else load_terms(Path(settings.terms), TERM_WEIGHT)
    pattern = None if settings.terms_pattern is None else re.compile(settings.terms_pattern)
    return Phrases(weights, words, pattern, TERM_WEIGHT)


def _span_starts(packed: Packed, first: np.ndarray, settings: MaskingSettings, key: MaskKey) -> np.ndarray:
    """Return where spans begin; their number of words follows a truncated geometric distribution.

    The chance that a span ends before a word grows with its length so far. Where a draw is below the smallest of these
    chances, a span ends in any case, so spans depend on little of the text before them. The text between such
    positions is processed in parallel, one word per step.
    """
    hazard = _ends_after(SPAN_P, settings.span_words)
    draw = random_bits(packed, key.stream("span"))[first]
    begins = draw < hazard[0]
    begins[np.searchsorted(first, packed.cu_seqlens[:-1][np.diff(packed.cu_seqlens) > 0])] = True
    front = np.flatnonzero(begins)
    stop, at = np.append(front[1:], len(first)), front + 1
    while len(front):
        inside = at < stop
        front, stop, at = front[inside], stop[inside], at[inside]
        ends = draw[at] < hazard.take(at - front - 1, mode="clip")
        begins[at[ends]] = True
        front, at = np.where(ends, at, front), at + 1
    return first[begins]


def _ends_after(p: float, limit: int) -> np.ndarray:
    """Return ``uint64 [limit]``: thresholds of the draws that end a span after 1, 2, … words."""
    left = math.log1p(-p)
    return np.array([threshold(-p / math.expm1((limit - words) * left)) for words in range(limit)])


def _phrase_units(packed: Packed, first: np.ndarray, phrases: Phrases) -> MaskUnits:
    found = phrases.find(packed.input_ids, first, sequence_of(packed, first))
    weight = np.ones(len(first))
    weight[found.word] = found.weight
    several = found.words > 1
    edges = np.zeros(len(first) + 1, dtype=np.int64)
    edges[found.word[several] + 1] = 1
    edges[(found.word + found.words)[several]] = -1
    starts = np.cumsum(edges[:-1]) == 0
    return MaskUnits(first[starts], weight[starts])
