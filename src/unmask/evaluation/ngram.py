"""Baseline language models: the most frequent token, and a bidirectional interpolated n-gram model.

Both are counted on the token ids of the training text and give proper probabilities, so that their accuracy and loss
compare with those of the model. Tokens that are never targets, as unknown ones, are not counted as what is predicted; as
neighbours they are. The n-gram model interpolates the relative frequencies of a token in six contexts

    (left1, right1)   (left2, left1)   (right1, right2)   (left1)   (right1)   ()

with weights that depend on what was seen in them, estimated by EM on a slice of the training text that is left out of
the counts, with some tokens masked (Jelinek and Mercer, 1980, "Interpolated estimation of Markov source parameters from
sparse data"). On a small text wide contexts are rarely seen and get little weight.

Token sequences are flat: document ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``. Outside a document is the
boundary symbol, whose id is the vocabulary's size. :data:`UNKNOWN` marks a neighbour that is masked.

Shapes: T tokens, D documents, M targets, K = 6 contexts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from unmask.errors import ConfigError, DataError
from unmask.evaluation.bootstrap import Floats
from unmask.evaluation.context_counts import ContextCounts, Span
from unmask.evaluation.strata import Ids

UNKNOWN = -1
"""A neighbour that is masked: contexts with it are skipped."""
MAX_VOCABULARY = 2_000_000
"""Three ids are packed into one 63-bit key."""
MAX_TOKENS = 12_000_000
"""Tokens to count, at most, to bound time and memory: a few seconds, 300 MB for the targets of a run, 500 MB for any."""

_LEVELS = np.array([0.15, 0.3, 0.5, 0.8])
"""Bands of a pair of neighbours, each with its own weights: by the share of its most frequent token, where a pair that was
seen seldom counts less (:data:`_DOUBT`); a pair that was never seen has a band of its own."""
_DOUBT = 2.0
_SHAPE = (*[len(_LEVELS) + 2] * 3, 2, 2)
"""Buckets of weights: the bands of the three pairs, and whether the left and the right neighbour were seen."""
_MASKED_IN_TUNING = 6
"""One of so many tokens is masked where the weights are tuned."""
_TUNING_SHARE = 20
_TUNING_TOKENS = 60_000
_EM_STEPS = 25
_PRIOR = 20.0
"""Pseudo-counts that pull the weights of a rare combination of levels towards the average of all."""
_CANDIDATES = 8
_BLOCK = 32_768
_COUNTED_AT_ONCE = 1 << 20


class Prediction(NamedTuple):
    """Predictions of a baseline at M targets."""

    top1: Ids
    """The most probable token, int64 [M]."""
    log_probability: Floats
    """Natural logarithm of the true token's probability, float64 [M]."""


class Neighbours(NamedTuple):
    """The ids around M targets, int64 [M] each: the boundary symbol outside the document, or ``UNKNOWN``."""

    left2: Ids
    left1: Ids
    right1: Ids
    right2: Ids


def neighbours_at(
    tokens: NDArray[np.integer],
    offsets: NDArray[np.integer],
    positions: NDArray[np.integer],
    vocabulary_size: int,
    *,
    neighbours: Literal["true", "masked"] = "true",
) -> Neighbours:
    """Return the neighbours of the tokens at ``positions`` of the unmasked text.

    Args:
        tokens: ids [T]. offsets: [D + 1], from 0 to T.
        positions: the targets [M], as indices into ``tokens``.
        vocabulary_size: ids are below it.
        neighbours: ``"true"`` shows every neighbour as it was, which gives the baseline more than a model
            sees; ``"masked"`` hides those that are targets themselves, as masking does.

    Raises:
        DataError: offsets or ids do not fit.
    """
    _check(tokens, offsets, vocabulary_size)
    padded = _padded(tokens, offsets, vocabulary_size)
    positions = np.asarray(positions, dtype=np.int64)
    at = positions + 2 * np.searchsorted(offsets, positions, side="right")
    if neighbours == "masked":
        padded[at] = UNKNOWN
    return Neighbours(padded[at - 2], padded[at - 1], padded[at + 1], padded[at + 2])


class MostFrequent:
    """Predicts the most frequent token; its probabilities are the add-one smoothed frequencies."""

    what = "most frequent token of the training text"

    def fit(
        self, tokens: NDArray[np.integer], vocabulary_size: int, never: NDArray[np.bool_] | None = None
    ) -> Self:
        """Count ids [T], all below ``vocabulary_size``, but those that are ``never`` [V] targets.

        Raises:
            DataError: an id is not below ``vocabulary_size``.
        """
        _check(tokens, np.array([0, len(tokens)]), vocabulary_size)
        self._probabilities = _unigram(tokens, vocabulary_size, never)
        return self

    def predict(self, targets: NDArray[np.integer]) -> Prediction:
        """Return the prediction for true ids [M]."""
        top1 = np.full(len(targets), np.argmax(self._probabilities), dtype=np.int64)
        return Prediction(top1, np.log(self._probabilities[targets]))


class NGramBaseline:
    """An interpolated n-gram model of a token between its neighbours.

    Args:
        max_tokens: tokens to count, at most about this many, from documents spread evenly over the text.
    """

    def __init__(self, *, max_tokens: int = MAX_TOKENS) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        """Tokens that were counted."""

    @property
    def what(self) -> str:
        """A description in one line."""
        return f"interpolated bidirectional n-gram, two neighbours on each side, counted on {self.tokens:,} tokens"

    def fit(
        self,
        tokens: NDArray[np.integer],
        offsets: NDArray[np.integer],
        vocabulary_size: int,
        around: Neighbours | None = None,
        never: NDArray[np.bool_] | None = None,
    ) -> Self:
        """Count the training text and tune the weights; the same input gives the same model.

        Args:
            tokens: ids [T], all below ``vocabulary_size``. offsets: [D + 1], from 0 to T.
            vocabulary_size: V; the boundary symbol gets the id V.
            around: the true neighbours of all targets that will be predicted: only what occurs between these is kept,
                about a third of the memory. By default any target can be.
            never: ids [V] that are never targets, so that they are neighbours alone; by default there are none.

        Raises:
            ConfigError: the vocabulary is larger than :data:`MAX_VOCABULARY`.
            DataError: there are fewer than two tokens, or offsets or ids do not fit.
        """
        if not 1 <= vocabulary_size <= MAX_VOCABULARY:
            raise ConfigError(f"vocabulary_size must be 1 to {MAX_VOCABULARY}, not {vocabulary_size}")
        if len(tokens) < 2:
            raise DataError(
                f"an n-gram baseline needs at least two tokens of training text, not {len(tokens)}"
            )
        _check(tokens, offsets, vocabulary_size)
        tokens, offsets = _spread(tokens, offsets, self.max_tokens)
        self._base = vocabulary_size + 1
        self._never = np.append(np.zeros(vocabulary_size, dtype=bool) if never is None else never, True)
        cut = len(tokens) - max(1, min(len(tokens) // _TUNING_SHARE, _TUNING_TOKENS))
        self.tokens = int(np.count_nonzero(~self._never[tokens[:cut]]))
        tuning = tokens[cut:], _clipped(offsets, cut, len(tokens))
        wanted: list[Ids | None] = [None] * 5
        if around is not None:
            more = neighbours_at(*tuning, np.arange(len(tuning[0])), vocabulary_size)
            both = Neighbours(*(np.concatenate(parts) for parts in zip(around, more, strict=True)))
            wanted = [np.unique(contexts) for contexts in self._contexts(both)]
        self._count(tokens[:cut], _clipped(offsets, 0, cut), wanted)
        self._tune(*tuning)
        return self

    def predict(
        self,
        around: Neighbours,
        targets: NDArray[np.integer],
    ) -> Prediction:
        """Return the most probable token and the true one's log-probability at M targets.

        The most probable token is sought among the 8 most frequent ones of each context.
        """
        around_ids = np.stack([np.asarray(ids, dtype=np.int64) for ids in around])
        wanted: Ids = np.asarray(targets, dtype=np.int64)
        top1, log_probability = np.empty(len(targets), np.int64), np.empty(len(targets))
        for start in range(0, len(targets), _BLOCK):
            part = slice(start, start + _BLOCK)
            view = self._view(Neighbours(*around_ids[:, part]))
            top1[part] = self._best(view)
            given = self._mixture(view, np.arange(len(view.bucket)), wanted[part])
            log_probability[part] = np.log(given)
        return Prediction(top1, log_probability)

    def probabilities(self, *around: int) -> Floats:
        """Return the whole distribution [V] at one position between four neighbours; it sums to one."""
        view = self._view(Neighbours(*(np.array([value], dtype=np.int64) for value in around)))
        size = self._base - 1
        return self._mixture(view, np.zeros(size, np.int64), np.arange(size))

    def _count(
        self, tokens: NDArray[np.integer], offsets: NDArray[np.integer], wanted: list[Ids | None]
    ) -> None:
        padded = _padded(tokens, offsets, self._base - 1, np.int32)
        self._unigram = _unigram(tokens, self._base - 1, self._never[:-1])
        self._frequent = np.argsort(-self._unigram, kind="stable")[:_CANDIDATES]
        self._tables = [ContextCounts.empty(self._base) for _ in wanted]
        for begin in range(2, len(padded) - 2, _COUNTED_AT_ONCE):
            block = padded[begin - 2 : begin + _COUNTED_AT_ONCE + 2].astype(np.int64)
            middle = block[2:-2]
            around = Neighbours(block[:-4], block[1:-3], block[3:-1], block[4:])
            for table, keys, known in zip(self._tables, self._contexts(around), wanted, strict=True):
                keys *= self._base
                keys += middle
                table.add(keys[~self._never[middle]], known)

    def _contexts(self, around: Neighbours) -> Iterator[Ids]:
        """Yield the number of each context, pairs first; with ``UNKNOWN`` in it, a number never counted."""
        left2, left1, right1, right2 = around
        for a, b in ((left1, right1), (left2, left1), (right1, right2)):
            yield np.where((a < 0) | (b < 0), self._base**2, a * self._base + b)
        for single in (left1, right1):
            yield np.where(single < 0, self._base, single)

    def _view(self, around: Neighbours) -> _View:
        """Look up the contexts of M targets and the weights that follow from how often they were seen."""
        contexts = list(self._contexts(around))
        spans = [table.span(context) for table, context in zip(self._tables, contexts, strict=True)]
        totals = np.stack([table.totals(span) for table, span in zip(self._tables, spans, strict=True)])
        peaks = np.stack([table.peaks(span) for table, span in zip(self._tables[:3], spans[:3], strict=True)])
        return _View(contexts, spans, totals, _bucket(totals, peaks))

    def _component_probabilities(self, view: _View, rows: Ids, tokens: Ids) -> Floats:
        """Return what each component gives to ``tokens`` at ``rows`` of the view, [K, len(rows)]."""
        result = np.empty((len(self._tables) + 1, len(rows)))
        for k, table in enumerate(self._tables):
            counts = table.counts_of(view.contexts[k][rows], tokens)
            result[k] = counts / np.maximum(view.totals[k][rows], 1)
        result[-1] = self._unigram[tokens]
        return result

    def _mixture(self, view: _View, rows: Ids, tokens: Ids) -> Floats:
        weights = self._weights[:, view.bucket[rows]]
        mixed: Floats = np.einsum("kn,kn->n", weights, self._component_probabilities(view, rows, tokens))
        return mixed

    def _best(self, view: _View) -> Ids:
        """Return the most probable candidate of each row; of equal ones the smallest id."""
        tops = [table.tops(span, _CANDIDATES) for table, span in zip(self._tables, view.spans, strict=True)]
        rows_count = len(view.bucket)
        usual = np.broadcast_to(self._frequent, (rows_count, len(self._frequent)))
        candidates = np.sort(np.concatenate([*tops, usual], axis=1), axis=1)
        fresh = candidates >= 0
        fresh[:, 1:] &= candidates[:, 1:] != candidates[:, :-1]
        rows, columns = np.nonzero(fresh)
        scores = np.full(candidates.shape, -1.0)
        scores[rows, columns] = self._mixture(view, rows, candidates[rows, columns])
        best: Ids = candidates[np.arange(rows_count), np.argmax(scores, axis=1)]
        return best

    def _tune(self, tokens: NDArray[np.integer], offsets: NDArray[np.integer]) -> None:
        """Fit the weights on a slice that was not counted."""
        drawn = np.random.default_rng(0).integers(_MASKED_IN_TUNING, size=len(tokens))
        drawn[self._never[tokens]] = -1  # never masked
        parts = [np.flatnonzero(drawn == number) for number in range(_MASKED_IN_TUNING)]
        around = [neighbours_at(tokens, offsets, part, self._base - 1, neighbours="masked") for part in parts]
        view = self._view(Neighbours(*map(np.concatenate, zip(*around, strict=True))))
        targets = tokens[np.concatenate(parts)].astype(np.int64)
        given = self._component_probabilities(view, np.arange(len(targets)), targets)
        self._weights = _interpolation_weights(view.bucket, given)


class _View(NamedTuple):
    """The contexts of M targets, looked up in the tables."""

    contexts: list[Ids]
    spans: list[Span]
    totals: Ids
    """How often each context was seen, [K - 1, M]."""
    bucket: Ids
    """The set of weights of each, [M]."""


def _check(tokens: NDArray[np.integer], offsets: NDArray[np.integer], vocabulary_size: int) -> None:
    offsets = np.asarray(offsets, dtype=np.int64)  # differences of unsigned ones would wrap
    size = len(tokens)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 0).any():
        raise DataError(
            f"offsets must rise from 0 to the number of tokens, {size}; count the documents again"
        )
    low, high = (int(tokens.min()), int(tokens.max())) if size else (0, 0)
    if low < 0 or high >= vocabulary_size:
        raise DataError(
            f"token ids must lie between 0 and {vocabulary_size - 1}, not at {low if low < 0 else high}; "
            "is this the vocabulary that made them?"
        )


def _padded(
    tokens: NDArray[np.integer],
    offsets: NDArray[np.integer],
    boundary: int,
    dtype: type[np.signedinteger[Any]] = np.int64,
) -> NDArray[Any]:
    """Return the ids with two boundary symbols around each document, [T + 2 (D + 1)]."""
    offsets = np.asarray(offsets, dtype=np.int64)
    padded = np.full(len(tokens) + 2 * len(offsets), boundary, dtype=dtype)
    real = np.ones(len(padded), dtype=bool)
    edges = offsets + 2 * np.arange(len(offsets))
    real[edges] = real[edges + 1] = False
    padded[real] = tokens
    return padded


def _unigram(
    tokens: NDArray[np.integer], vocabulary_size: int, never: NDArray[np.bool_] | None = None
) -> Floats:
    """Return add-one smoothed frequencies [V] of what can be a target: every token stays possible."""
    counts = np.bincount(tokens, minlength=vocabulary_size)
    if never is not None:
        counts[never] = 0
    smoothed: Floats = (counts + 1.0) / (counts.sum() + vocabulary_size)
    return smoothed


def _spread(
    tokens: NDArray[np.integer], offsets: NDArray[np.integer], limit: int
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return every n-th document, so that about ``limit`` tokens are left."""
    stride = -(-len(tokens) // limit)
    if stride == 1:
        return np.asarray(tokens), np.asarray(offsets)
    taken = range(0, len(offsets) - 1, stride)
    parts = [np.asarray(tokens[offsets[i] : offsets[i + 1]]) for i in taken]
    ends = np.cumsum([0, *map(len, parts)])
    return np.concatenate(parts)[:limit], _clipped(ends, 0, min(limit, int(ends[-1])))


def _clipped(offsets: NDArray[np.integer], start: int, end: int) -> NDArray[np.integer]:
    """Return the offsets of the documents between two positions; a document that crosses one is split there."""
    return np.unique(np.clip(offsets, start, end)) - start


def _bucket(totals: Ids, peaks: Ids) -> Ids:
    """Number the bucket of each target, [M], from how often its contexts were seen, [K - 1, M], and the pairs' most
    frequent tokens in them, [3, M]."""
    pairs = np.where(
        totals[:3] > 0, 1 + np.searchsorted(_LEVELS, peaks / (totals[:3] + _DOUBT), side="right"), 0
    )
    numbers: Ids = np.ravel_multi_index([*pairs, *(totals[-2:] > 0)], _SHAPE)
    return numbers


def _interpolation_weights(buckets: Ids, given: Floats) -> Floats:
    """Return weights [K, buckets], columns summing to one, that make ``given`` [K, n] most probable (EM).

    They are fitted for all buckets together, then for those with the same contexts seen, then for each, and every time
    the ones before are the prior.
    """
    levels = np.indices(_SHAPE).reshape(len(_SHAPE), -1)
    seen = np.concatenate([levels > 0, np.ones((1, levels.shape[1]), bool)])  # the unigram always counts
    weights = seen / seen.sum(axis=0)
    alike = 2 ** np.arange(len(_SHAPE)) @ (levels > 0)
    for group in (np.zeros_like(alike), alike, np.arange(len(alike))):
        prior = _PRIOR * weights
        for _ in range(_EM_STEPS):
            shares = weights[:, buckets] * given
            shares /= shares.sum(axis=0)
            credit = np.stack([np.bincount(group[buckets], row, len(group))[group] for row in shares])
            weights = np.where(seen, credit, 0) + prior
            weights /= weights.sum(axis=0)
    return weights
