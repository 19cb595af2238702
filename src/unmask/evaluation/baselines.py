"""The baselines of an evaluation: unigram and n-gram models of a training text, scored on the targets of the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.data.batches import Batch, TextSource
from unmask.errors import plural
from unmask.evaluation.bootstrap import Floats, resampling_units
from unmask.evaluation.heldout import evaluation_batches
from unmask.evaluation.ngram import (
    MAX_TOKENS,
    MostFrequent,
    Neighbours,
    NGramBaseline,
    Prediction,
    neighbours_at,
)
from unmask.evaluation.strata import places

NAMES = ("most_frequent_token", "ngram", "ngram_true_neighbours")
FOLDS = 5
_SORTED = 1 << 17  # documents

_SEES = {
    "ngram": "seeing what the model sees",
    "ngram_true_neighbours": "seeing neighbours that the model does not",
}


class Baselines:
    """The most frequent token and the n-gram model, counted on a text.

    The n-gram model predicts twice: from the neighbours that a model sees, which may be masked, and from the true
    neighbours, which is more than a model sees.
    """

    def __init__(self, text: TextSource, around: Neighbours | None = None) -> None:
        """Count; ``around`` are the true neighbours of all targets that will be scored, by default of any."""
        self.size = text.vocabulary.size
        tokens, offsets = _training_tokens(text)
        never = text.vocabulary.special  # unknown tokens too: they are no targets
        self.frequent = MostFrequent().fit(tokens, self.size, never)
        self.ngram = NGramBaseline().fit(tokens, offsets, self.size, around, never)

    @property
    def what(self) -> dict[str, str]:
        """A description of each, by name."""
        lines = {name: f"{self.ngram.what}, {sees}" for name, sees in _SEES.items()}
        return {NAMES[0]: self.frequent.what, **lines}

    def columns(
        self, text: TextSource, batch: Batch, chosen: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[str, Floats]]:
        """Yield, by name, ``[M, 3]``: one, the loss and whether the prediction is right, at the targets of a batch.

        Args:
            text: the source of the batch.
            batch: with its targets.
            chosen: ``bool``, the targets to score; by default all.
        """
        tokens, starts, positions = _unframed(text, batch)
        rows = np.arange(len(positions)) if chosen is None else np.flatnonzero(chosen)
        targets = batch.target_ids[rows]
        yield NAMES[0], _columns(self.frequent.predict(targets), targets)
        for name, mode in zip(NAMES[1:], ("masked", "true"), strict=True):
            around = neighbours_at(tokens, starts, positions, self.size, neighbours=mode)  # type: ignore[arg-type]
            prediction = self.ngram.predict(Neighbours(*(ids[rows] for ids in around)), targets)
            yield name, _columns(prediction, targets)


def heldout_baselines(text: TextSource, batches: Callable[[], Iterable[Batch]]) -> dict[str, dict[str, Any]]:
    """Fit the baselines on a training text and score them on held-out batches, which must have a target.

    Args:
        text: the training text.
        batches: returns the batches, the same ones every time.

    Returns:
        ``accuracy``, ``loss`` (nats) and ``what`` of ``most_frequent_token``, ``ngram`` and
        ``ngram_true_neighbours``.
    """
    around = [neighbours_at(*_unframed(text, batch), text.vocabulary.size) for batch in batches()]
    fitted = Baselines(text, Neighbours(*map(np.concatenate, zip(*around, strict=True))))
    sums = dict.fromkeys(NAMES, np.zeros(3))
    for batch in batches():
        for name, columns in fitted.columns(text, batch):
            sums[name] = sums[name] + columns.sum(axis=0)
    return {
        name: {"accuracy": float(right / count), "loss": float(loss / count), "what": fitted.what[name]}
        for name, (count, loss, right) in sums.items()
    }


class BaselineSums(NamedTuple):
    """The baselines at the targets of an evaluation.

    Attributes:
        sums: by name, ``float64 [U, 3]``: targets, loss and right predictions of each resampling unit.
        what: a description of each, by name.
        fitted_on: a description of the text that they were counted on.
    """

    sums: dict[str, Floats]
    what: dict[str, str]
    fitted_on: str


@dataclass(frozen=True)
class NoBaselines:
    """There is no text to count baselines on; ``why`` says so."""

    why: str


def tally_baselines(
    source: TextSource, train: TextSource | None, most: int | None = None
) -> BaselineSums | NoBaselines:
    """Score the baselines on the targets of :func:`~unmask.evaluation.heldout.tally`.

    Args:
        source: the text.
        train: the text to count on; without it, each document of ``source`` is scored by counts of the others.
        most: as for ``tally``.
    """
    if train is not None:
        fitted_on = f"the training text given ({plural(train.sequences.text_tokens, 'token')})"
        folds: list[tuple[TextSource, NDArray[np.bool_] | None]] = [(train, None)]
    else:
        folds = _folds(source)
        fitted_on = f"the other documents of the evaluated text ({len(folds)} parts, each scored by counts of the others)"
    if not folds:
        return NoBaselines(
            "there is no second document with text to count on; name a training text with --train-data"
        )
    unit = resampling_units(source.corpus.keys[source.documents])
    sums = {name: np.zeros((int(unit.max()) + 1, 3)) for name in NAMES}
    for text, documents in folds:
        fitted = Baselines(text)
        for batch in evaluation_batches(source, most):
            document = places(source, batch).document
            chosen = np.ones(len(document), dtype=bool) if documents is None else documents[document]
            if chosen.any():
                for name, columns in fitted.columns(source, batch, chosen):
                    np.add.at(sums[name], unit[document[chosen]], columns)
    what = fitted.what
    return BaselineSums(
        sums, what if train else {name: _without_counts(line) for name, line in what.items()}, fitted_on
    )


def _folds(source: TextSource) -> list[tuple[TextSource, NDArray[np.bool_] | None]]:
    """Return folds of the documents (``bool [D]``), each with the text of all others; equal texts share a fold.

    The list is empty where a fold has no other text to count on.
    """
    lengths = source.corpus.lengths[source.documents]
    _, rank = np.unique(source.corpus.keys[source.documents], return_inverse=True)
    parts = [rank % FOLDS == number for number in range(min(FOLDS, int(rank.max()) + 1))]
    if min(lengths[~inside].sum() for inside in parts) < 2:
        return []
    length = source.sequences.split.body + source.vocabulary.overhead
    corpus, vocabulary, masking = source.corpus, source.vocabulary, source.masking
    return [
        (TextSource(corpus, source.documents[~inside], vocabulary, masking, length), inside)
        for inside in parts
    ]


def _without_counts(line: str) -> str:
    """The description of a baseline without what holds for one fold alone."""
    return re.sub(r", counted on [\d,]+ tokens", "", line).replace(
        "of the training text", "of the other documents"
    )


def _columns(prediction: Prediction, targets: NDArray[np.int64]) -> Floats:
    return np.stack([np.ones(len(targets)), -prediction.log_probability, prediction.top1 == targets], axis=1)


def _training_tokens(text: TextSource) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of the training documents end to end, up to a limit, and where documents begin."""
    documents = np.sort(_with_least_keys(text))
    dtype = np.min_scalar_type(text.vocabulary.size)
    found = [(lengths, ids.astype(dtype)) for lengths, ids in text.corpus.read(documents)]
    lengths, tokens = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return tokens, np.concatenate([[0], np.cumsum(lengths)])


def _with_least_keys(text: TextSource) -> np.ndarray:
    """Return ``int64`` documents in the order of their keys, until they hold as many tokens as are counted."""
    chosen, keys, waiting = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64), 0
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    bound = np.uint64(2**64 - 1)
    for block in text.documents.blocks():
        found = text.corpus.keys[block]
        parts.append((block[found <= bound], found[found <= bound]))
        waiting += len(parts[-1][0])
        if waiting > max(_SORTED, len(keys) // 4):
            chosen, keys, bound = _least(text, [(chosen, keys), *parts])
            parts, waiting = [], 0
    return _least(text, [(chosen, keys), *parts])[0]


def _least(
    text: TextSource, parts: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.uint64]:
    """Return the documents of the least keys that hold few enough tokens, their keys, and the highest that may be chosen."""
    documents, keys = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(keys, kind="stable")
    total = np.cumsum(text.corpus.lengths[documents[order]])
    most = max(1, int(np.searchsorted(total, MAX_TOKENS, side="right")))
    full, order = most < len(order), order[:most]
    return documents[order], keys[order], keys[order[-1]] if full else np.uint64(2**64 - 1)


def _unframed(text: TextSource, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the true tokens of a batch without special tokens, the starts of sequences, and the targets' positions."""
    prefix, suffix = len(text.vocabulary.prefix), len(text.vocabulary.suffix)
    original = batch.input_ids.copy()
    original[batch.target_index] = batch.target_ids
    inside = np.ones(len(original), dtype=bool)
    for place in range(prefix):
        inside[batch.cu_seqlens[:-1] + place] = False
    for place in range(suffix):
        inside[batch.cu_seqlens[1:] - 1 - place] = False
    starts = np.concatenate([[0], np.cumsum(np.diff(batch.cu_seqlens) - prefix - suffix)])
    return original[inside], starts, np.cumsum(inside)[batch.target_index] - 1
