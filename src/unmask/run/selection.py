"""Held-out text in two halves: the exported weights are chosen on one, all reported metrics are of the other.

The best of ten evaluations is better than the model is. Which half a document is in is a function of its text alone; of few
documents as many are reported as an interval needs, and only the others choose the weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from unmask.config.settings import RunConfig, TrainSettings
from unmask.data.batches import TextSource
from unmask.data.heldout_size import FEWEST_UNITS, smaller_documents
from unmask.data.masking.random_bits import mix
from unmask.errors import plural
from unmask.progress import Progress
from unmask.reporting.format import no_interval
from unmask.run.components import RunComponents
from unmask.run.results import FINAL_EVALUATION
from unmask.run_folder import RunFolder
from unmask.storage import read_json

_KEY = np.uint64(0x5E1EC7104A1F5E7D)
_HALF = np.uint64(1 << 63)
_TOO_GOOD = "the weights are chosen on the {} documents that are reported, since {}; the metrics are too good by what the choice gains"


def chooses_weights(settings: TrainSettings) -> bool:
    """Return whether the held-out loss decides which weights are exported, or when the run ends."""
    return bool(settings.export_best or settings.patience) or settings.export_alpha == "auto"


class Division(NamedTuple):
    """Which texts of a run are divided: those that have a part in the choice of its weights."""

    heldout: bool
    general: bool

    @staticmethod
    def by(settings: TrainSettings) -> Division:
        """Return what settings ask for."""
        return Division(chooses_weights(settings), settings.export_alpha == "auto")

    @staticmethod
    def of(folder: RunFolder) -> Division | None:
        """Return that of a run that has a checkpoint, else ``None``."""
        if not folder.info.is_file() or not any(folder.checkpoints.glob("step-*")):
            return None
        corpus = read_json(folder.info).get("corpus") or {}
        return Division("selection_documents" in corpus, "general_selection_documents" in corpus)


def with_selection(
    components: RunComponents,
    config: RunConfig,
    progress: Progress = Progress(),
    begun: Division | None = None,
) -> RunComponents:
    """Divide the texts that decide on the weights; too little of one serves for both, which is logged.

    Args:
        components: of the run.
        config: its settings, resolved.
        progress: told of a text that is not divided.
        begun: how a resumed run divided them, which stays: metrics before and after training must be of the same text.
    """
    wanted = Division.by(config.train)
    for name, kept in (("heldout", "selection"), ("general", "general_selection")):
        asked, what = getattr(wanted, name), "held-out" if name == "heldout" else name
        text = getattr(components, name)
        if text is None:
            continue
        if begun is not None and asked and not getattr(begun, name):
            progress.warning(_TOO_GOOD.format(what, "a resumed run divides no text anew"))
        divides = asked if begun is None else getattr(begun, name)
        if divides and (parts := _divided(text, what, config, progress)):
            changes: dict[str, Any] = {kept: parts[0], name: parts[1]}
            components = replace(components, **changes)
    return components


def warn_of_few(components: RunComponents, settings: TrainSettings, progress: Progress) -> None:
    """Warn where the final metrics are going to have no interval, and say what to do about it."""
    most = FINAL_EVALUATION * settings.eval_tokens
    for text, name in ((components.heldout, "held-out"), (components.general, "held-out general")):
        if text is None or (count := text.evaluated_texts(most)) >= FEWEST_UNITS:
            continue
        smaller = smaller_documents(text.corpus.manifest.get("read", {}).get("splits", ()))
        way = f"give more text, {f'{smaller}, ' if smaller else ''}or "
        way += "--heldout PATH" if name == "held-out" else "--general PATH"
        if text.tokens > most:
            way = f"evaluate more of it with --set train.eval_tokens={-(-text.tokens // FINAL_EVALUATION)}, or {way}"
        progress.warning(f"the {name} text: {no_interval(count)}, which needs {FEWEST_UNITS}; {way}")


def _divided(text: TextSource, name: str, config: RunConfig, progress: Progress) -> list[TextSource] | None:
    """Return the part of a text that chooses the weights and the part that is reported."""
    # Runs of earlier versions divided few documents alike.
    reported = 1 if config.data.heldout_minimum == 1 else FEWEST_UNITS
    first = halves(text.corpus.keys[text.documents], reported)
    parts = [text.part(text.documents[chosen]) for chosen in (first, ~first) if chosen.any()]
    if len(parts) == 2 and all(part.has_targets(config.train.eval_tokens) for part in parts):
        return parts
    progress.warning(_TOO_GOOD.format(name, f"{plural(len(text.documents), 'document')} cannot be divided"))
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
