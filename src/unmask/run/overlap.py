"""Held-out text that occurs in the training text of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from unmask.data.overlap import find_overlap
from unmask.progress import Progress
from unmask.reporting.overlap import overlap_text
from unmask.run.components import RunComponents

_SMALL = 20_000_000
"""Tokens of training text that are compared within seconds, so before the first step; more after the last."""


def is_compared_first(texts: RunComponents) -> bool:
    """Return whether the texts are compared before training, since it takes seconds."""
    return sum(text.tokens for text in (texts.text, texts.replay) if text is not None) <= _SMALL


def overlaps(texts: RunComponents, progress: Progress) -> dict[str, dict[str, Any]]:
    """Compare the held-out texts with the training and the replay text; warn of documents that occur there.

    Returns:
        :class:`unmask.data.overlap.Overlap` as JSON, whether there is replay text, and whether the held-out one was split
        off one of them, by ``heldout`` and ``general``, for ``run.json``.
    """
    training = [text for text in (texts.text, texts.replay) if text is not None]
    found: dict[str, dict[str, Any]] = {}
    for name, text in (("heldout", texts.all_heldout), ("general", texts.all_general)):
        if text is not None:
            split_off = any(text.corpus.folder == other.corpus.folder for other in training)
            about = {"replay": texts.replay is not None, "split_off": split_off}
            found[name] = asdict(find_overlap(text, training)) | about
            if said := overlap_text(name, found[name]):
                progress.warning(said)
    return found
