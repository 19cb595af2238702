"""Held-out evaluation on frozen masks: metrics of a run, and sums by document and stratum for ``unmask eval``.

Every target is replaced by the mask token. With the masks of training a tenth of the targets would be shown to the model
and another tenth would be another word; those have rows of their own (:func:`by_replacement`), on part of the text.

Shapes: M targets, U resampling units, R bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.data.batches import Batch, TextSource
from unmask.data.masking.random_bits import mix
from unmask.errors import DataError
from unmask.evaluation.bootstrap import BINS, Floats, interval_notes, reliability_bins, resampling_units
from unmask.evaluation.metrics import COLUMNS, metrics_of, perplexity, target_columns
from unmask.evaluation.predictions import TargetPredictions, predict_targets
from unmask.evaluation.strata import REPLACEMENTS, Places, Strata, places, replacements
from unmask.model.base import LanguageModel
from unmask.progress import Progress
from unmask.training.distributed import World

MASKS = "every target replaced by the mask token"
"""How the targets of all metrics are shown to the model; those by replacement say so themselves."""

_MOST_LOGITS = 1 << 25
_REPLACED_SHARE, _REPLACED_TOKENS = 4, 20_000
_BUDGET = (256, 8_192)


@dataclass(frozen=True)
class HeldoutMetrics:
    """Metrics of a model on masked held-out tokens.

    Attributes:
        loss: mean cross-entropy per masked token, in nats.
        accuracy: share of masked tokens whose most probable token is the true one.
        masked_tokens: number of targets.
        tokens: number of tokens read, special tokens included.
        predictions: the predictions at all targets.
    """

    loss: float
    accuracy: float
    masked_tokens: int
    tokens: int
    predictions: TargetPredictions = field(repr=False, compare=False)

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return perplexity(self.loss)

    def to_dict(self) -> dict[str, float | int]:
        names = ("loss", "perplexity", "accuracy", "masked_tokens", "tokens")
        return {name: getattr(self, name) for name in names}


def evaluate_batches(
    model: LanguageModel, batches: Iterable[Batch], world: World | None = None
) -> HeldoutMetrics:
    """Evaluate a model on batches; NaN or infinite losses stay in the metrics.

    Args:
        model: the model.
        batches: this process's share of them.
        world: the processes, each of which returns the metrics of all batches; by default this one alone.

    Raises:
        ValueError: no token is masked in any of the batches.
    """
    shares = [(batch.tokens, predictions) for batch, predictions in predict_targets(model, batches)]
    sizes, parts = zip(*(world or World()).in_turn(shares), strict=True)
    if not (count := sum(len(part.loss) for part in parts)):
        raise ValueError("the held-out text has no masked token; give more of it, or a higher mask rate")
    loss = sum(float(part.loss.sum()) for part in parts)
    correct = sum(int((part.rank == 1).sum()) for part in parts)
    return HeldoutMetrics(loss / count, correct / count, count, sum(sizes), TargetPredictions.join(parts))


def replaced_tokens(tokens: int) -> int:
    """Return how many tokens to read for the metrics by replacement, where an evaluation reads so many."""
    return min(tokens, max(tokens // _REPLACED_SHARE, _REPLACED_TOKENS))


def by_replacement(
    model: LanguageModel, batches: Iterable[Batch], world: World | None = None
) -> list[dict[str, Any]]:
    """Evaluate a model on batches that are masked as in training, by what it sees at the target.

    Args:
        model: the model.
        batches: this process's share of them.
        world: the processes, each of which returns the metrics of all batches; by default this one alone.

    Returns:
        Rows with ``label``, ``masked_tokens``, ``loss`` and ``accuracy``, the last one of all targets; without those
        that have no target.
    """
    shares = []
    for batch, predictions in predict_targets(model, batches):
        share = np.zeros((len(REPLACEMENTS), 3))
        np.add.at(share, replacements(batch, model.vocabulary.mask_id), target_columns(predictions)[:, :3])
        shares.append(share)
    sums = np.sum((world or World()).in_turn(shares), axis=0)
    sums[-1] = sums.sum(axis=0)
    return [
        {"label": label, "masked_tokens": int(count), "loss": loss / count, "accuracy": right / count}
        for label, (count, loss, right) in zip(REPLACEMENTS, sums.tolist(), strict=True)
        if count
    ]


def document_intervals(
    source: TextSource, batches: Iterable[Batch], predictions: TargetPredictions
) -> dict[str, Any]:
    """Return the intervals of predictions over documents, ready for JSON.

    Args:
        source: the text.
        batches: those that were predicted.
        predictions: at all their targets.

    Returns:
        ``texts`` with a target, copies counted once; ``intervals`` of loss and accuracy, ``None`` where there are too few documents, and ``interval_notes``, what
        limits them.
    """
    parts = [places(source, batch).document for batch in batches if len(batch.target_ids)]
    document, keys = np.concatenate(parts), source.corpus.keys[source.documents]
    unit = resampling_units(keys)
    sums = np.zeros((int(unit.max()) + 1, 3))
    np.add.at(sums, unit[document], target_columns(predictions)[:, :3])
    documents = np.unique(document)
    texts = len(np.unique(keys[documents]))
    return {
        "texts": texts,
        "intervals": {name: metric.interval for name, metric in metrics_of(sums).items()},
        "interval_notes": list(interval_notes(len(documents), texts)),
    }


@dataclass(frozen=True)
class Tally:
    """Sums over the targets of an evaluation.

    Attributes:
        sums: ``float64 [U, 1 + groups, 6]``: :data:`~unmask.evaluation.metrics.COLUMNS` of each resampling unit, over
            all targets (group 0) and over those of each row of the tables.
        bins: ``float64 [R, 3]``, see :func:`~unmask.evaluation.bootstrap.reliability_bins`.
        documents: documents with a target.
        texts: the same, copies of a text counted once.
        tokens: tokens read, special ones included.
        positions: a hash of the documents, positions and tokens of the targets: equal for two models that were
            evaluated on the same ones.
    """

    sums: Floats
    bins: Floats
    documents: int
    texts: int
    tokens: int
    positions: str

    @property
    def masked_tokens(self) -> int:
        return int(self.sums[:, 0, 0].sum())


def batch_budget(vocabulary_size: int, rate: float) -> int:
    """Return the tokens of a batch whose logits at the targets take some 130 MB."""
    return int(min(max(_MOST_LOGITS / (vocabulary_size * rate), _BUDGET[0]), _BUDGET[1]))


def evaluation_batches(
    source: TextSource, most: int | None = None, *, hidden: bool = True
) -> Iterator[Batch]:
    """Yield the batches of an evaluation, see :func:`batch_budget`.

    Args:
        source: the text.
        most: tokens to read, special ones included; which documents these are is decided by their hash.
        hidden: replace every target by the mask token; otherwise as in training.
    """
    budget = batch_budget(source.vocabulary.size, source.masking.rate)
    yield from source.evaluation_batches(budget, most, hidden=hidden)


def tally(
    model: LanguageModel,
    source: TextSource,
    strata: Strata,
    *,
    most: int | None = None,
    progress: Progress = Progress(),
) -> Tally:
    """Evaluate a model on the masked tokens of a text; memory is bounded by a batch and the sums of the documents.

    Args:
        model: the model.
        source: the text, tokenised by the model's tokenizer.
        strata: the tables.
        most: tokens to read, see :func:`evaluation_batches`.
        progress: gets the share done.

    Raises:
        DataError: no token is masked in all of the text.
        DivergedError: the model's probabilities are NaN or infinite.
    """
    counter = _Counter(source, strata)
    wanted = min(source.tokens, most or source.tokens)
    replaced = replaced_tokens(wanted) if strata.replaced else 0
    total, read = wanted + replaced, 0
    for hidden, limit in ((True, most), (False, replaced)):
        if limit == 0:
            continue
        for batch, predictions in predict_targets(model, evaluation_batches(source, limit, hidden=hidden)):
            if not read and (error := model.bf16_error(batch)):
                progress.log(error)
            counter.add(batch, predictions.require_finite(), hidden)
            read += batch.tokens
            progress.advance(min(1.0, read / total), {"tokens": read})
    progress.advance(1.0, {"tokens": read})  # whole documents may stop short of the limit
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
        self.with_target = np.zeros(len(self.keys), dtype=bool)
        self.hash = np.uint64(0)

    def add(self, batch: Batch, predictions: TargetPredictions, hidden: bool) -> None:
        at = places(self.source, batch)
        values = target_columns(predictions)
        unit = self.unit[at.document]
        rows = (
            self.strata.rows_of(at, batch.target_ids)
            if hidden
            else self.strata.replaced_rows(batch, self.source.vocabulary.mask_id)
        )
        for row in rows:
            np.add.at(self.sums, (unit, 1 + row), values)
        if not hidden:
            return
        self.tokens += batch.tokens
        np.add.at(self.sums[:, 0], unit, values)
        self.bins += reliability_bins(predictions.confidence, predictions.rank == 1)
        self.with_target[at.document] = True
        with np.errstate(over="ignore"):
            self.hash += position_hash(self.keys[at.document], at, batch.target_ids)

    def tally(self) -> Tally:
        if not self.with_target.any():
            raise DataError(f"there is nothing to predict: {self.source.why_no_target('the text')}")
        keys = self.keys[self.with_target]
        return Tally(
            self.sums, self.bins, len(keys), len(np.unique(keys)), self.tokens, f"{int(self.hash):016x}"
        )


def position_hash(keys: NDArray[np.uint64], at: Places, target_ids: NDArray[np.int64]) -> np.uint64:
    """Return a hash of M targets that does not depend on their order; hashes of parts add up."""
    with np.errstate(over="ignore"):
        place = mix((at.position.astype(np.uint64) << np.uint64(32)) + target_ids.astype(np.uint64))
        return np.uint64(mix(keys + place).sum(dtype=np.uint64))
