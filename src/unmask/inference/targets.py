"""The probability of given words at a mask, over all their subwords, by the chain rule of :mod:`unmask.inference.beam`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unmask.inference.beam import confident_first
from unmask.inference.predict import PredictionRow

Predict = Callable[[Sequence[PredictionRow], Sequence[np.ndarray]], list[tuple[list[float], np.ndarray]]]


class TargetForm(NamedTuple):
    """Words of one length in one text.

    Attributes:
        row: the text with ``m`` masks in the gap.
        words: the ``m`` subwords of each word.
    """

    row: PredictionRow
    words: list[tuple[int, ...]]


def score_words(
    forms: Sequence[TargetForm], predict: Predict, *, joint: bool
) -> list[list[tuple[float, ...]]]:
    """Return for every word of every form the log-probabilities of its subwords, from left to right.

    Args:
        forms: in any order.
        predict: returns peaks and log-probabilities of given tokens (:meth:`unmask.inference.predict.MaskPredictor.log_probabilities`).
        joint: whether a subword is predicted with those filled in that come before it in the order of confidence, or
            with all masked.
    """
    wanted = [np.unique(np.array(form.words, dtype=np.int64)) for form in forms]
    predictions = predict([form.row for form in forms], wanted)
    scored = []
    for form, ids, (peaks, logs) in zip(forms, wanted, predictions, strict=True):
        columns = np.searchsorted(ids, np.array(form.words, dtype=np.int64))
        scored.append(_Scored(form, confident_first(peaks), logs[np.arange(len(peaks)), columns]))
    if joint:
        for step in range(1, max((len(one.order) for one in scored), default=0)):
            _take_step([one for one in scored if step < len(one.order)], step, predict)
    return [[tuple(word) for word in one.logs.tolist()] for one in scored]


class _Scored(NamedTuple):
    """A form with the order of its masks, and ``float64 [words, m]`` log-probabilities so far."""

    form: TargetForm
    order: list[int]
    logs: np.ndarray


def _take_step(scored: list[_Scored], step: int, predict: Predict) -> None:
    """Predict one more subword of each word, the earlier ones of the order filled in."""
    rows, wanted = [], []
    for (row, words), order, _ in scored:
        done, place = order[:step], order[step]
        for word in words:
            input_ids = row.input_ids.copy()
            input_ids[row.places[done]] = [word[mask] for mask in done]
            rows.append(PredictionRow(input_ids, row.places[place : place + 1], (row.kinds[place],)))
            wanted.append(np.array([word[place]], dtype=np.int64))
    predictions = iter(predict(rows, wanted))
    for one in scored:
        place = one.order[step]
        for number in range(len(one.form.words)):
            one.logs[number, place] = next(predictions)[1][0, 0]
