"""Held-out text in two halves: the exported weights are chosen on one, all reported metrics are of the other.

The best of ten evaluations is better than the model is. Which half a document is in is a function of its text alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unmask.config.settings import TrainSettings
from unmask.data.batches import TextSource
from unmask.data.masking.random_bits import mix
from unmask.errors import plural
from unmask.progress import Progress
from unmask.run.components import RunComponents

_KEY = np.uint64(0x5E1EC7104A1F5E7D)


def chooses_weights(settings: TrainSettings) -> bool:
    """Return whether the held-out loss decides which weights are exported, or when the run ends."""
    return bool(settings.export_best or settings.patience) or settings.export_alpha == "auto"


def with_selection(
    components: RunComponents, settings: TrainSettings, progress: Progress = Progress()
) -> RunComponents:
    """Divide the held-out text where it decides on the weights; too little of it serves for both, which is logged.

    General text is divided only where its loss has a part in the choice: with ``export_alpha: auto``.
    """
    if chooses_weights(settings) and (parts := _divided(components.heldout, "held-out", settings, progress)):
        components = replace(components, selection=parts[0], heldout=parts[1])
    if settings.export_alpha == "auto" and (
        parts := _divided(components.general, "general", settings, progress)
    ):
        components = replace(components, general_selection=parts[0], general=parts[1])
    return components


def _divided(
    text: TextSource | None, name: str, settings: TrainSettings, progress: Progress
) -> list[TextSource] | None:
    """Return the part of a text that chooses the weights and the part that is reported."""
    if text is None:
        return None
    first = halves(text.corpus.keys[text.documents])
    parts = [text.part(text.documents[chosen]) for chosen in (first, ~first) if chosen.any()]
    if len(parts) == 2 and all(part.has_targets(settings.eval_tokens) for part in parts):
        return parts
    progress.warning(
        f"the weights are chosen on the {name} documents that are reported, since {plural(len(text.documents), 'document')} "
        f"cannot be divided; the metrics are too good by what the choice gains"
    )
    return None


def halves(keys: np.ndarray) -> np.ndarray:
    """Return ``bool [D]``: which documents, by their ``uint64`` keys, choose the weights; the others are reported."""
    return mix(keys ^ _KEY) >> np.uint64(63) == 1


def selection_of(
    components: RunComponents, settings: TrainSettings, before: dict[str, float] | None
) -> dict[str, object] | None:
    """Return on what the weights were chosen, for ``evaluation.json``; ``None`` where the held-out loss chose nothing."""
    text: TextSource | None = components.selection or components.heldout
    if text is None or not chooses_weights(settings):
        return None
    size = {"documents": len(text.documents), "tokens": text.tokens}
    return size | {"is_reported": components.selection is None, "before": before}
