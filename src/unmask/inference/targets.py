"""The probability of given words at a mask: all their pieces, by the chain rule of :mod:`unmask.inference.beam`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unmask.inference.beam import confident_first
from unmask.inference.predict import Row

Ask = Callable[[Sequence[Row], Sequence[np.ndarray]], list[tuple[list[float], np.ndarray]]]


class Question(NamedTuple):
    """Words of one length in one text.

    Attributes:
        row: the text with ``m`` masks in the gap.
        words: the ``m`` pieces of each word.
    """

    row: Row
    words: list[tuple[int, ...]]


def score_words(questions: Sequence[Question], ask: Ask, *, joint: bool) -> list[list[tuple[float, ...]]]:
    """Return for every word of every question the log-probabilities of its pieces, from left to right.

    Args:
        questions: in any order.
        ask: returns peaks and log-probabilities of given tokens (:meth:`unmask.inference.predict.MaskPredictor.of`).
        joint: whether a piece is looked at with those filled in that come before it in the order of confidence, or
            with all masked.
    """
    wanted = [np.unique(np.array(question.words, dtype=np.int64)) for question in questions]
    answers = ask([question.row for question in questions], wanted)
    scored = []
    for question, ids, (peaks, logs) in zip(questions, wanted, answers, strict=True):
        columns = np.searchsorted(ids, np.array(question.words, dtype=np.int64))
        scored.append(_Scored(question, confident_first(peaks), logs[np.arange(len(peaks)), columns]))
    if joint:
        for step in range(1, max((len(one.order) for one in scored), default=0)):
            _take_step([one for one in scored if step < len(one.order)], step, ask)
    return [[tuple(word) for word in one.logs.tolist()] for one in scored]


class _Scored(NamedTuple):
    """A question with the order of its masks, and ``float64 [words, m]`` log-probabilities so far."""

    question: Question
    order: list[int]
    logs: np.ndarray


def _take_step(scored: list[_Scored], step: int, ask: Ask) -> None:
    """Ask for one more piece of each word, the earlier ones of the order filled in."""
    rows, wanted = [], []
    for (row, words), order, _ in scored:
        done, place = order[:step], order[step]
        for word in words:
            input_ids = row.input_ids.copy()
            input_ids[row.places[done]] = [word[mask] for mask in done]
            rows.append(Row(input_ids, row.places[place : place + 1], (row.kinds[place],)))
            wanted.append(np.array([word[place]], dtype=np.int64))
    answers = iter(ask(rows, wanted))
    for one in scored:
        place = one.order[step]
        for number in range(len(one.question.words)):
            one.logs[number, place] = next(answers)[1][0, 0]
