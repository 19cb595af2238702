"""The two baselines, fitted on the training text and asked for the very tokens that a model was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from unmask.data.batches import Batch, TextSource
from unmask.evaluation.baselines import MostFrequent, NGramBaseline, figures, neighbours_at

_MOST_TOKENS = 12_000_000


def heldout_baselines(text: TextSource, batches: Iterable[Batch]) -> dict[str, dict[str, Any]]:
    """Fit the baselines on a training text and score held-out batches.

    The n-gram model is asked twice: once seeing what a model sees, where neighbours may be masked too, and once
    with every neighbour as it was, which is more than any model gets.

    Returns:
        ``accuracy`` and ``loss`` (nats) of ``most_frequent_token``, ``ngram`` and ``ngram_true_neighbours``.
    """
    size = text.vocabulary.size
    tokens, offsets = _training_tokens(text)
    heldout, starts, positions = _unframed(text, batches)
    targets = heldout[positions]
    frequent = MostFrequent().fit(tokens, size)
    ngram = NGramBaseline(reach=1, max_tokens=_MOST_TOKENS).fit(tokens, offsets, size)
    result = {"most_frequent_token": {**figures(frequent.predict(targets), targets), "what": frequent.what}}
    for name, mode, what in (
        ("ngram", "masked", "seeing what the model sees"),
        ("ngram_true_neighbours", "true", "seeing neighbours that the model does not"),
    ):
        around = neighbours_at(heldout, starts, positions, size, neighbours=mode)  # type: ignore[arg-type]
        result[name] = {**figures(ngram.predict(*around, targets), targets), "what": f"{ngram.what}, {what}"}
    return result


def _training_tokens(text: TextSource) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat tokens of the training documents, up to a bound, and where documents begin."""
    lengths = text.corpus.lengths[text.documents]
    order = np.argsort(text.corpus.keys[text.documents], kind="stable")
    order = np.sort(order[: int(np.searchsorted(np.cumsum(lengths[order]), _MOST_TOKENS)) + 1])
    lengths = lengths[order]
    tokens = text.corpus.gather(text.documents[order], np.zeros(len(order), dtype=np.int64), lengths)
    return tokens, np.concatenate([[0], np.cumsum(lengths)])


def _unframed(text: TextSource, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the true tokens of batches without special tokens, where sequences begin, and the targets' places."""
    prefix, suffix = len(text.vocabulary.prefix), len(text.vocabulary.suffix)
    pieces, lengths, places, before = [], [], [], 0
    for batch in batches:
        original = batch.input_ids.copy()
        original[batch.target_index] = batch.target_ids
        inside = np.ones(len(original), dtype=bool)
        for place in range(prefix):
            inside[batch.cu_seqlens[:-1] + place] = False
        for place in range(suffix):
            inside[batch.cu_seqlens[1:] - 1 - place] = False
        places.append(before + np.cumsum(inside)[batch.target_index] - 1)
        pieces.append(original[inside])
        lengths.append(np.diff(batch.cu_seqlens) - prefix - suffix)
        before += len(pieces[-1])
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return np.concatenate(pieces), starts, np.concatenate(places)
