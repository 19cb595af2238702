"""Predict tokens at masks: sequences of any length go through the model in packed batches, and the best ids come back.

The LM head runs at the masks and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.data.batches import Batch
from unmask.data.packing import frame_positions
from unmask.model.softmax import check_finite

if TYPE_CHECKING:
    from unmask.model.base import LanguageModel

ANY = 0
"""The kind of a mask that any token but a control token may fill."""

TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 32768}
_LOGITS_AT_ONCE = 1 << 26

ScoredToken = tuple[int, float]
"""A token id, and the natural logarithm of its probability."""


class PredictionRow(NamedTuple):
    """One sequence, and the positions to predict in it.

    Attributes:
        input_ids: ``int64 [n]``.
        places: ``int64 [m]``, ascending.
        kinds: for each place its allowed tokens: a number that :meth:`MaskPredictor.add_kind` returned.
    """

    input_ids: np.ndarray
    places: np.ndarray
    kinds: Sequence[int]


class RowPredictions(NamedTuple):
    """The predictions at the places of one row.

    Attributes:
        peaks: log-probability of the best token of any kind at each place.
        best: the best tokens of the allowed kind at each place, best first; equals go by id.
    """

    peaks: list[float]
    best: list[list[ScoredToken]]


class MaskPredictor:
    """Predicts tokens with one model.

    Args:
        model: the model.
        candidates: ``bool [size]``, the tokens of kind :data:`ANY`.
    """

    def __init__(self, model: LanguageModel, candidates: np.ndarray) -> None:
        self.model, self.candidates = model, candidates
        self._kinds = [candidates]
        self._tables: list[Tensor] = []

    def add_kind(self, allowed: np.ndarray) -> int:
        """Make a kind of place that only ``bool [size]`` tokens may fill, and return its number."""
        self._kinds.append(allowed & self.candidates)
        return len(self._kinds) - 1

    def best(
        self, rows: Sequence[PredictionRow], most: int, *, batch_size: int | None = None
    ) -> list[RowPredictions]:
        """Return the ``most`` best tokens at every place of every row.

        Args:
            rows: in any order.
            most: tokens wanted at each place.
            batch_size: most rows at once; by default as many as have 4,096 tokens, on a GPU 32,768.
        """
        predictions: list[RowPredictions] = [RowPredictions([], [])] * len(rows)
        with torch.inference_mode():
            for group in self._groups(rows, batch_size):
                logs = self._logs(rows, group)
                kinds = [kind for number in group for kind in rows[number].kinds]
                peaks, best = self._top(logs, kinds, min(most, logs.shape[1]))
                for number, part in _shares(rows, group):
                    predictions[number] = RowPredictions(peaks[part], best[part])
        return predictions

    def log_probabilities(
        self, rows: Sequence[PredictionRow], wanted: Sequence[np.ndarray], *, batch_size: int | None = None
    ) -> list[tuple[list[float], np.ndarray]]:
        """Return for every row its peaks, and the log-probabilities ``float64 [m, k]`` of ``int64 [k]`` tokens."""
        predictions: list[tuple[list[float], np.ndarray]] = [([], np.zeros(0))] * len(rows)
        with torch.inference_mode():
            for group in self._groups(rows, batch_size):
                logs = self._logs(rows, group)
                peaks = logs.index_fill(1, self._never, -math.inf).amax(-1).tolist()
                check_finite(peaks)
                for number, part in _shares(rows, group):
                    ids = torch.from_numpy(wanted[number]).to(logs.device)
                    found = logs[part].index_select(1, ids).cpu().double().numpy()
                    predictions[number] = (peaks[part], found)
        return predictions

    def _logs(self, rows: Sequence[PredictionRow], group: list[int]) -> Tensor:
        """Return fp32 ``[M, V]`` log-probabilities at the places of some rows."""
        logits = self.model.target_logits(_batch([rows[number] for number in group], group)).float()
        while len(self._tables) < len(self._kinds):
            self._tables.append(_barred(self._kinds[len(self._tables)], logits))
        return logits.log_softmax(-1)

    def _groups(self, rows: Sequence[PredictionRow], batch_size: int | None) -> Iterator[list[int]]:
        """Yield row numbers from long rows to short, as a batch wants them, as many at once as memory allows."""
        budget = TOKENS_AT_ONCE["cuda" if self.model.device.type == "cuda" else "cpu"]
        group: list[int] = []
        tokens = places = 0
        for number in sorted(range(len(rows)), key=lambda number: -len(rows[number].input_ids)):
            tokens, places = tokens + len(rows[number].input_ids), places + len(rows[number].places)
            full = tokens > budget if batch_size is None else len(group) == batch_size
            if group and (full or places * len(self.candidates) > _LOGITS_AT_ONCE):
                yield group
                group, tokens, places = [], len(rows[number].input_ids), len(rows[number].places)
            group.append(number)
        if group:
            yield group

    def _top(
        self, logs: Tensor, kinds: Sequence[int], most: int
    ) -> tuple[list[float], list[list[ScoredToken]]]:
        """Return peaks and the best tokens of ``[M, V]`` log-probabilities, which are overwritten."""
        logs.index_fill_(1, self._never, -math.inf)
        peaks = None
        if any(kinds):
            peaks = logs.amax(-1).tolist()
            logs.masked_fill_(torch.stack([self._tables[kind] for kind in kinds]), -math.inf)
        values, ids = logs.topk(most, dim=-1)
        scores = values.tolist()
        best = [_in_order(*pair) for pair in zip(ids.tolist(), scores, strict=True)]
        peaks = peaks or [row[0] for row in scores]
        check_finite(peaks)
        return peaks, best

    @cached_property
    def _never(self) -> Tensor:
        """Columns of the logits that no token but a control token has, or none at all."""
        return self._tables[ANY].nonzero()[:, 0]


def _shares(rows: Sequence[PredictionRow], group: list[int]) -> Iterator[tuple[int, slice]]:
    """Yield the rows of a group with their share of its places."""
    end = 0
    for number in group:
        begin, end = end, end + len(rows[number].places)
        yield number, slice(begin, end)


def _barred(allowed: np.ndarray, logits: Tensor) -> Tensor:
    """Return ``bool [V]``: the tokens that are not allowed, rows of the model without a token among them."""
    barred = torch.ones(logits.shape[1], dtype=torch.bool)
    barred[: len(allowed)] = torch.from_numpy(~allowed)
    return barred.to(logits.device)


def _in_order(ids: list[int], values: list[float]) -> list[ScoredToken]:
    """Return pairs, best first, equals by id, without tokens that are not allowed."""
    found = sorted(zip(ids, values, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return found if found[-1][1] > -math.inf else [pair for pair in found if pair[1] > -math.inf]


def _batch(rows: list[PredictionRow], numbers: list[int]) -> Batch:
    """Lay rows end to end."""
    if len(rows) == 1:  # faster, for one text after another
        ids, places, _ = rows[0]
        cu_seqlens = np.array([0, len(ids)], dtype=np.int32)
        return Batch(ids, np.arange(len(ids)), cu_seqlens, places, ids[places], np.array(numbers))
    cuts = np.cumsum([0, *(len(row.input_ids) for row in rows)])
    input_ids = np.concatenate([row.input_ids for row in rows])
    index = np.concatenate([start + row.places for start, row in zip(cuts[:-1], rows, strict=True)])
    return Batch(
        input_ids, frame_positions(cuts), cuts.astype(np.int32), index, input_ids[index], np.array(numbers)
    )
