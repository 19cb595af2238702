"""Base and adapted model compared at the same targets, document by document.

Every difference is paired: both models are resampled on the same documents. Only the predictions of the two models are
needed, so the base is evaluated before training and is not loaded again.

Shapes: M targets, U resampling units, V entries of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unmask.data.batches import Batch, TextSource
from unmask.evaluation.bootstrap import Floats, flat, ratios, resampling_units
from unmask.evaluation.examples import readable
from unmask.evaluation.metrics import metrics_of, paired_sums, target_columns, with_perplexity
from unmask.evaluation.predictions import TargetPredictions
from unmask.evaluation.strata import Ids, Strata, places

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chosen = NDArray[np.bool_]

BETTER, WORSE = 6, 2
"""Examples that the adapted model predicts better, and those that it predicts worse."""

_CONTEXT_TOKENS = 14


@dataclass(frozen=True)
class EvaluatedTargets:
    """The M targets of some batches, and where they occur.

    Attributes:
        source: the text.
        batches: those with a target.
        target_ids: ``int64 [M]``.
        unit: ``int64 [M]``, the resampling unit of each.
        document: ``int64 [M]``, number within the documents of the source.
        level: ``int64 [M]``, row of the table of frequencies.
    """

    source: TextSource
    batches: list[Batch]
    target_ids: Ids
    unit: Ids
    document: Ids
    level: Ids

    @staticmethod
    def of(source: TextSource, batches: Iterable[Batch], strata: Strata) -> EvaluatedTargets:
        """Locate the targets of ``batches``; the first of ``strata`` is the table of frequencies."""
        kept = [batch for batch in batches if len(batch.target_ids)]
        located = [places(source, batch) for batch in kept]
        document = np.concatenate([at.document for at in located])
        level = [strata.rows_of(at, batch.target_ids)[0] for at, batch in zip(located, kept, strict=True)]
        return EvaluatedTargets(
            source,
            kept,
            np.concatenate([batch.target_ids for batch in kept]),
            resampling_units(source.corpus.keys[source.documents])[document],
            document,
            np.concatenate(level),
        )

    def sums(self, predictions: TargetPredictions, chosen: Chosen) -> Floats:
        """Return ``[U, 3]``: number of ``bool [M]`` chosen targets, their losses, and how many are right."""
        columns = target_columns(predictions)[chosen, :3].T
        units = int(self.unit.max()) + 1
        return np.stack([np.bincount(self.unit[chosen], column, units) for column in columns], axis=1)


def change(
    targets: EvaluatedTargets,
    before: TargetPredictions,
    after: TargetPredictions,
    chosen: Chosen | None = None,
) -> dict[str, Any]:
    """Return the metrics of both models and their paired difference, ready for JSON.

    Args:
        targets: where they predict.
        before, after: the predictions of base and adapted model.
        chosen: ``bool [M]``, the targets to count; by default all.

    Returns:
        ``masked_tokens``, ``documents``, ``texts`` (copies once), ``before`` and ``after`` (loss, perplexity and accuracy, with intervals), and
        ``change``: loss and accuracy after minus before, and ``relative_loss`` and ``relative_accuracy``, their ratios minus
        one.
    """
    chosen = np.ones(len(targets.target_ids), dtype=bool) if chosen is None else chosen
    base, adapted = (targets.sums(predictions, chosen) for predictions in (before, after))
    # The count is a second denominator, so that units in which the base has nothing right are resampled too.
    ratio = ratios(adapted[:, [2, 2]], base[:, [2, 0]])[0].map(lambda value: max(value, 0.0) - 1)
    loss = ratios(adapted[:, [1]], base[:, [1]])[0].map(lambda value: value - 1)
    difference = {
        name: metric.to_dict()
        for name, metric in (
            metrics_of(paired_sums(base, adapted), difference=True)
            | {"relative_loss": loss, "relative_accuracy": ratio}
        ).items()
    }
    return {
        "masked_tokens": int(chosen.sum()),
        "documents": len(np.unique(targets.document[chosen])),
        "texts": len(np.unique(targets.unit[chosen])),
        "before": flat(with_perplexity(metrics_of(base))),
        "after": flat(with_perplexity(metrics_of(adapted))),
        "change": difference if math.isfinite(ratio.value) else difference | {"relative_accuracy": None},
    }


def by_frequency(
    targets: EvaluatedTargets, before: TargetPredictions, after: TargetPredictions, strata: Strata
) -> list[dict[str, Any]]:
    """Return :func:`change` for each row of the table of frequencies that has a target, with its ``label``."""
    labels = strata.tables[0].labels
    masks = ((label, targets.level == row) for row, label in enumerate(labels))
    return [{"label": label} | change(targets, before, after, mask) for label, mask in masks if mask.any()]


def differing(
    targets: EvaluatedTargets,
    before: TargetPredictions,
    after: TargetPredictions,
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """Return the masks at which the two models differ most in the log-probability of the true token.

    At most one per document and per token counts: the :data:`BETTER` at which the adapted model gained most, then the :data:`WORSE` at which it lost most.

    Returns:
        A dictionary each: ``text_before`` and ``text_after`` (the input around the mask), ``original``, ``change``
        (nats) and for ``base`` and ``adapted`` ``guess``, ``probability`` (of the guess) and ``original`` (the
        probability of the true token).
    """
    gain = before.loss - after.loss
    order = np.argsort(-gain, kind="stable")
    taken = _pick(targets, order[gain[order] > 0], BETTER, [])
    losses = order[::-1]
    taken = _pick(targets, losses[gain[losses] < 0], WORSE, taken)
    return [_example(targets, place, before, after, tokenizer) for place in taken]


def _pick(targets: EvaluatedTargets, order: Ids, count: int, taken: Sequence[int]) -> list[int]:
    """Append the first ``count`` of ``order`` whose document and token are not taken yet."""
    picked = list(taken)
    for place in order.tolist():
        if len(picked) == len(taken) + count:
            break
        if not any(
            targets.document[place] == targets.document[other]
            or targets.target_ids[place] == targets.target_ids[other]
            for other in picked
        ):
            picked.append(place)
    return picked


def _example(
    targets: EvaluatedTargets,
    place: int,
    before: TargetPredictions,
    after: TargetPredictions,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    text_before, text_after = _context(targets, place, tokenizer)
    models = {
        name: {
            "guess": _text(tokenizer, int(predictions.guess[place])),
            "probability": float(predictions.confidence[place]),
            "original": math.exp(-float(predictions.loss[place])),
        }
        for name, predictions in (("base", before), ("adapted", after))
    }
    return {
        "text_before": text_before,
        "original": _text(tokenizer, int(targets.target_ids[place])),
        "text_after": text_after,
        "change": float(before.loss[place] - after.loss[place]),
        **models,
    }


def _context(targets: EvaluatedTargets, place: int, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The input on both sides of a target, with the spaces next to it."""
    for batch in targets.batches:
        if place < len(batch.target_ids):
            break
        place -= len(batch.target_ids)
    at, vocabulary = int(batch.target_index[place]), targets.source.vocabulary
    row = int(np.searchsorted(batch.cu_seqlens, at, side="right")) - 1
    first = int(batch.cu_seqlens[row]) + len(vocabulary.prefix)
    last = int(batch.cu_seqlens[row + 1]) - len(vocabulary.suffix)
    left = batch.input_ids[max(first, at - _CONTEXT_TOKENS) : at].tolist()
    right = batch.input_ids[at + 1 : min(last, at + 1 + _CONTEXT_TOKENS)].tolist()
    target = int(batch.target_ids[place])
    pairs = (left[-1:], [target]), ([target], right[:1])
    spaces = [all(pair) and _apart(tokenizer, pair[0] + pair[1]) for pair in pairs]
    texts = [str(tokenizer.decode(side)).strip().removeprefix("##") for side in (left, right)]
    return texts[0] + " " * spaces[0], " " * spaces[1] + texts[1]


def _apart(tokenizer: PreTrainedTokenizerBase, pair: list[int]) -> bool:
    """Return whether there is a space between two tokens."""
    alone, both = (str(tokenizer.decode(ids)).strip() for ids in (pair[:1], pair))
    return both[len(alone) :].startswith(" ")


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A vocabulary entry as text; byte-level entries are decoded unless they are only part of a character."""
    decoded = str(tokenizer.decode([token])).strip().removeprefix("##")
    if decoded and "\ufffd" not in decoded:
        return decoded
    return readable(str(tokenizer.convert_ids_to_tokens([token])[0]))[1]
