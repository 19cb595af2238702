"""Packing: split documents into sequences and concatenate sequences into batches without padding.

A batch is any set of sequences whose tokens fit a budget, so no token is dropped. ``cu_seqlens`` holds the sequence
boundaries for variable-length attention.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.document_set import At, DocumentSet, RunningSums, slices

if TYPE_CHECKING:
    from unmask.data.shards import Lengths

_EVEN_LENGTH = 2048
"""A sequence of so many tokens costs as much in attention as in all other layers: about 3 times the hidden size."""


@dataclass(frozen=True)
class Packed:
    """``N`` concatenated sequences of ``T`` tokens, special tokens included.

    Attributes:
        input_ids: ``int64 [T]``.
        cu_seqlens: ``int64 [N + 1]``, the first token of each sequence, then ``T``.
        keys: ``uint64 [N]``, hash of the document of each sequence.
        offsets: ``int64 [N]``, position in its document of the first token of each sequence; a prefix of special
            tokens makes it smaller.
    """

    input_ids: np.ndarray
    cu_seqlens: np.ndarray
    keys: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class SequenceSplit:
    """How long documents are split into sequences.

    Attributes:
        body: text tokens of a full sequence (its length without special tokens).
        overlap: text tokens that a sequence repeats from the one before it in the document.
    """

    body: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.body < 1 or not 0 <= self.overlap < self.body:
            raise ValueError(f"a sequence needs 1 text token or more, and less overlap: {self}")

    def counts(self, lengths: np.ndarray) -> np.ndarray:
        """Return ``int64 [D]``: the number of sequences of documents of ``int64 [D]`` tokens."""
        stride = self.body - self.overlap
        return np.where(lengths > 0, 1 + np.maximum(0, -(-(lengths - self.body) // stride)), 0)


class Sequences:
    """The sequences of a set of documents, numbered from 0 and located without a table of them.

    Args:
        lengths: text tokens of the documents of a corpus, ``int64 [D]``.
        split: how long documents are split.
        documents: those of the set; by default all.
    """

    def __init__(
        self, lengths: Lengths | np.ndarray, split: SequenceSplit, documents: DocumentSet | None = None
    ) -> None:
        self.split = split
        self.documents = DocumentSet.of(documents, len(lengths))
        self._lengths = lengths
        self._sums = RunningSums(len(lengths), self._counts)

    def _counts(self, documents: At) -> np.ndarray:
        counts = self.split.counts(self._lengths[documents])
        return np.where(self.documents.has(documents), counts, 0)

    def __len__(self) -> int:
        return self._sums.total

    def find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the document in the corpus, the start in it and the text tokens of sequences, ``int64 [N]`` each."""
        document, before = self._sums.find(numbers)
        start = (numbers - before) * (self.split.body - self.split.overlap)
        return document, start, np.minimum(self.split.body, self._lengths[document] - start)

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the same with the place of the document in the set."""
        document, start, body = self.find(numbers)
        return self.documents.places(document), start, body

    @cached_property
    def text_tokens(self) -> int:
        """Text tokens of the documents."""
        return sum(int(lengths.sum()) for lengths in self._chosen_lengths())

    @cached_property
    def tokens(self) -> int:
        """Text tokens of all sequences, with those that are repeated."""
        if not self.split.overlap:
            return self.text_tokens
        continued = len(self) - sum(int(np.count_nonzero(lengths)) for lengths in self._chosen_lengths())
        return self.text_tokens + self.split.overlap * continued

    def _chosen_lengths(self) -> Iterator[np.ndarray]:
        """Yield the lengths of all documents, 0 for those that are not in the set."""
        for part in slices(len(self._lengths)):
            yield np.where(self.documents.has(part), self._lengths[part], 0)


def frame_positions(cu_seqlens: np.ndarray) -> np.ndarray:
    """Return ``int64 [T]`` position ids, from 0 in every sequence."""
    lengths = np.diff(cu_seqlens)
    return np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)


def next_batch(sizes_before: np.ndarray, begin: int, budget: int) -> int:
    """Return the end of the batch that begins at sequence ``begin``.

    Args:
        sizes_before: ``int64 [N + 1]``, tokens before each sequence, then the total.
        begin: first sequence of the batch.
        budget: most tokens of the batch; a longer sequence is a batch of its own.
    """
    end = int(np.searchsorted(sizes_before, sizes_before[begin] + budget, side="right")) - 1
    return max(end, begin + 1)


def split_by_tokens(sizes: np.ndarray, budget: int) -> Iterator[slice]:
    """Yield consecutive slices of ``int64 [N]`` sizes, each of at most ``budget`` tokens."""
    before = np.concatenate([[0], np.cumsum(sizes)])
    begin = 0
    while begin < len(sizes):
        end = next_batch(before, begin, budget)
        yield slice(begin, end)
        begin = end


def split_evenly(sizes: np.ndarray, parts: int) -> list[slice]:
    """Split ``int64 [N]`` sizes into consecutive parts of about equal sums; a part may be empty."""
    ends = np.cumsum(sizes)
    marks = np.arange(1, parts) * (int(ends[-1]) if len(ends) else 0) / parts
    bounds = [0, *np.searchsorted(ends - sizes / 2, marks).tolist(), len(sizes)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def deal(sizes: np.ndarray, hands: int) -> list[np.ndarray]:
    """Deal sequences of ``int64 [N]`` sizes, longest first, to so many processes, so that all have the same work.

    The work of a sequence is its tokens and, in attention, their square; the next one goes to the process with the
    least work so far.

    Returns:
        ``int64`` numbers of the sequences of each process, in ascending order.
    """
    work = (sizes * (_EVEN_LENGTH + sizes)).tolist()
    loads = [(0, hand) for hand in range(hands)]
    to = np.empty(len(sizes), dtype=np.int64)
    for number, cost in enumerate(work):
        load, hand = loads[0]
        to[number] = hand
        heapq.heapreplace(loads, (load + cost, hand))
    return [np.flatnonzero(to == hand) for hand in range(hands)]
