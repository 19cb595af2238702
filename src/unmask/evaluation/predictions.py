"""Predictions of a model at masked tokens: loss, rank and confidence of each target, the source of all metrics.

Shapes: M targets, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.data.batches import Batch
from unmask.model.base import LanguageModel
from unmask.model.float64 import in_float64
from unmask.model.softmax import check_finite, loss_blocks
from unmask.model.trial import trial_batch

_RUN = (
    128  # columns whose maximum is found before their largest: on a CPU that is three times as fast as argmax
)


class TargetPredictions(NamedTuple):
    """Predictions at M targets.

    Attributes:
        target_ids: ``int64 [M]``, the true tokens.
        loss: ``float64 [M]`` cross-entropy in nats.
        rank: ``int64 [M]`` rank of the true token, from 1; of equally probable tokens the smaller id comes first, so
            that a model with constant logits is not right by a tie. A NaN ranks above every number.
        guess: ``int64 [M]``, the most probable token.
        confidence: ``float64 [M]``, its probability.
    """

    target_ids: NDArray[np.int64]
    loss: NDArray[np.float64]
    rank: NDArray[np.int64]
    guess: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @staticmethod
    def join(parts: Sequence[TargetPredictions]) -> TargetPredictions:
        """Concatenate predictions, of one part at least."""
        return TargetPredictions(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def require_finite(self) -> TargetPredictions:
        """Return the predictions themselves.

        Raises:
            DivergedError: a loss is NaN or infinite.
        """
        check_finite(self.loss)
        return self


def predict_targets(
    model: LanguageModel, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, TargetPredictions]]:
    """Run a model in evaluation mode; yield each batch with the predictions at its targets, of which it may have none."""
    with model.evaluating():
        for batch in batches:
            if len(batch.target_ids):
                yield batch, _predict(model, batch)
            else:
                if model.sharded:  # the other processes wait for this one in each pass
                    _predict(model, trial_batch(model.vocabulary, model.shortest))
                yield batch, _NONE


@torch.no_grad()
def _predict(model: LanguageModel, batch: Batch) -> TargetPredictions:
    logits = model.target_logits(batch)
    return score_targets(logits, torch.from_numpy(batch.target_ids).to(logits.device))


def score_targets(logits: Tensor, targets: Tensor) -> TargetPredictions:
    """Compare logits with the true tokens, a block of rows at a time and in fp32, whatever the logits' precision.

    Args:
        logits: ``[M, V]``.
        targets: ``int64 [M]`` on the same device.
    """
    parts = [_score_block(*block) for block in loss_blocks(logits, targets)] or [_score_block(*_EMPTY)]
    loss, rank, guess, confidence = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return TargetPredictions(targets.cpu().numpy(), loss, rank, guess, confidence)


def _score_block(logits: Tensor, label: Tensor, loss: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, rank, guess and confidence of a block of ``[m, V]`` fp32 logits at ``int64 [m]`` labels."""
    true, guess = logits.gather(1, label[:, None]), _argmax(logits)
    # Comparisons are written as fp32, whose sums are exact up to 2**24 and, on a CPU, several times faster than of bool.
    holds = torch.empty_like(logits)
    at_most = torch.le(logits, true, out=holds).sum(-1).long()
    below = torch.lt(logits, true, out=holds).sum(-1).long()
    rank = 1 + logits.shape[1] - at_most
    tied = (at_most - below > 1).nonzero().squeeze(1)
    if len(tied):
        ids = torch.arange(logits.shape[1], device=logits.device)
        rank[tied] += ((logits[tied] == true[tied]) & (ids < label[tied, None])).sum(-1)
    ahead = (logits.gather(1, guess[:, None]) - true).squeeze(1)
    return loss, rank, guess, (in_float64(ahead) - loss).exp()


def _argmax(logits: Tensor) -> Tensor:
    """Return ``int64 [m]``: the first largest of ``[m, V]``, sought in a run of columns that is known by its maximum."""
    width = logits.shape[1]
    if width < 2 * _RUN:
        return logits.argmax(-1)
    whole = width // _RUN * _RUN
    highest = logits[:, :whole].unflatten(1, (-1, _RUN)).amax(-1)
    if whole < width:
        highest = torch.cat([highest, logits[:, whole:].amax(-1, keepdim=True)], dim=1)
    first = highest.argmax(-1) * _RUN
    ids = first[:, None] + torch.arange(_RUN, device=logits.device)
    return first + logits.gather(1, ids.clamp_(max=width - 1)).argmax(-1)


_EMPTY = torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), torch.zeros(0).double()
_NONE = score_targets(*_EMPTY[:2])
