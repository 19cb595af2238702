"""Find held-out documents that occur in training text, as a whole or in runs of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.masking.random_bits import mix
from unmask.data.packing import split_by_tokens

if TYPE_CHECKING:
    from unmask.data.batches import TextSource

MOSTLY = 0.5
"""Share of the runs of a document that must occur in the training text."""
_EXAMPLES = 3
_SHORTEST_RUN, _RUN_BITS = 8, 128
_AT_ONCE, _SEARCHED = 1 << 20, 1 << 21  # tokens
_SIEVE = np.uint64((1 << 24) - 1)

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_WORD_SIZE = 1 << 64


@lru_cache(maxsize=2)
def _powers(size: int, base: int) -> np.ndarray:
    """Return ``uint64 [size]`` powers of a base modulo 2^64."""
    factors = np.full(size, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def span_hashes(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return ``uint64 [S]`` hashes of the spans ``[begin, end)`` of ``uint64 [N]`` values, independent of their position."""
    size = 1 << max(12, len(values).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * _powers(size, _BASE)[: len(values)], out=sums[1:])
    shift = _powers(size, pow(_BASE, -1, _WORD_SIZE))[begins]
    # The length is hashed too: leading zeros would not change the sum.
    return mix((sums[ends] - sums[begins]) * shift + (ends - begins).astype(np.uint64))


@dataclass(frozen=True)
class Overlap:
    """Held-out documents that occur in training text.

    Attributes:
        documents: all of them.
        same: those equal to a training document but for case and white space.
        near: of the others, those of whose runs of tokens at least half occur in the training text.
        compared: documents whose runs were looked up: those that have one, of the first 2 million tokens.
        run: tokens of a run, none of them unknown or special.
        examples: the first of these documents, by their numbers in the corpus.
    """

    documents: int
    same: int
    near: int
    compared: int
    run: int
    examples: tuple[int, ...] = field(default=(), compare=False)


def find_overlap(heldout: TextSource, training: Sequence[TextSource]) -> Overlap:
    """Look up held-out documents in training text, by key and in runs of tokens.

    A run has so many tokens that it holds about 128 bits: 9 tokens of 30,000 entries, 64 of DNA.
    """
    run = max(_SHORTEST_RUN, math.ceil(_RUN_BITS / math.log2(max(2, len(heldout.vocabulary.replacements)))))
    keys = heldout.corpus.keys[heldout.documents]
    same = np.isin(keys, _common(keys, training))
    rest = heldout.documents[~same]
    rest = rest[np.cumsum(heldout.corpus.lengths[rest]) <= _SEARCHED]
    runs, owner = (np.concatenate(part) for part in zip(*_runs(heldout, rest, run), strict=True))
    wanted, which = np.unique(runs, return_inverse=True)
    seen = np.zeros(len(wanted), dtype=bool)
    sieve = np.zeros(int(_SIEVE) + 1, dtype=bool)
    sieve[wanted & _SIEVE] = True
    for text in training if len(wanted) else ():
        for found, _ in _all_runs(text, run):
            maybe = found[sieve[found & _SIEVE]]
            at = np.minimum(np.searchsorted(wanted, maybe), len(wanted) - 1)
            seen[at[wanted[at] == maybe]] = True
    total = np.bincount(owner, minlength=len(rest))
    hits = np.bincount(owner, seen[which], minlength=len(rest))
    near = (total > 0) & (hits >= MOSTLY * total)
    examples = np.concatenate([heldout.documents[same], rest[near]])[:_EXAMPLES].tolist()
    return Overlap(len(keys), int(same.sum()), int(near.sum()), int((total > 0).sum()), run, tuple(examples))


def _common(keys: np.ndarray, training: Sequence[TextSource]) -> np.ndarray:
    """Return those of ``uint64`` keys that training text has too."""
    wanted = np.unique(keys)
    seen = np.zeros(len(wanted), dtype=bool)
    for text in training:
        for block in text.documents.blocks():
            found = text.corpus.keys[block]
            at = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
            seen[at[wanted[at] == found]] = True
    return wanted[seen]


def _all_runs(text: TextSource, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for block in text.documents.blocks():
        yield from _runs(text, block, size)


def _runs(text: TextSource, documents: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield hashes of the runs of tokens within documents that hold no unknown or special token.

    Yields:
        ``uint64 [R]`` hashes, with ``int64 [R]`` their places in ``documents``.
    """
    yield np.empty(0, np.uint64), np.empty(0, np.int64)
    lengths = text.corpus.lengths[documents]
    for part in split_by_tokens(lengths, _AT_ONCE):
        ids = text.corpus.gather(documents[part], np.zeros_like(lengths[part]), lengths[part])
        owner = np.repeat(np.arange(part.start, part.stop), lengths[part])
        first = np.arange(max(0, len(ids) - size + 1))
        # Different text is the same unknown token.
        special = np.cumsum(np.insert(text.vocabulary.special[ids], 0, False))
        inside = owner[first] == owner[first + size - 1]
        first = first[inside & (special[first] == special[first + size])]
        yield span_hashes(ids.astype(np.uint64) + np.uint64(1), first, first + size), owner[first]
