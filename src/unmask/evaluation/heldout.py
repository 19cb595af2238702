"""Held-out figures on masks that never change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from unmask.data.batches import Batch
from unmask.model.masked_lm import MaskedLM


@dataclass(frozen=True)
class HeldoutFigures:
    """What a model makes of masked held-out tokens.

    Attributes:
        loss: mean cross-entropy per masked token, in nats.
        accuracy: share of masked tokens whose most probable filling is the token that stood there.
        masked_tokens: how many were asked.
        tokens: how many tokens the passages have, special tokens included.
    """

    loss: float
    accuracy: float
    masked_tokens: int
    tokens: int

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def to_dict(self) -> dict[str, float | int]:
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "masked_tokens": self.masked_tokens,
            "tokens": self.tokens,
        }


@torch.no_grad()
def evaluate(model: MaskedLM, batches: Iterable[Batch]) -> HeldoutFigures:
    """Score batches in evaluation mode; sums are kept in double precision.

    Raises:
        ValueError: there is no masked token in all of the batches.
    """
    training = model.model.training
    model.model.eval()
    loss, correct, asked, tokens = 0.0, 0, 0, 0
    try:
        for batch in batches:
            tokens += batch.tokens
            if not len(batch.target_ids):
                continue
            logits = model.target_logits(batch).float()
            labels = torch.from_numpy(batch.target_ids).to(logits.device)
            loss += float(F.cross_entropy(logits, labels, reduction="none").double().sum())
            correct += int((logits.argmax(-1) == labels).sum())
            asked += len(batch.target_ids)
    finally:
        model.model.train(training)
    if not asked:
        raise ValueError("the held-out text has no masked token; give more of it, or a higher mask rate")
    return HeldoutFigures(loss / asked, correct / asked, asked, tokens)
