"""Pairs of passages: each sequence of a document is split in two, and is ``[CLS] A [SEP] B [SEP]`` of the same text.

In one half of the pairs the second passage may be replaced by one of another document with as many tokens (Devlin et al. 2019), or
the passages be swapped (Lan et al. 2020). The length of a sequence never depends on that, so packing, order and resuming are
those of single documents. Which half a pair is in, where it is split and what replaces its second passage are functions of the
key and of the place of the sequence in its document.

A split is at the beginning of a sentence, or else of a word. A passage of another document begins at the same kind of place, and
both end where a sequence ends. Of passages that are swapped, the parts of sentences at the ends of the sequence stay where they
are, since a sequence often begins and ends within a sentence; where no sentence ends, these are parts of words. So nothing but the
text tells the two halves apart.

Shapes: N sequences, T tokens, P pairs, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from unmask.data.batches import TextSource
from unmask.data.document_set import DocumentSet, slices
from unmask.data.masking.random_bits import (
    EVALUATION_KEY,
    GOLDEN,
    MaskKey,
    mix,
    sequence_random_bits,
    threshold,
)
from unmask.data.packing import Packed
from unmask.data.sentences import SentenceEnds
from unmask.errors import ConfigError

Change = Literal["none", "replaced", "swapped"]
"""What is done to one half of the pairs: nothing, another second passage, or the other order."""

SHORTEST = 8
"""Text tokens that a sequence must have to be a pair; a shorter one stays a single passage."""
IN_ORDER, CHANGED, UNLABELLED = 0, 1, -100
"""Labels, as transformers has them: B follows A; B is of another document, or A and B are swapped; no pair."""

_SENTENCE, _WORD, _ANYWHERE = 0, 1, 2
_CANDIDATES, _ROUNDS = 16, 4  # passages of other documents that are drawn at once, and how often
_SAMPLE = 2048
_BEFORE = 4  # tokens that tell what kind of place follows: a character has up to as many


@dataclass(frozen=True)
class PackedPairs(Packed):
    """Packed sequences that are pairs, or single passages where they are too short.

    Attributes:
        second: ``int64 [N]``, where in the row the second passage begins; at the end of the sequence where there is none.
        labels: ``int64 [N]``, :data:`IN_ORDER`, :data:`CHANGED` or :data:`UNLABELLED`.
    """

    second: np.ndarray
    labels: np.ndarray

    @staticmethod
    def of(packed: Packed) -> PackedPairs:
        """Return pairs as they are; other sequences, such as those of a trial, count as pairs of halves in order."""
        if isinstance(packed, PackedPairs):
            return packed
        middle = (packed.cu_seqlens[:-1] + packed.cu_seqlens[1:]) // 2
        labels = np.full(len(middle), IN_ORDER)
        return PackedPairs(packed.input_ids, packed.cu_seqlens, packed.keys, packed.offsets, middle, labels)

    @property
    def token_type_ids(self) -> np.ndarray:
        """``int64 [T]``: 0 in the first passage, 1 in the second, each with the special tokens that end it."""
        place = np.arange(len(self.input_ids))
        return (place >= np.repeat(self.second, np.diff(self.cu_seqlens))).astype(np.int64)


class _Passages(NamedTuple):
    """Passages in the corpus: document, first token in it, and length, ``int64 [P]`` each."""

    document: np.ndarray
    start: np.ndarray
    length: np.ndarray


class _Marks(NamedTuple):
    """Tokens of sequences, one after the other.

    Attributes:
        place: ``int64 [T]``, the place of each in its sequence.
        sentence_ends: ``bool [T]``, those that end a sentence.
        kinds: ``int64 [T]``, the kind of place at which each begins, going by the tokens before it.
    """

    place: np.ndarray
    sentence_ends: np.ndarray
    kinds: np.ndarray


class PairSource(TextSource):
    """The sequences of a text as pairs of passages.

    Args:
        text: the text.
        middle: special tokens between the passages.
        sentence_ends: finds what ends a sentence.
        change: what is done to one half of the pairs.

    Raises:
        ConfigError: sequences are too short to be pairs.
    """

    def __init__(
        self, text: TextSource, middle: tuple[int, ...], sentence_ends: SentenceEnds, change: Change
    ) -> None:
        split, self._middle = text.sequences.split, middle
        body = split.body - len(self._middle)
        if body < max(SHORTEST, split.overlap + 1):
            raise ConfigError(
                f"data.max_length leaves {body} text tokens for a pair of passages, and {max(SHORTEST, split.overlap + 1)} are "
                f"needed; give a higher one"
            )
        length = body + text.vocabulary.overhead
        super().__init__(text.corpus, text.documents, text.vocabulary, text.plan, length, split.overlap)
        self.text, self.change = text, change
        self._sentence_ends = sentence_ends

    def part(self, documents: DocumentSet | np.ndarray) -> PairSource:
        text = self.text.part(documents)
        return PairSource(text, self._middle, self._sentence_ends, self.change)

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        body = self.sequences.find(numbers)[2]
        return body + self.vocabulary.overhead + len(self._middle) * (body >= SHORTEST)

    @property
    def longest(self) -> int:
        return super().longest + len(self._middle)

    @property
    def tokens(self) -> int:
        return super().tokens + len(self._middle) * self.pairs

    @property
    def pairs(self) -> int:
        """Sequences that are long enough to be pairs."""
        return self._counts[0]

    @property
    def short_documents(self) -> int:
        """Documents that are too short to be a pair."""
        return self._counts[1]

    @property
    def long_documents(self) -> int:
        """Documents that are long enough to be a pair."""
        return self._counts[2]

    @cached_property
    def _counts(self) -> tuple[int, int, int]:
        split, pairs, short, long = self.sequences.split, 0, 0, 0
        for part in slices(len(self.corpus)):
            lengths = np.where(self.documents.has(part), self.corpus.lengths[part], 0)
            counts = split.counts(lengths)
            last = lengths - np.maximum(0, counts - 1) * (split.body - split.overlap)
            pairs += int((counts - ((counts > 0) & (last < SHORTEST))).sum())
            short += int(((lengths > 0) & (lengths < SHORTEST)).sum())
            long += int((lengths >= SHORTEST).sum())
        return pairs, short, long

    @cached_property
    def labelled_share(self) -> float:
        """Share of the pairs that have a label, of a sample: others find no passage of their length in another document."""
        packed = self.pack(self.sequence_sample(_SAMPLE))
        pairs = packed.second < packed.cu_seqlens[1:]
        return float((packed.labels[pairs] != UNLABELLED).mean()) if pairs.any() else 0.0

    @cached_property
    def unpunctuated_share(self) -> float:
        """Share of the pairs without an end of a sentence, of a sample: they are split at words, or anywhere."""
        document, start, body = self.sequences.find(self.sequence_sample(_SAMPLE))
        document, start, body = (column[body >= SHORTEST] for column in (document, start, body))
        if not len(body):
            return 0.0
        ends = self._sentence_ends.find(self.corpus.gather(document, start, body), _places(body))
        return 1 - float(np.logical_or.reduceat(ends, np.cumsum(body) - body).mean())

    def pack(self, numbers: np.ndarray, key: MaskKey = EVALUATION_KEY) -> PackedPairs:
        """Concatenate ``int64 [N]`` sequences with their special tokens, as pairs that the key determines."""
        document, start, body = self.sequences.find(numbers)
        # A sequence has more places than text tokens, so each is moved on, or two would share random bits.
        stride = self.sequences.split.body - self.sequences.split.overlap
        offsets = start - len(self.vocabulary.prefix) + start // stride * len(self._middle)
        ends = np.concatenate([[0], np.cumsum(body)])
        drawn = Packed(self.corpus.gather(document, start, body), ends, self.corpus.keys[document], offsets)
        pair = body >= SHORTEST
        drawn_half = sequence_random_bits(drawn, key.stream("pair")) < threshold(0.5)
        marks = self._marks(drawn.input_ids, body)
        if self.change == "replaced":
            cut, other, labelled = self._with_others(drawn, marks, key)
        else:
            (cut, kind), labelled = self._cuts(drawn, marks, key, _SENTENCE), pair
        if self.change == "swapped":
            at_end = start + body == self.corpus.lengths[document]
            begins = (start == 0) & self._begins_like_others(drawn.input_ids[drawn.cu_seqlens[:-1]])
            low, high, whole = self._whole_parts(drawn, marks, cut, kind, begins, at_end)
            labelled = pair & whole
        cut = np.where(pair, cut, body)
        changed = labelled & drawn_half & (self.change != "none")
        labels = np.where(labelled, np.where(changed, CHANGED, IN_ORDER), UNLABELLED)
        first = _Passages(document, start, cut)
        second = _Passages(document, start + cut, body - cut)
        if self.change == "replaced":
            second = _chosen(changed, other, second)
        if self.change != "swapped":
            return self._joined((first,), (second,), pair, drawn, labels)
        low, high = np.where(changed, low, 0), np.where(changed, high, body)
        begin, end = _Passages(document, start, low), _Passages(document, start + high, body - high)
        first = _Passages(document, start + low, cut - low)
        second = _Passages(document, start + cut, high - cut)
        first, second = _chosen(changed, second, first), _chosen(changed, first, second)
        return self._joined((begin, first), (second, end), pair, drawn, labels)

    def _whole_parts(
        self,
        drawn: Packed,
        marks: _Marks,
        cut: np.ndarray,
        kind: np.ndarray,
        begins: np.ndarray,
        ends: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the whole sentences on both sides of a split, which can be swapped so that the form does not tell.

        In a sequence without an end of a sentence these are whole words, or any tokens where words are not known.

        Args:
            drawn: the sequences.
            marks: of their tokens.
            cut: ``int64 [N]``, where they are split.
            kind: ``int64 [N]``, at what kind of place.
            begins: ``bool [N]``, which of them begin a document, with a token as others of a passage do.
            ends: ``bool [N]``, which of them end one.

        Returns:
            Where these parts begin and end in each sequence, ``int64 [N]`` each, and ``bool [N]``, which sequences have some on
            both sides.
        """
        at, last, body = drawn.cu_seqlens[:-1], drawn.cu_seqlens[1:] - 1, np.diff(drawn.cu_seqlens)
        place = marks.place
        punctuated = np.logical_or.reduceat(marks.sentence_ends, at)
        wanted = np.where(punctuated, _SENTENCE, _ANYWHERE if self.vocabulary.words is None else _WORD)
        anywhere = wanted == _ANYWHERE
        starts = (marks.kinds <= np.repeat(wanted, body)) & (place > 0)
        low = np.minimum.reduceat(np.where(starts, place, np.iinfo(np.int64).max), at)
        high = np.maximum.reduceat(np.where(starts, place, -1), at)
        low = np.where(begins | anywhere, 0, low)
        high = np.where(np.where(punctuated, marks.sentence_ends[last], ends | anywhere), body, high)
        both = (kind <= wanted) & (low < cut) & (cut < high)
        return np.where(both, low, 0), np.where(both, high, body), both

    def _joined(
        self,
        first: tuple[_Passages, ...],
        second: tuple[_Passages, ...],
        pair: np.ndarray,
        drawn: Packed,
        labels: np.ndarray,
    ) -> PackedPairs:
        """Lay out the passages, each of pieces of the corpus, with their special tokens."""
        prefix, suffix, middle = self.vocabulary.prefix, self.vocabulary.suffix, self._middle
        before, after = (sum(piece.length for piece in pieces) for pieces in (first, second))
        sizes = before + after + self.vocabulary.overhead + len(middle) * pair
        cu_seqlens = np.concatenate([[0], np.cumsum(sizes)])
        begins, ends = cu_seqlens[:-1], cu_seqlens[1:]
        between = begins + len(prefix) + before
        input_ids = np.full(cu_seqlens[-1], -1, dtype=np.int64)
        for place, token in enumerate(prefix):
            input_ids[begins + place] = token
        for place, token in enumerate(middle):
            input_ids[between[pair] + place] = token
        for place, token in enumerate(suffix):
            input_ids[ends - len(suffix) + place] = token
        pieces = [np.stack(parts, axis=1).ravel() for parts in zip(*first, *second, strict=True)]
        input_ids[input_ids < 0] = self.corpus.gather(*pieces)
        where = np.where(pair, between + len(middle), ends)
        return PackedPairs(input_ids, cu_seqlens, drawn.keys, drawn.offsets, where, labels)

    def _cuts(self, drawn: Packed, marks: _Marks, key: MaskKey, best: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where sequences without their special tokens are split, and at what kind of place, ``int64 [N]`` each.

        The place is the nearest one of the best kind to one that is drawn uniformly from the middle half.

        Args:
            drawn: the sequences.
            marks: of their tokens.
            key: of the draw.
            best: the best kind of place that is looked for.
        """
        body = np.diff(drawn.cu_seqlens)
        least = np.maximum(1, body // 4)
        bits = sequence_random_bits(drawn, key.stream("cut"))
        wanted = least + _below(bits, body - 2 * least + 1)
        place, kind = marks.place, np.maximum(marks.kinds, best)
        width = int(body.max(initial=0)) + 1
        rank = (kind * width + np.abs(place - np.repeat(wanted, body))) * width + place
        inside = (place >= np.repeat(least, body)) & (place <= np.repeat(body - least, body))
        rank[~inside] = np.iinfo(np.int64).max
        chosen = np.minimum.reduceat(rank, drawn.cu_seqlens[:-1])
        return chosen % width, chosen // (width * width)

    def _marks(self, input_ids: np.ndarray, lengths: np.ndarray) -> _Marks:
        """Find what sentences and words say of ``int64 [T]`` tokens, of sequences of so many one after the other."""
        place = _places(lengths)
        ends = self._sentence_ends.find(input_ids, place)
        after_end, words = np.concatenate([[False], ends[:-1]]), self.vocabulary.words
        if words is None or not len(input_ids):
            return _Marks(place, ends, np.where(after_end[: len(ends)], _SENTENCE, _ANYWHERE))
        # Behind a mark without a space, as in a number, no sentence begins.
        after_end &= words.opening(input_ids)
        kinds = np.where(words.starts(input_ids), np.where(after_end, _SENTENCE, _WORD), _ANYWHERE)
        return _Marks(place, ends, kinds)

    def _with_others(
        self, drawn: Packed, marks: _Marks, key: MaskKey
    ) -> tuple[np.ndarray, _Passages, np.ndarray]:
        """Split sequences so that another document has a passage that can replace the second one.

        Whether there is one does not depend on whether it will be used.

        Returns:
            Where they are split, the passages of other documents, and ``bool [N]``, for which there is one.
        """
        body = np.diff(drawn.cu_seqlens)
        cut, found = np.zeros_like(body), np.zeros(len(body), dtype=bool)
        document, start = np.zeros_like(body), np.zeros_like(body)
        for best in (_SENTENCE, _WORD):
            cuts, kind = self._cuts(drawn, marks, key, best)
            left = np.flatnonzero(~found & (body >= SHORTEST))
            cut[left] = cuts[left]
            seeds = sequence_random_bits(drawn, key.stream(f"other {best}"))[left]
            others, starts = self._others(seeds, drawn.keys[left], body[left] - cut[left], kind[left])
            document[left], start[left] = others, starts
            found[left] = others >= 0
        document[~found] = 0
        return cut, _Passages(document, start, body - cut), found

    def _others(
        self, seeds: np.ndarray, keys: np.ndarray, lengths: np.ndarray, kinds: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the end of a sequence of another document for each pair.

        Args:
            seeds: ``uint64 [P]``, random bits.
            keys: ``uint64 [P]``, of the own documents; copies of these do not count as others.
            lengths: ``int64 [P]``, of the passages.
            kinds: ``int64 [P]``, of the places at which they must begin.

        Returns:
            Their documents, or -1 where none was found, and first tokens, ``int64 [P]`` each.
        """
        document, start = np.full(len(seeds), -1), np.zeros(len(seeds), dtype=np.int64)
        for turn in range(_ROUNDS):
            left = np.flatnonzero(document < 0)
            if not len(left):
                break
            steps = np.arange(1, _CANDIDATES + 1, dtype=np.uint64) + np.uint64(turn * _CANDIDATES)
            with np.errstate(over="ignore"):
                bits = mix((seeds[left, None] + steps * GOLDEN).ravel())
            owner = np.repeat(left, _CANDIDATES)
            there, begin, body = self.sequences.find(_below(bits, len(self.sequences)))
            begin += body - lengths[owner]
            fits = (body >= lengths[owner]) & (self.corpus.keys[there] != keys[owner])
            fits[fits] = self._kinds_at(there[fits], begin[fits]) <= kinds[owner[fits]]
            fits = fits.reshape(len(left), _CANDIDATES)
            some = fits.any(axis=1)
            which = (np.arange(len(left)) * _CANDIDATES + fits.argmax(axis=1))[some]
            document[left[some]], start[left[some]] = there[which], begin[which]
        return document, start

    def _kinds_at(self, document: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return ``int64 [P]``: the kinds of places in documents."""
        before = np.minimum(start, _BEFORE)
        input_ids, last = self.corpus.gather(document, start - before, before + 1), np.cumsum(before + 1) - 1
        first = np.where(self._begins_like_others(input_ids[last]), _SENTENCE, _ANYWHERE)
        return np.where(start == 0, first, self._marks(input_ids, before + 1).kinds[last])

    def _begins_like_others(self, first: np.ndarray) -> np.ndarray:
        """Return ``bool [N]``: the first tokens of documents that others, behind a space, look like.

        Byte-level vocabularies have a mark for the space before a word, which the first word of a document lacks.
        """
        words = self.vocabulary.words
        return np.ones(len(first), dtype=bool) if words is None else words.opens[first]


def _places(lengths: np.ndarray) -> np.ndarray:
    """Return ``int64``: the place of each token in its sequence, of sequences of so many tokens one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _chosen(where: np.ndarray, one: _Passages, other: _Passages) -> _Passages:
    return _Passages(*(np.where(where, *pair) for pair in zip(one, other, strict=True)))


def _below(bits: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """Return ``int64`` numbers from 0 to below a count, by the high half of ``uint64`` bits."""
    wide = np.asarray(count, dtype=np.uint64)
    return (((bits >> np.uint64(32)) * wide) >> np.uint64(32)).astype(np.int64)
