"""Held-out text that occurs in the training text of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.data.batches import TextSource
from unmask.data.overlap import find_overlap
from unmask.errors import on_one_line
from unmask.progress import Progress
from unmask.reporting.overlap import overlap_text
from unmask.run.components import RunComponents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SMALL = 20_000_000
"""Tokens of training text that are compared within seconds, so before the first step; more after the last."""
_SHOWN = 15
"""Tokens of a document that are shown."""


def is_compared_first(texts: RunComponents) -> bool:
    """Return whether the texts are compared before training, since it takes seconds."""
    return sum(text.tokens for text in (texts.text, texts.replay) if text is not None) <= _SMALL


def overlaps(texts: RunComponents, progress: Progress) -> dict[str, dict[str, Any]]:
    """Compare the held-out texts with the training and the replay text; warn of documents that occur there.

    Returns:
        :class:`unmask.data.overlap.Overlap` as JSON without its examples, whether there is replay text, and whether the held-out one was split
        off one of them, by ``heldout`` and ``general``, for ``run.json``.
    """
    training = [text for text in (texts.text, texts.replay) if text is not None]
    found: dict[str, dict[str, Any]] = {}
    for name, text in (("heldout", texts.all_heldout), ("general", texts.all_general)):
        if text is not None:
            split_off = any(text.corpus.folder == other.corpus.folder for other in training)
            about = {"replay": texts.replay is not None, "split_off": split_off}
            found[name] = asdict(find_overlap(text, training)) | about
            examples = found[name].pop("examples")
            if said := overlap_text(name, found[name]):
                began = "; ".join(_beginning(text, document, texts.model.tokenizer) for document in examples)
                progress.warning(f"{said}. Such documents begin: {began}")
    return found


def _beginning(text: TextSource, document: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return how a document begins, as the tokenizer writes it: shards hold neither its text nor its place in a file."""
    first = min(_SHOWN, int(text.corpus.lengths[document]))
    ids = text.corpus.gather(np.array([document]), np.array([0]), np.array([first]))
    begins = on_one_line(" ".join(str(tokenizer.decode(ids)).split()))
    return f"'{begins}{' …' if first < text.corpus.lengths[document] else ''}'"
