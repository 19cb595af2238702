"""Packing: documents are split into sequences, and sequences laid end to end without padding.

All of it is pure: lengths in, positions out. A batch is any set of sequences whose tokens fit a budget, so no
token is dropped and none is padding. ``cu_seqlens`` says where each sequence begins; attention keeps to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Packed:
    """``N`` sequences end to end, ``T`` tokens with the special tokens of each.

    Attributes:
        input_ids: ``int64 [T]``.
        cu_seqlens: ``int64 [N + 1]``, where sequences begin, and at the end ``T``.
        keys: ``uint64 [N]``, the hash of the document that each sequence is a part of.
        offsets: ``int64 [N]``, position in its document of the sequence's first token (the special
            tokens in front count as positions before the text).
    """

    input_ids: np.ndarray
    cu_seqlens: np.ndarray
    keys: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Cut:
    """How long documents are split.

    Attributes:
        body: text tokens of a full sequence (its length without special tokens).
        overlap: text tokens that a continued sequence repeats.
    """

    body: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.body < 1 or not 0 <= self.overlap < self.body:
            raise ValueError(f"a sequence needs room for text, and less overlap than that: {self}")

    def counts(self, lengths: np.ndarray) -> np.ndarray:
        """Return ``int64 [D]``: into how many sequences documents of ``int64 [D]`` tokens are split."""
        stride = self.body - self.overlap
        return np.where(lengths > 0, 1 + np.maximum(0, -(-(lengths - self.body) // stride)), 0)


class Sequences:
    """All sequences of a set of documents, numbered from 0, found without holding a table of them.

    Args:
        lengths: ``int64 [D]`` text tokens of the documents.
        cut: how long documents are split.
    """

    def __init__(self, lengths: np.ndarray, cut: Cut) -> None:
        self.cut = cut
        self._lengths = lengths
        self._ends = np.cumsum(cut.counts(lengths))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find sequences by number.

        Args:
            numbers: ``int64 [N]``.

        Returns:
            ``int64 [N]`` each: the document, the position in it where the sequence begins, and its text tokens.
        """
        document = np.searchsorted(self._ends, numbers, side="right")
        before = np.where(document > 0, self._ends[document - 1], 0)
        start = (numbers - before) * (self.cut.body - self.cut.overlap)
        return document, start, np.minimum(self.cut.body, self._lengths[document] - start)


def frame_positions(cu_seqlens: np.ndarray) -> np.ndarray:
    """Return ``int64 [T]``: positions that begin at 0 in every sequence."""
    lengths = np.diff(cu_seqlens)
    return np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)


def next_batch(sizes_before: np.ndarray, begin: int, budget: int) -> int:
    """Return where the batch that begins at sequence ``begin`` of an order ends.

    Args:
        sizes_before: ``int64 [N + 1]``, tokens before each sequence of the order, and in all.
        begin: first sequence of the batch.
        budget: tokens that the batch may hold; a single longer sequence is a batch of its own.
    """
    end = int(np.searchsorted(sizes_before, sizes_before[begin] + budget, side="right")) - 1
    return max(end, begin + 1)


def split_evenly(sizes: np.ndarray, parts: int) -> list[slice]:
    """Split ``int64 [N]`` sizes into consecutive parts of about equal sums; a part may be empty."""
    ends = np.cumsum(sizes)
    marks = np.arange(1, parts) * (int(ends[-1]) if len(ends) else 0) / parts
    cuts = [0, *np.searchsorted(ends - sizes / 2, marks).tolist(), len(sizes)]
    return [slice(a, b) for a, b in pairwise(cuts)]
