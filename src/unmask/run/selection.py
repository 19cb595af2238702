"""Held-out text in two halves: the exported weights are chosen on one, all reported metrics are of the other.

The best of ten evaluations is better than the model is. Which half a document is in is a function of its text alone; of few
documents as many are reported as an interval needs, and only the others choose the weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unmask.config.settings import RunConfig, TrainSettings
from unmask.data.batches import TextSource
from unmask.data.heldout_size import FEWEST_UNITS
from unmask.data.masking.random_bits import mix
from unmask.errors import plural
from unmask.progress import Progress
from unmask.reporting.format import no_interval
from unmask.run.components import RunComponents
from unmask.run.results import FINAL_EVALUATION

_KEY = np.uint64(0x5E1EC7104A1F5E7D)
_HALF = np.uint64(1 << 63)


def chooses_weights(settings: TrainSettings) -> bool:
    """Return whether the held-out loss decides which weights are exported, or when the run ends."""
    return bool(settings.export_best or settings.patience) or settings.export_alpha == "auto"


def with_selection(
    components: RunComponents, config: RunConfig, progress: Progress = Progress()
) -> RunComponents:
    """Divide the held-out text where it decides on the weights; too little of it serves for both, which is logged.

    General text is divided only where its loss has a part in the choice: with ``export_alpha: auto``.
    """
    settings = config.train
    if chooses_weights(settings) and (parts := _divided(components.heldout, "held-out", config, progress)):
        components = replace(components, selection=parts[0], heldout=parts[1])
    if settings.export_alpha == "auto" and (
        parts := _divided(components.general, "general", config, progress)
    ):
        components = replace(components, general_selection=parts[0], general=parts[1])
    return components


def warn_of_few(components: RunComponents, settings: TrainSettings, progress: Progress) -> None:
    """Warn where the final metrics are going to have no interval, and say what to do about it."""
    most = FINAL_EVALUATION * settings.eval_tokens
    for text, name in ((components.heldout, "held-out"), (components.general, "held-out general")):
        if text is None or (count := text.evaluated_texts(most)) >= FEWEST_UNITS:
            continue
        way = "give more text, smaller documents (--documents line or block), or "
        way += "--heldout PATH" if name == "held-out" else "--general PATH"
        if text.tokens > most:
            way = f"evaluate more of it with --set train.eval_tokens={-(-text.tokens // FINAL_EVALUATION)}, or {way}"
        progress.warning(f"the {name} text: {no_interval(count)}, which needs {FEWEST_UNITS}; {way}")


def _divided(
    text: TextSource | None, name: str, config: RunConfig, progress: Progress
) -> list[TextSource] | None:
    """Return the part of a text that chooses the weights and the part that is reported."""
    if text is None:
        return None
    # Runs of earlier versions divided few documents alike.
    reported = 1 if config.data.heldout_minimum == 1 else FEWEST_UNITS
    first = halves(text.corpus.keys[text.documents], reported)
    parts = [text.part(text.documents[chosen]) for chosen in (first, ~first) if chosen.any()]
    if len(parts) == 2 and all(part.has_targets(config.train.eval_tokens) for part in parts):
        return parts
    progress.warning(
        f"the weights are chosen on the {name} documents that are reported, since {plural(len(text.documents), 'document')} "
        f"cannot be divided; the metrics are too good by what the choice gains"
    )
    return None


def halves(keys: np.ndarray, reported: int = FEWEST_UNITS) -> np.ndarray:
    """Return ``bool [D]``: which documents, by their ``uint64`` keys, choose the weights; the others are reported.

    Of more texts than ``reported``, at least so many are reported.
    """
    order = mix(keys ^ _KEY)
    bound, distinct = _HALF, np.unique(order)
    if len(distinct) > reported > 1:
        bound = max(bound, distinct[reported])
    return order >= bound


def selection_of(
    components: RunComponents, settings: TrainSettings, before: dict[str, float] | None
) -> dict[str, object] | None:
    """Return on what the weights were chosen, for ``evaluation.json``; ``None`` where the held-out loss chose nothing."""
    text: TextSource | None = components.selection or components.heldout
    if text is None or not chooses_weights(settings):
        return None
    size = {"documents": len(text.documents), "tokens": text.tokens}
    return size | {"is_reported": components.selection is None, "before": before}
