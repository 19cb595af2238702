"""What adapting a checkpoint changed: base and adapted model at the same targets, document by document.

Every figure of a change is paired: both models are resampled on the same documents. TargetPredictions of both models are all
that is needed, so the base is asked before training and is not loaded again.

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
from unmask.evaluation.bootstrap import Figure, Floats, ratios, resampling_units
from unmask.evaluation.examples import readable
from unmask.evaluation.heldout import TargetPredictions, perplexity
from unmask.evaluation.strata import Ids, Strata, places

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chosen = NDArray[np.bool_]

BETTER, WORSE = 6, 2
"""Examples of what the adapted model knows better, and of what it knows worse."""

_AROUND = 14


@dataclass(frozen=True)
class EvaluatedTargets:
    """The M targets of some batches, and where they stand.

    Attributes:
        source: the text.
        batches: those with a target.
        target_ids: ``int64 [M]``.
        unit: ``int64 [M]``, what each is resampled with.
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
        held = [batch for batch in batches if len(batch.target_ids)]
        found = [places(source, batch) for batch in held]
        document = np.concatenate([at.document for at in found])
        level = [strata.rows_of(at, batch.target_ids)[0] for at, batch in zip(found, held, strict=True)]
        return EvaluatedTargets(
            source,
            held,
            np.concatenate([batch.target_ids for batch in held]),
            resampling_units(source.corpus.keys[source.documents])[document],
            document,
            np.concatenate(level),
        )

    @property
    def everything(self) -> Chosen:
        return np.ones(len(self.target_ids), dtype=bool)


def change(
    asked: EvaluatedTargets, before: TargetPredictions, after: TargetPredictions, chosen: Chosen | None = None
) -> dict[str, Any]:
    """Return the figures of both models and of their difference, ready for JSON.

    Args:
        asked: the targets.
        before, after: what the two models answer at them.
        chosen: ``bool [M]``, the targets to take; by default all.

    Returns:
        ``masked_tokens``, ``documents``, ``before`` and ``after`` (loss, perplexity and accuracy, with intervals), and
        ``change``: loss and accuracy after minus before, and ``relative_accuracy``, their ratio minus one.
    """
    chosen = asked.everything if chosen is None else chosen
    unit, units = asked.unit[chosen], int(asked.unit.max()) + 1
    columns = [answers.loss for answers in (before, after)]
    columns += [(answers.guess == asked.target_ids).astype(np.float64) for answers in (before, after)]
    sums: Floats = np.stack(
        [np.bincount(unit, column[chosen], minlength=units) for column in columns], axis=1
    )  # [U, 4]: loss before and after, right ones before and after
    count = np.bincount(unit, minlength=units).astype(np.float64)[:, None]
    found = ratios(np.column_stack([sums, sums[:, 1] - sums[:, 0], sums[:, 3] - sums[:, 2]]), count)
    # The count stands beside what it is divided by, so that units of which the base has nothing right count too.
    shares = ratios(sums[:, [3, 3]], np.column_stack([sums[:, 2], count]))
    more = shares[0].map(lambda ratio: ratio - 1)
    return {
        "masked_tokens": int(chosen.sum()),
        "documents": len(np.unique(asked.document[chosen])),
        "before": _figures(found[0], found[2]),
        "after": _figures(found[1], found[3]),
        "change": {
            "loss": _number(found[4]),
            "accuracy": _number(found[5]),
            "relative_accuracy": _number(more) if math.isfinite(more.value) else None,
        },
    }


def _figures(loss: Figure, accuracy: Figure) -> dict[str, Any]:
    figures = {"loss": loss, "perplexity": loss.map(perplexity), "accuracy": accuracy}
    values: dict[str, Any] = {name: figure.value for name, figure in figures.items()}
    return values | {"intervals": {name: figure.interval for name, figure in figures.items()}}


def _number(figure: Figure) -> dict[str, Any]:
    """A figure and its interval, which is absent where resamples left the finite numbers."""
    finite = math.isfinite(figure.low) and math.isfinite(figure.high)
    return {"value": figure.value, "interval": [figure.low, figure.high] if finite else None}


def by_frequency(
    asked: EvaluatedTargets, before: TargetPredictions, after: TargetPredictions, strata: Strata
) -> list[dict[str, Any]]:
    """Return :func:`change` for each row of the table of frequencies that has a target, with its ``label``."""
    labels = strata.tables[0].labels
    masks = ((label, asked.level == row) for row, label in enumerate(labels))
    return [{"label": label} | change(asked, before, after, mask) for label, mask in masks if mask.any()]


def differing(
    asked: EvaluatedTargets,
    before: TargetPredictions,
    after: TargetPredictions,
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """Return the masks at which the two models differ most in the log-probability of what stood there.

    Only targets that the models saw as the mask token are taken, and one of a document and of a token: the
    :data:`BETTER` at which the adapted model gained most, then the :data:`WORSE` at which it lost most.

    Returns:
        A dictionary each: ``text_before`` and ``text_after`` (what the models saw around the mask), ``original``,
        ``change`` (nats) and for ``base`` and ``adapted`` ``guess``, ``probability`` (of the guess) and ``original``
        (the probability of what stood there).
    """
    gain = before.loss - after.loss
    shown = np.concatenate([batch.input_ids[batch.target_index] for batch in asked.batches])
    gain = np.where(shown == asked.source.vocabulary.mask_id, gain, 0.0)
    order = np.argsort(-gain, kind="stable")
    taken = _pick(asked, order[gain[order] > 0], BETTER, [])
    losses = order[::-1]
    taken = _pick(asked, losses[gain[losses] < 0], WORSE, taken)
    return [_example(asked, place, before, after, tokenizer) for place in taken]


def _pick(asked: EvaluatedTargets, order: Ids, count: int, taken: Sequence[int]) -> list[int]:
    """Append the first ``count`` of ``order`` whose document and token are none of those taken."""
    picked = list(taken)
    for place in order.tolist():
        if len(picked) == len(taken) + count:
            break
        if not any(
            asked.document[place] == asked.document[other]
            or asked.target_ids[place] == asked.target_ids[other]
            for other in picked
        ):
            picked.append(place)
    return picked


def _example(
    asked: EvaluatedTargets,
    place: int,
    before: TargetPredictions,
    after: TargetPredictions,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    text_before, text_after = _context(asked, place, tokenizer)
    models = {
        name: {
            "guess": _text(tokenizer, int(answers.guess[place])),
            "probability": float(answers.confidence[place]),
            "original": math.exp(-float(answers.loss[place])),
        }
        for name, answers in (("base", before), ("adapted", after))
    }
    return {
        "text_before": text_before,
        "original": _text(tokenizer, int(asked.target_ids[place])),
        "text_after": text_after,
        "change": float(before.loss[place] - after.loss[place]),
        **models,
    }


def _context(asked: EvaluatedTargets, place: int, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The text on both sides of a target as the models saw it, with the spaces at the joints."""
    for batch in asked.batches:
        if place < len(batch.target_ids):
            break
        place -= len(batch.target_ids)
    at, vocabulary = int(batch.target_index[place]), asked.source.vocabulary
    row = int(np.searchsorted(batch.cu_seqlens, at, side="right")) - 1
    first = int(batch.cu_seqlens[row]) + len(vocabulary.prefix)
    last = int(batch.cu_seqlens[row + 1]) - len(vocabulary.suffix)
    left = batch.input_ids[max(first, at - _AROUND) : at].tolist()
    right = batch.input_ids[at + 1 : min(last, at + 1 + _AROUND)].tolist()
    target = int(batch.target_ids[place])
    pairs = (left[-1:], [target]), ([target], right[:1])
    spaces = [all(pair) and _apart(tokenizer, pair[0] + pair[1]) for pair in pairs]
    texts = [str(tokenizer.decode(side)).strip().removeprefix("##") for side in (left, right)]
    return texts[0] + " " * spaces[0], " " * spaces[1] + texts[1]


def _apart(tokenizer: PreTrainedTokenizerBase, pair: list[int]) -> bool:
    """Whether a space stands between two tokens."""
    alone, both = (str(tokenizer.decode(ids)).strip() for ids in (pair[:1], pair))
    return both[len(alone) :].startswith(" ")


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """An entry of the vocabulary as text; byte-level entries are decoded, a lone part of a character is not."""
    decoded = str(tokenizer.decode([token])).strip().removeprefix("##")
    if decoded and "\ufffd" not in decoded:
        return decoded
    return readable(str(tokenizer.convert_ids_to_tokens([token])[0]))[1]
