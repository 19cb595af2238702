"""Embeddings of whole texts: the tokens of the last layer, special tokens included, pooled as sentence-transformers does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unmask.data.packing import split_by_tokens
from unmask.errors import DataError
from unmask.inference.predict import TOKENS_AT_ONCE
from unmask.model.pooling import MEAN, Mode, Pooling

if TYPE_CHECKING:
    from unmask.model.base import LanguageModel

_POOL: dict[Mode, Callable[[Tensor], Tensor]] = {
    "mean": lambda tokens: tokens.mean(0),
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.amax(0),
}


class Embedder:
    """Embeds texts with one model.

    Args:
        model: the model.
        pooling: how the tokens of a text become one embedding.

    Attributes:
        size: ``H``, numbers in an embedding.
    """

    def __init__(self, model: LanguageModel, pooling: Pooling = MEAN) -> None:
        self.model, self.pooling = model, pooling
        self.size = model.hidden_size

    def rows(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ``int64 [n]`` token ids of each text, special tokens included."""
        return [self.model.vocabulary.framed(ids) for ids in self.model.text_encoder(texts)]

    def __call__(self, texts: Sequence[str], *, normalize: bool = False) -> np.ndarray:
        """Return ``float32 [N, H]`` embeddings; the names of special tokens in a text are text.

        Args:
            texts: ``N`` texts, each at most as long as the model takes.
            normalize: scale every embedding to length 1; some poolings do so in any case.

        Raises:
            DataError: a text is longer.
        """
        rows = self.rows(texts)
        sizes = np.array([len(row) for row in rows], dtype=np.int64)
        if len(sizes) and sizes.max() > self.model.max_length:
            raise DataError(
                f"text {int(sizes.argmax()) + 1} has {sizes.max():,} tokens with its special tokens, the model takes "
                f"{self.model.max_length:,}; give it in parts"
            )
        out = np.empty((len(rows), self.size), dtype=np.float32)
        order = np.argsort(-sizes, kind="stable")
        budget = TOKENS_AT_ONCE["cuda" if self.model.device.type == "cuda" else "cpu"]
        with torch.inference_mode(), self.model.evaluating():
            for part in split_by_tokens(sizes[order], budget):
                numbers = order[part]
                out[numbers] = self._pooled([rows[number] for number in numbers], sizes[numbers])
        if normalize or self.pooling.normalize:
            out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        return out

    def _pooled(self, rows: Sequence[np.ndarray], sizes: np.ndarray) -> np.ndarray:
        """Return ``[N, H]`` embeddings of rows in descending order of length."""
        hidden = self.model.hidden_states(np.concatenate(rows), np.cumsum([0, *sizes]))
        parts = torch.split(hidden.float(), sizes.tolist())
        pooled: np.ndarray = torch.stack([_POOL[self.pooling.mode](part) for part in parts]).cpu().numpy()
        return pooled
