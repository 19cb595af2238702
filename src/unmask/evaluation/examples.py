"""Masked passages with the predictions of a model, as examples for the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unmask.config.settings import MaskingSettings
from unmask.data.batches import Batch, TextSource
from unmask.data.masking.random_bits import EVALUATION_KEY
from unmask.data.tokenizer import token_names
from unmask.model.base import LanguageModel

_ATTACHED = set(".,;:!?)]}%'’”»")


@torch.no_grad()
def fill_examples(
    model: LanguageModel, source: TextSource, count: int, length: int = 64
) -> list[dict[str, Any]]:
    """Mask passages of held-out text and fill them.

    Args:
        model: the model.
        source: held-out text.
        count: how many passages.
        length: tokens of a passage, at most.

    Returns:
        One dictionary a passage, as ``examples.json`` holds them: ``tokens``, ``words_before`` (whether a space
        goes before each), and ``targets`` with the five most probable fillings of each mask.
    """
    shown = TextSource(
        source.corpus,
        source.documents,
        source.vocabulary,
        MaskingSettings(rate=source.masking.rate, mask_share=1.0, random_share=0.0),
        min(length, model.max_length),
    )
    numbers = (np.array([number]) for number in _choose(shown, count))
    batches = (shown.batch(number, EVALUATION_KEY, shown.masking.rate) for number in numbers)
    with model.evaluating():
        return [_example(model, batch) for batch in batches if len(batch.target_ids)]


def _choose(source: TextSource, count: int) -> np.ndarray:
    """Choose passages: longer ones first, then the beginnings of documents, by the hash of the document."""
    numbers = np.arange(len(source.sequences))
    which, start, body = source.sequences.locate(numbers)
    keys = source.corpus.keys[source.documents[which]]
    short = body < min(16, source.sequences.split.body)
    return numbers[np.lexsort((start, keys, start > 0, short))][:count]


def _example(model: LanguageModel, batch: Batch) -> dict[str, Any]:
    vocabulary = model.vocabulary
    front, back = len(vocabulary.prefix), len(vocabulary.suffix)
    original = batch.input_ids.copy()
    original[batch.target_index] = batch.target_ids
    text = slice(front, len(original) - back)
    probabilities = model.target_logits(batch).float().softmax(-1)
    top = probabilities.topk(5)
    rank = (probabilities > probabilities.gather(1, _column(batch.target_ids, probabilities))).sum(-1) + 1
    names = [readable(token) for token in _names(model, original[text])]
    targets = []
    for row, (place, token) in enumerate(zip(batch.target_index, batch.target_ids, strict=True)):
        filled = _names(model, top.indices[row].cpu().numpy())
        targets.append(
            {
                "index": int(place) - front,
                "original": readable(_names(model, np.array([token]))[0])[1],
                "shown": str(model.tokenizer.mask_token),
                "predictions": [
                    {"token": readable(name)[1], "probability": float(share)}
                    for name, share in zip(filled, top.values[row], strict=True)
                ],
                "rank": int(rank[row]),
            }
        )
    return {
        "tokens": [name for _, name in names],
        "words_before": [before and place > 0 for place, (before, _) in enumerate(names)],
        "targets": targets,
    }


def _names(model: LanguageModel, ids: np.ndarray) -> list[str]:
    return token_names(model.tokenizer, model.vocabulary, ids.tolist())


def _column(ids: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(ids).to(like.device).unsqueeze(1)


def readable(token: str) -> tuple[bool, str]:
    """Return whether a space goes before a vocabulary entry, and its text without the tokenizer's marks."""
    if token.startswith("##"):
        return False, token[2:]
    if token[:1] in ("Ġ", "▁"):
        return True, token[1:] or " "
    return token not in _ATTACHED, token
