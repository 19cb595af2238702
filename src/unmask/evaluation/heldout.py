"""Held-out figures on masks that never change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unmask.data.batches import Batch, TextSource
from unmask.data.masking.random_bits import mix
from unmask.errors import DataError, DivergedError
from unmask.evaluation.bootstrap import BINS, reliability_bins, resampling_units
from unmask.evaluation.strata import Places, Strata, places
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress

COLUMNS = ("masked_tokens", "loss", "accuracy", "accuracy_at_5", "accuracy_at_10", "mean_reciprocal_rank")
"""What is summed over targets: how many, and what divided by that is each figure."""

_TOP = (1, 5, 10)
_BLOCK_ROWS = 64
_MOST_LOGITS = 1 << 25
_BUDGET = (256, 8_192)


@dataclass(frozen=True)
class HeldoutFigures:
    """What a model makes of masked held-out tokens.

    Attributes:
        loss: mean cross-entropy per masked token, in nats.
        accuracy: share of masked tokens whose most probable filling is the token that stood there.
        masked_tokens: how many were asked.
        tokens: how many tokens the passages have, special tokens included.
    """

    loss: float
    accuracy: float
    masked_tokens: int
    tokens: int

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return perplexity(self.loss)

    def to_dict(self) -> dict[str, float | int]:
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "masked_tokens": self.masked_tokens,
            "tokens": self.tokens,
        }


def perplexity(loss: float) -> float:
    """Return e to the power of a loss in nats, infinite where that is too large for a number."""
    return math.exp(loss) if loss < 700 else loss if math.isnan(loss) else math.inf


class TargetPredictions(NamedTuple):
    """What a model answers at M targets.

    Attributes:
        target_ids: ``int64 [M]``, what stood there.
        loss: ``float64 [M]`` cross-entropy of that, in nats.
        guess: ``int64 [M]``, the most probable token.
        confidence: ``float64 [M]``, its probability.
    """

    target_ids: NDArray[np.int64]
    loss: NDArray[np.float64]
    guess: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @staticmethod
    def join(parts: Sequence[TargetPredictions]) -> TargetPredictions:
        return TargetPredictions(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def evaluate(
    model: MaskedLM, batches: Iterable[Batch], answers: list[TargetPredictions] | None = None
) -> HeldoutFigures:
    """Score batches in evaluation mode; sums are kept in double precision.

    Args:
        model: the model.
        batches: what it is asked.
        answers: takes what it answers, an entry for each batch that has a target.

    Raises:
        ValueError: there is no masked token in all of the batches.
    """
    loss, correct, asked, tokens = 0.0, 0, 0, 0
    with evaluating(model):
        for batch in batches:
            tokens += batch.tokens
            if not len(batch.target_ids):
                continue
            logits = model.target_logits(batch).float()
            labels = torch.from_numpy(batch.target_ids).to(logits.device)
            losses, guess = F.cross_entropy(logits, labels, reduction="none").double(), logits.argmax(-1)
            loss += float(losses.sum())
            correct += int((guess == labels).sum())
            if answers is not None:
                ahead = (logits.gather(1, guess[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
                columns = losses, guess, (ahead.double() - losses).exp()
                answers.append(
                    TargetPredictions(batch.target_ids, *(column.cpu().numpy() for column in columns))
                )
            asked += len(batch.target_ids)
    if not asked:
        raise ValueError("the held-out text has no masked token; give more of it, or a higher mask rate")
    return HeldoutFigures(loss / asked, correct / asked, asked, tokens)


@contextmanager
def evaluating(model: MaskedLM) -> Iterator[None]:
    """Put a model into evaluation mode, and back."""
    training = model.model.training
    model.model.eval()
    try:
        yield
    finally:
        model.model.train(training)


class TargetScores(NamedTuple):
    """What a model says at M targets.

    Attributes:
        loss: ``float64 [M]`` cross-entropy in nats.
        rank: ``int64 [M]`` rank of the true token, from 1; of equally probable tokens the smaller id comes first,
            so that a model that knows nothing is not right by a tie.
        confidence: ``float64 [M]`` probability of the most probable token.
    """

    loss: NDArray[np.float64]
    rank: NDArray[np.int64]
    confidence: NDArray[np.float64]


def score_targets(logits: Tensor, targets: Tensor) -> TargetScores:
    """Score the true tokens, a block of rows at a time and in fp32, whatever the logits' precision.

    Args:
        logits: ``[M, V]``.
        targets: ``int64 [M]`` on the same device.

    Raises:
        DivergedError: a true token has no finite probability.
    """
    rows = _BLOCK_ROWS if logits.device.type == "cpu" else max(1, len(targets))
    parts = [
        _score_block(block.float(), label.unsqueeze(1))
        for block, label in zip(logits.split(rows), targets.split(rows), strict=True)
    ]
    loss, rank, confidence = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    if not np.isfinite(loss).all():
        raise DivergedError(
            "the model gives no finite probability to a masked token (NaN or infinite logits); its weights are damaged, "
            "or the precision is too low: try --precision fp32"
        )
    return TargetScores(loss.astype(np.float64), rank, confidence.astype(np.float64))


def _score_block(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score a block of ``[m, V]`` fp32 logits at ``int64 [m, 1]`` labels."""
    total = logits.logsumexp(-1)
    true = logits.gather(1, label)
    rank = 1 + (logits > true).sum(-1)
    equal = logits == true
    if int(equal.sum()) > len(label):
        ids = torch.arange(logits.shape[1], device=logits.device)
        rank += (equal & (ids < label)).sum(-1)
    return total - true.squeeze(1), rank, (logits.amax(-1) - total).exp()


@dataclass(frozen=True)
class Tally:
    """Sums over the targets of an evaluation.

    Attributes:
        sums: ``float64 [U, 1 + groups, 6]``: :data:`COLUMNS` of each resampling unit, over all targets (group 0) and
            over those of each row of the tables.
        bins: ``float64 [R, 3]``, see :func:`~unmask.evaluation.bootstrap.reliability_bins`.
        documents: documents with a target.
        tokens: tokens that were read, special ones included.
        positions: a hash of the documents, positions and tokens that were asked: the same for two models that were
            asked the same.
    """

    sums: NDArray[np.float64]
    bins: NDArray[np.float64]
    documents: int
    tokens: int
    positions: str

    @property
    def masked_tokens(self) -> int:
        return int(self.sums[:, 0, 0].sum())


def evaluation_batches(source: TextSource, most: int | None = None) -> Iterator[Batch]:
    """Yield the batches of an evaluation, small enough for the logits of one to take some 130 MB.

    Args:
        source: the text.
        most: tokens to read, special ones included; which documents these are is decided by their hash.
    """
    room = _MOST_LOGITS / (source.vocabulary.size * source.masking.rate)
    yield from source.evaluation_batches(int(min(max(room, _BUDGET[0]), _BUDGET[1])), most)


@torch.no_grad()
def tally(
    model: MaskedLM,
    source: TextSource,
    strata: Strata,
    *,
    most: int | None = None,
    progress: Progress = Progress(),
) -> Tally:
    """Ask a model for the masked tokens of a text; memory is bounded by a batch and by the documents' sums.

    Args:
        model: the model.
        source: the text, tokenised by the model's tokenizer.
        strata: the tables.
        most: tokens to read, see :func:`evaluation_batches`.
        progress: is told how far it is.

    Raises:
        DataError: no token is masked in all of the text.
        DivergedError: the model's probabilities are not finite.
    """
    counter = _Counter(source, strata)
    total = min(source.tokens, most or source.tokens)
    with evaluating(model):
        for batch in evaluation_batches(source, most):
            counter.tokens += batch.tokens
            if len(batch.target_ids):
                logits = model.target_logits(batch)
                labels = torch.from_numpy(batch.target_ids).to(logits.device)
                counter.add(batch, score_targets(logits, labels))
            progress.advance(min(1.0, counter.tokens / total), {"tokens": counter.tokens})
    return counter.tally()


class _Counter:
    """Adds up batches."""

    def __init__(self, source: TextSource, strata: Strata) -> None:
        self.source, self.strata, self.tokens = source, strata, 0
        self.keys = source.corpus.keys[source.documents]
        self.unit = resampling_units(self.keys)
        units = int(self.unit.max()) + 1
        self.sums = np.zeros((units, 1 + strata.groups, len(COLUMNS)))
        self.bins = np.zeros((BINS, 3))
        self.asked = np.zeros(len(self.keys), dtype=bool)
        self.hash = np.uint64(0)

    def add(self, batch: Batch, scores: TargetScores) -> None:
        at = places(self.source, batch)
        values = _columns(scores)
        unit = self.unit[at.document]
        np.add.at(self.sums[:, 0], unit, values)
        for row in self.strata.rows_of(at, batch.target_ids):
            np.add.at(self.sums, (unit, 1 + row), values)
        self.bins += reliability_bins(scores.confidence, scores.rank == 1)
        self.asked[at.document] = True
        with np.errstate(over="ignore"):
            self.hash += position_hash(self.keys[at.document], at, batch.target_ids)

    def tally(self) -> Tally:
        if not self.asked.any():
            raise DataError(
                "no token of the text is masked, so there is nothing to ask; give more text, or a higher --mask-rate"
            )
        return Tally(self.sums, self.bins, int(self.asked.sum()), self.tokens, f"{int(self.hash):016x}")


def _columns(scores: TargetScores) -> NDArray[np.float64]:
    """Return ``[M, 6]``: what each target adds to :data:`COLUMNS`."""
    hits = [scores.rank <= top for top in _TOP]
    return np.stack([np.ones(len(scores.loss)), scores.loss, *hits, 1 / scores.rank], axis=1)


def position_hash(keys: NDArray[np.uint64], at: Places, target_ids: NDArray[np.int64]) -> np.uint64:
    """Return a hash of M targets that does not depend on their order; hashes of parts add up."""
    with np.errstate(over="ignore"):
        place = mix((at.position.astype(np.uint64) << np.uint64(32)) + target_ids.astype(np.uint64))
        return np.uint64(mix(keys + place).sum(dtype=np.uint64))
