"""Whole words as the common unit of models whose tokenizers split text differently.

Words come from the text alone: runs of letters and digits between white space and punctuation, and single Chinese
characters. Where a token of either tokenizer crosses a word border (``").``, ``don't``), the words on both sides are
one unit, so that a unit has subwords of its own in both. Units are chosen by a hash of (document, word number), all
subwords of a chosen one are masked together, and its score is the sum of their log-probabilities. Documents are split
between units, at the same places for both models, so that both see the same text.

Shapes: K words of a document, U units, n tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.data.batches import Batch
from unmask.data.corpus import document_key
from unmask.data.masking.random_bits import EVALUATION_KEY, random_bits, uniform
from unmask.data.packing import Packed, frame_positions
from unmask.data.tokenizer import Vocabulary, plain_copy
from unmask.evaluation.predictions import predict_targets
from unmask.evaluation.strata import Ids
from unmask.model.base import LanguageModel

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

MOST_SUBWORDS = 32
"""Units of more subwords (addresses, codes, scripts without spaces) are not words, and are left out."""

_BARE = "▁"


class _Kinds(dict[int, str]):
    """The kind of each character, computed once: w in a word, i an ideograph, p punctuation, or a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace() or category == "Cc":
            kind = " "
        elif unicodedata.name(character, "").startswith(("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH")):
            kind = "i"
        else:
            kind = "w" if category[0] in "LNM" or category == "Cf" else "p"
        self[code] = kind
        return kind


_KINDS = _Kinds()
_WORD = re.compile("w+|i|p")


def words_of(text: str) -> tuple[Ids, NDArray[np.bool_]]:
    """Split a text into words and punctuation marks.

    Returns:
        ``int64 [K, 2]`` where each begins and ends, in characters, and ``bool [K]`` whether it is a word.
    """
    kinds = text.translate(_KINDS)
    spans = [found.span() for found in _WORD.finditer(kinds)]
    places = np.array(spans, dtype=np.int64).reshape(-1, 2)
    return places, np.array([kinds[begin] != "p" for begin, _ in spans], dtype=bool)


class Side(NamedTuple):
    """A passage in the tokens of one tokenizer: ``int64 [n]`` ids, and for each the chosen unit or -1."""

    ids: Ids
    unit: Ids


class Passage(NamedTuple):
    """A part of a document that both models see whole; ``chosen`` units are masked in it."""

    document: int
    chosen: int
    sides: tuple[Side, Side]


class UnitTokenizer:
    """A tokenizer with the ids that units need: special tokens, the unknown one among them, and the bare word mark."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, max_length: int, model: str
    ) -> None:
        self.model = model
        self.core = plain_copy(tokenizer)
        self.special = vocabulary.special
        bare = self.core.token_to_id(_BARE)
        self.bare = -1 if bare is None else int(bare)
        self.body = max_length - vocabulary.overhead

    def encode(self, text: str) -> Encoding:
        return self.core.encode(text, add_special_tokens=False)


@dataclass
class WordSplitter:
    """Splits documents into passages with chosen units.

    Args:
        tokenizers: the two tokenizers.
        rate: share of the units that are chosen.

    Attributes:
        left_out: units that would have been chosen and were not, by reason.
    """

    tokenizers: tuple[UnitTokenizer, UnitTokenizer]
    rate: float
    left_out: Counter[str] = field(default_factory=Counter)

    def passages(self, number: int, text: str) -> Iterator[Passage]:
        """Yield the passages of a document that have a chosen unit."""
        encodings = [tokenizer.encode(text) for tokenizer in self.tokenizers]
        units = _Units.of(text, encodings, self.tokenizers)
        chosen = self._choose(text, units)
        for begin, end in units.split([tokenizer.body for tokenizer in self.tokenizers]):
            here = chosen[begin:end]
            if here.any():
                names = np.where(here, np.cumsum(here) - 1, -1)
                sides = [units.side(which, begin, end, names) for which in (0, 1)]
                yield Passage(number, int(here.sum()), (sides[0], sides[1]))

    def _choose(self, text: str, units: _Units) -> NDArray[np.bool_]:
        """Return ``bool [U]``: which units are masked."""
        count = len(units.word_unit)
        key = np.array([document_key(text)], dtype=np.uint64)
        packed = Packed(np.zeros(count, np.int64), np.array([0, count]), key, np.zeros(1, np.int64))
        draw = uniform(random_bits(packed, EVALUATION_KEY.stream("words")))[units.first]
        drawn = (draw < self.rate) & units.is_word
        for reason, wrong in units.wrong:
            self.left_out[reason] += int((drawn & wrong).sum())
            drawn &= ~wrong
        return drawn


@dataclass(frozen=True)
class _Units:
    """The units of a document, and the tokens of both tokenizers by unit."""

    word_unit: Ids
    first: Ids
    is_word: NDArray[np.bool_]
    wrong: list[tuple[str, NDArray[np.bool_]]]
    ids: list[Ids]
    token_unit: list[Ids]
    starts: list[Ids]
    """For each tokenizer ``int64 [U + 1]``: the first token at or behind the beginning of each unit."""

    @property
    def count(self) -> int:
        return len(self.first)

    @staticmethod
    def of(text: str, encodings: Sequence[Encoding], tokenizers: Sequence[UnitTokenizer]) -> _Units:
        places, is_word = words_of(text)
        offsets = [np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) for encoding in encodings]
        reach = [_reach(places, spans) for spans in offsets]
        word_unit = _joined(len(places), reach)
        first = np.flatnonzero(np.diff(word_unit, prepend=-1))
        ids = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        token_unit = [
            _token_units(found, word_unit, tokens == tokenizer.bare)
            for found, tokens, tokenizer in zip(reach, ids, tokenizers, strict=True)
        ]
        wrong = _wrong(len(first), ids, token_unit, tokenizers)
        starts = [_starts(found, len(first)) for found in token_unit]
        whole = np.logical_or.reduceat(is_word, first) if len(first) else np.zeros(0, dtype=bool)
        return _Units(word_unit, first, whole, wrong, ids, token_unit, starts)

    def split(self, bodies: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield ranges of units whose tokens fit both models; a unit that is too long for one is left out."""
        begin = 0
        while begin < self.count:
            ends = [
                int(np.searchsorted(starts, starts[begin] + body, side="right")) - 1
                for starts, body in zip(self.starts, bodies, strict=True)
            ]
            if min(ends) > begin:
                yield begin, min(ends)
            begin = max(min(ends), begin + 1)

    def side(self, which: int, begin: int, end: int, names: Ids) -> Side:
        """Return the tokens of units ``begin`` to ``end``; ``names`` has the number of each that is chosen, or -1."""
        part = slice(self.starts[which][begin], self.starts[which][end])
        unit = self.token_unit[which][part]
        return Side(self.ids[which][part], np.where(unit >= 0, names[np.maximum(unit - begin, 0)], -1))


def _reach(places: Ids, spans: Ids) -> tuple[Ids, Ids]:
    """Return the first and the last word that each token has characters of; last < first where there is none."""
    first = np.searchsorted(places[:, 1], spans[:, 0], side="right")
    last = np.searchsorted(places[:, 0], spans[:, 1], side="left") - 1
    return first, np.where(spans[:, 1] > spans[:, 0], last, -1)


def _joined(words: int, reach: Sequence[tuple[Ids, Ids]]) -> Ids:
    """Return ``int64 [K]``: the unit of each word; words that share a token share a unit."""
    bridges = np.zeros(words + 1, dtype=np.int64)
    for first, last in reach:
        over = last > first
        np.add.at(bridges, first[over], 1)
        np.add.at(bridges, last[over], -1)
    to_next = np.cumsum(bridges[:words]) > 0
    begins = np.ones(words, dtype=np.int64)
    begins[1:] -= to_next[:-1]
    return np.cumsum(begins) - 1


def _token_units(reach: tuple[Ids, Ids], word_unit: Ids, bare: NDArray[np.bool_]) -> Ids:
    """Return ``int64 [n]``: the unit of each token, or -1 for white space; a bare word mark belongs to its word."""
    first, last = reach
    found = np.full(len(first), -1, dtype=np.int64)
    inside = last >= first
    found[inside] = word_unit[first[inside]]
    marks = np.flatnonzero(bare[:-1] & (found[:-1] < 0))
    found[marks] = found[marks + 1]
    return found


def _starts(token_unit: Ids, units: int) -> Ids:
    """Return ``int64 [U + 1]``: the first token of each unit, white space belongs to the unit before it."""
    reached = np.maximum.accumulate(token_unit) if len(token_unit) else token_unit
    starts = np.searchsorted(reached, np.arange(units + 1), side="left")
    starts[0] = 0
    starts[-1] = len(token_unit)
    return starts


def _wrong(
    units: int, ids: Sequence[Ids], token_unit: Sequence[Ids], tokenizers: Sequence[UnitTokenizer]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return reasons, each with ``bool [U]``, which units cannot be compared for it."""
    unknown, long = np.zeros((2, units), dtype=bool), np.zeros(units, dtype=bool)
    sides = zip(ids, token_unit, tokenizers, unknown, strict=True)
    for tokens, unit, tokenizer, unspelled in sides:
        subwords = np.bincount(unit[unit >= 0], minlength=units)
        unspelled |= subwords == 0
        unspelled[unit[tokenizer.special[tokens] & (unit >= 0)]] = True
        long |= subwords > min(MOST_SUBWORDS, tokenizer.body)
    first, second = unknown
    one, other = (f"the tokenizer of {tokenizer.model} cannot spell them" for tokenizer in tokenizers)
    return [
        ("neither tokenizer can spell them", first & second),
        (one, first & ~second),
        (other, second & ~first),
        (f"of more than {MOST_SUBWORDS} subwords", long),
    ]


class WordScores(NamedTuple):
    """Scores of the chosen units of some passages, in their order.

    Attributes:
        loss: ``float64 [U]``, minus the summed log-probability of a unit's subwords, in nats.
        right: ``bool [U]``, whether the most probable token is the true one at every subword.
        subwords: ``int64 [U]``.
    """

    loss: NDArray[np.float64]
    right: NDArray[np.bool_]
    subwords: Ids


def score_words(model: LanguageModel, passages: Sequence[Passage], which: int) -> WordScores:
    """Score the chosen units of passages with the model of side ``which``, all in one batch."""
    before = np.cumsum([0, *(passage.chosen for passage in passages)])
    total = int(before[-1])
    order = sorted(range(len(passages)), key=lambda place: -len(passages[place].sides[which].ids))
    batch, unit = _batch(
        [(passages[place].sides[which], int(before[place])) for place in order], model.vocabulary
    )
    ((_, scores),) = predict_targets(model, [batch])
    scores.require_finite()
    loss = np.bincount(unit, scores.loss, minlength=total).astype(np.float64)
    wrong = np.bincount(unit, scores.rank > 1, minlength=total)
    return WordScores(loss, wrong == 0, np.bincount(unit, minlength=total))


def _batch(sides: Sequence[tuple[Side, int]], vocabulary: Vocabulary) -> tuple[Batch, Ids]:
    """Frame passages, longest first, and mask their chosen units; return also the unit of each target."""
    front, back = list(vocabulary.prefix), list(vocabulary.suffix)
    ids = np.concatenate([part for side, _ in sides for part in (front, side.ids, back)]).astype(np.int64)
    none = np.full(1, -1)
    named = [np.where(side.unit >= 0, side.unit + before, -1) for side, before in sides]
    unit = np.concatenate(
        [part for name in named for part in (none.repeat(len(front)), name, none.repeat(len(back)))]
    )
    target = np.flatnonzero(unit >= 0)
    shown = ids.copy()
    shown[target] = vocabulary.mask_id
    cu_seqlens = np.cumsum([0, *(len(side.ids) + vocabulary.overhead for side, _ in sides)])
    batch = Batch(
        shown,
        frame_positions(cu_seqlens),
        cu_seqlens.astype(np.int32),
        target,
        ids[target],
        np.arange(len(sides)),
    )
    return batch, unit[target]


def batched(passages: Iterable[Passage], budget: int) -> Iterator[list[Passage]]:
    """Group passages so that neither model gets more than about ``budget`` tokens at a time."""
    held: list[Passage] = []
    size = 0
    for passage in passages:
        longest = max(len(side.ids) for side in passage.sides)
        if held and size + longest > budget:
            yield held
            held, size = [], 0
        held.append(passage)
        size += longest
    if held:
        yield held
