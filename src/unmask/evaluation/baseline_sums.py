"""The two baselines, fitted on a training text and asked for the very tokens that a model was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.data.batches import Batch, TextSource
from unmask.evaluation.baselines import MostFrequent, Neighbours, NGramBaseline, Prediction, neighbours_at
from unmask.evaluation.bootstrap import resampling_units
from unmask.evaluation.heldout import evaluation_batches

NAMES = ("most_frequent_token", "ngram", "ngram_true_neighbours")
FOLDS = 5

_MOST_TOKENS = 12_000_000
_SEES = {
    "ngram": "seeing what the model sees",
    "ngram_true_neighbours": "seeing neighbours that the model does not",
}


class Baselines:
    """Both baselines, fitted on a text.

    The n-gram model is asked twice: once seeing what a model sees, where neighbours may be masked too, and once
    with every neighbour as it was, which is more than any model gets.
    """

    def __init__(self, text: TextSource) -> None:
        self.size = text.vocabulary.size
        tokens, offsets = _training_tokens(text)
        self.frequent = MostFrequent().fit(tokens, self.size)
        self.ngram = NGramBaseline(reach=1, max_tokens=_MOST_TOKENS).fit(tokens, offsets, self.size)

    @property
    def what(self) -> dict[str, str]:
        """A line about each, by name."""
        lines = {name: f"{self.ngram.what}, {sees}" for name, sees in _SEES.items()}
        return {NAMES[0]: self.frequent.what, **lines}

    def ask(
        self, text: TextSource, batch: Batch, chosen: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[str, Prediction]]:
        """Yield, by name, what each says at the targets of a batch of ``text``, or at ``bool [M]`` chosen ones."""
        tokens, starts, positions = _unframed(text, batch)
        rows = np.arange(len(positions)) if chosen is None else np.flatnonzero(chosen)
        targets = batch.target_ids[rows]
        yield NAMES[0], self.frequent.predict(targets)
        for name, mode in zip(NAMES[1:], ("masked", "true"), strict=True):
            around = neighbours_at(tokens, starts, positions, self.size, neighbours=mode)  # type: ignore[arg-type]
            yield name, self.ngram.predict(*Neighbours(*(ids[rows] for ids in around)), targets)


def heldout_baselines(text: TextSource, batches: Iterable[Batch]) -> dict[str, dict[str, Any]]:
    """Fit the baselines on a training text and score held-out batches, with at least one target in all.

    Returns:
        ``accuracy``, ``loss`` (nats) and ``what`` of ``most_frequent_token``, ``ngram`` and
        ``ngram_true_neighbours``.
    """
    fitted = Baselines(text)
    sums = dict.fromkeys(NAMES, np.zeros(3))
    for batch in batches:
        for name, prediction in fitted.ask(text, batch):
            sums[name] = sums[name] + _columns(prediction, batch.target_ids).sum(axis=0)
    return {
        name: {"accuracy": float(right / asked), "loss": float(loss / asked), "what": fitted.what[name]}
        for name, (asked, loss, right) in sums.items()
    }


class BaselineSums(NamedTuple):
    """What the baselines make of the targets of an evaluation.

    Attributes:
        sums: by name, ``float64 [U, 3]``: targets, loss and right ones of each resampling unit.
        what: a line about each, by name.
        fitted_on: what they were counted on, in words.
    """

    sums: dict[str, NDArray[np.float64]]
    what: dict[str, str]
    fitted_on: str


@dataclass(frozen=True)
class NoBaselines:
    """There is nothing that the baselines could be counted on; ``why`` says so."""

    why: str


def tally_baselines(
    source: TextSource, train: TextSource | None, most: int | None = None
) -> BaselineSums | NoBaselines:
    """Ask the baselines for what :func:`~unmask.evaluation.heldout.tally` asks a model.

    Args:
        source: the text.
        train: what they are counted on; without it, each document of the text is scored by counts of others.
        most: as for ``tally``.
    """
    if train is not None:
        fitted_on = f"the training text given ({int(train.corpus.lengths[train.documents].sum()):,} tokens)"
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
        _add(sums, fitted, source, unit, documents, most)
    what = fitted.what
    return BaselineSums(
        sums, what if train else {name: _anywhere(line) for name, line in what.items()}, fitted_on
    )


def _add(
    sums: dict[str, NDArray[np.float64]],
    fitted: Baselines,
    source: TextSource,
    unit: NDArray[np.int64],
    documents: NDArray[np.bool_] | None,
    most: int | None,
) -> None:
    """Add what fitted baselines say at the targets of some documents, or of all."""
    for batch in evaluation_batches(source, most):
        sequence = np.searchsorted(batch.cu_seqlens, batch.target_index, side="right") - 1
        document = source.sequences.locate(batch.sequence_ids)[0][sequence]
        chosen = np.ones(len(document), dtype=bool) if documents is None else documents[document]
        if chosen.any():
            for name, prediction in fitted.ask(source, batch, chosen):
                np.add.at(sums[name], unit[document[chosen]], _columns(prediction, batch.target_ids[chosen]))


def _folds(source: TextSource) -> list[tuple[TextSource, NDArray[np.bool_] | None]]:
    """Return parts of the documents (``bool [D]``), each with the text of all others; equal texts share a part.

    The list is empty where a part has nothing beside it to count on.
    """
    lengths = source.corpus.lengths[source.documents]
    _, rank = np.unique(source.corpus.keys[source.documents], return_inverse=True)
    parts = [rank % FOLDS == number for number in range(min(FOLDS, int(rank.max()) + 1))]
    if min(lengths[~inside].sum() for inside in parts) < 2:
        return []
    length = source.sequences.cut.body + source.vocabulary.overhead
    corpus, vocabulary, masking = source.corpus, source.vocabulary, source.masking
    return [
        (TextSource(corpus, source.documents[~inside], vocabulary, masking, length), inside)
        for inside in parts
    ]


def _anywhere(line: str) -> str:
    """A line about a baseline without what is true of one part alone."""
    return re.sub(r", counted on [\d,]+ tokens", "", line).replace(
        "of the training text", "of the other documents"
    )


def _columns(prediction: Prediction, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``[M, 3]``: one, the loss, and whether the most probable token is the true one."""
    return np.stack([np.ones(len(targets)), -prediction.log_probability, prediction.top1 == targets], axis=1)


def _training_tokens(text: TextSource) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat tokens of the training documents, up to a bound, and where documents begin."""
    lengths = text.corpus.lengths[text.documents]
    order = np.argsort(text.corpus.keys[text.documents], kind="stable")
    order = np.sort(order[: int(np.searchsorted(np.cumsum(lengths[order]), _MOST_TOKENS)) + 1])
    lengths = lengths[order]
    tokens = text.corpus.gather(text.documents[order], np.zeros(len(order), dtype=np.int64), lengths)
    return tokens, np.concatenate([[0], np.cumsum(lengths)])


def _unframed(text: TextSource, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the true tokens of a batch without special tokens, where sequences begin, and the targets' places."""
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
