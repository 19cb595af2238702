"""Counts of tokens in contexts: what the n-gram baseline looks up.

Contexts and tokens are numbers; a context and a token are packed into one key, context · base + token.

Shapes: M rows that are looked up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unmask.evaluation.strata import Ids


class Span(NamedTuple):
    """The entries of M contexts in a table: start and end of the distinct ones, and which is each row's."""

    start: Ids
    end: Ids
    of_row: Ids


class ContextCounts:
    """Counts of (context, token), as sorted packed keys with running sums."""

    def __init__(self, keys: Ids, sums: Ids, base: int) -> None:
        self._keys, self._sums, self._base = keys, sums, base

    @classmethod
    def empty(cls, base: int) -> ContextCounts:
        """Return a table without counts."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int32), base)

    def add(self, keys: Ids, contexts: Ids | None = None) -> None:
        """Count packed keys, which are sorted in place; of ``contexts`` alone, ascending, where they are given."""
        keys.sort()
        ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True)[: len(keys)])
        counts, keys = np.diff(ends, prepend=-1).astype(np.int32), keys[ends]
        if contexts is not None:
            found = keys // self._base
            known = contexts[np.minimum(np.searchsorted(contexts, found), len(contexts) - 1)] == found
            keys, counts = keys[known], counts[known]
        keys = np.concatenate([self._keys, keys])
        order = np.argsort(keys, kind="stable")  # merges two sorted parts
        keys, counts = keys[order], np.concatenate([np.diff(self._sums), counts])[order]
        ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True)[: len(keys)])
        self._keys = keys[ends]
        self._sums = np.append(np.int32(0), np.cumsum(counts, dtype=np.int32)[ends])

    def span(self, contexts: Ids) -> Span:
        """Look up the contexts of M rows."""
        distinct, of_row = np.unique(contexts, return_inverse=True)
        start = np.searchsorted(self._keys, distinct * self._base)
        end = np.searchsorted(self._keys, (distinct + 1) * self._base)
        return Span(start, end, of_row)

    def totals(self, span: Span) -> Ids:
        """Return how often the context of each row was seen, [M]."""
        return (self._sums[span.end] - self._sums[span.start])[span.of_row]

    def peaks(self, span: Span) -> Ids:
        """Return how often the most frequent token was seen in the context of each row, [M]."""
        first, _, counts = self._entries(span)
        highest = np.maximum.reduceat(np.append(counts, 0), first)
        return np.where(span.end > span.start, highest, 0)[span.of_row]

    def counts_of(self, contexts: Ids, tokens: Ids) -> Ids:
        """Return how often each token was seen in its context."""
        keys = contexts * self._base + tokens
        if not len(self._keys):
            return np.zeros_like(keys)
        place = np.searchsorted(self._keys, keys)
        inside = np.minimum(place, len(self._keys) - 1)
        return np.where(self._keys[inside] == keys, self._sums[inside + 1] - self._sums[inside], 0)

    def tops(self, span: Span, most: int) -> Ids:
        """Return the most frequent tokens of each row's context, [M, most], filled up with -1."""
        first, entries, counts = self._entries(span)
        sizes = span.end - span.start
        group = np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort((group << 32) - counts, kind="stable")  # of equal counts the smallest id first
        ranked = np.append(self._keys[entries[order]] % self._base, -1)
        ranks = np.arange(most)
        chosen = np.where(ranks < sizes[:, None], first[:, None] + ranks, -1)
        return ranked[chosen][span.of_row]

    def _entries(self, span: Span) -> tuple[Ids, Ids, Ids]:
        """Return the entries of the distinct contexts end to end: where each context begins, the entries, their counts."""
        sizes = span.end - span.start
        first = np.cumsum(sizes) - sizes
        entries = np.arange(sizes.sum()) + np.repeat(span.start - first, sizes)
        return first, entries, self._sums[entries + 1] - self._sums[entries]
