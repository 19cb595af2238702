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

_LEAST_TOKENS = 1_000
"""Of a smaller training text is warned; ``unmask check`` finds texts small that are much larger."""
_KEY = np.uint64(0x5E1EC7104A1F5E7D)
_HALF = np.uint64(1 << 63)
_TOO_GOOD = "the weights are chosen on the {} documents that are reported, since {}; the metrics are too good by what the choice gains"


def chooses_weights(settings: TrainSettings) -> bool:
    """Return whether the held-out loss decides which weights are exported, or when the run ends."""
    return bool(settings.export_best or settings.patience) or settings.export_alpha == "auto"


class Division(NamedTuple):
    """How the texts of a run that was begun are divided: the number of documents that choose its weights, 0 for none."""

    heldout: int
    general: int

    @staticmethod
    def of(folder: RunFolder) -> Division | None:
        """Return that of a run that has a checkpoint, else ``None``."""
        if not folder.info.is_file() or not any(folder.checkpoints.glob("step-*")):
            return None
        corpus = read_json(folder.info).get("corpus") or {}
        return Division(*(corpus.get(f"{name}selection_documents", 0) for name in ("", "general_")))


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
    wanted = {"heldout": chooses_weights(config.train), "general": config.train.export_alpha == "auto"}
    for name, kept in (("heldout", "selection"), ("general", "general_selection")):
        asked, what = wanted[name], "held-out" if name == "heldout" else name
        text = getattr(components, name)
        if text is None:
            continue
        if begun is not None and asked and not getattr(begun, name):
            progress.warning(_TOO_GOOD.format(what, "a resumed run divides no text anew"))
        divides = asked if begun is None else getattr(begun, name)
        if divides and (parts := _divided(text, what, config, progress, begun and getattr(begun, name))):
            changes: dict[str, Any] = {kept: parts[0], name: parts[1]}
            components = replace(components, **changes)
    return components


def warn_of_few(components: RunComponents, settings: TrainSettings, progress: Progress) -> None:
    """Warn of a training text that is too small to learn from, and where the final metrics are going to have no interval."""
    if components.text.tokens < _LEAST_TOKENS:
        progress.warning(
            f"the training text has {plural(components.text.tokens, 'token')}, fewer than {_LEAST_TOKENS:,}: a model can only memorise "
            f"so little; give more text"
        )
    most = FINAL_EVALUATION * settings.eval_tokens
    for text, name in ((components.heldout, "held-out"), (components.general, "held-out general")):
        if text is None:
            continue
        keys = text.corpus.keys[text.documents]
        if (count := len(np.unique(keys[text.targeted(most)]))) >= FEWEST_UNITS:
            continue
        smaller = smaller_documents(text.corpus.manifest.get("read", {}).get("splits", ()))
        way = f"give more text, {f'{smaller}, ' if smaller else ''}or "
        way += "--heldout PATH" if name == "held-out" else "--general PATH"
        if text.tokens > most:
            way = f"evaluate more of it with --set train.eval_tokens={-(-text.tokens // FINAL_EVALUATION)}, or {way}"
        of = f" with a masked token, of {texts}" if (texts := len(np.unique(keys))) > count else ""
        progress.warning(f"the {name} text: {no_interval(count)}, which needs {FEWEST_UNITS}{of}; {way}")


def _divided(
    text: TextSource, name: str, config: RunConfig, progress: Progress, begun: int | None
) -> list[TextSource] | None:
    """Return the part of a text that chooses the weights, of ``begun`` documents in a resumed run, and the part that is reported."""
    keys = text.corpus.keys[text.documents]
    if begun:
        order = mix(keys ^ _KEY)
        first = order >= np.sort(order)[len(order) - begun]
    else:
        first = halves(keys, text.targeted(FINAL_EVALUATION * config.train.eval_tokens))
    parts = [text.part(text.documents[chosen]) for chosen in (first, ~first) if chosen.any()]
    if len(parts) == 2 and all(part.has_targets(config.train.eval_tokens) for part in parts):
        return parts
    progress.warning(_TOO_GOOD.format(name, f"{plural(len(text.documents), 'document')} cannot be divided"))
    return None


def halves(keys: np.ndarray, targeted: np.ndarray | None = None) -> np.ndarray:
    """Return ``bool [D]``: which documents, by their ``uint64`` keys, choose the weights; the others are reported.

    As many are reported as an interval needs, if there are more; only those that are ``targeted`` (``bool [D]``, by default
    all) count.
    """
    order = mix(keys ^ _KEY)
    counted = np.unique(order if targeted is None else order[targeted])
    bound = _HALF
    if len(counted) >= FEWEST_UNITS:
        others = np.unique(order[order > counted[FEWEST_UNITS - 1]])
        bound = max(bound, others[0]) if len(others) else bound
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
