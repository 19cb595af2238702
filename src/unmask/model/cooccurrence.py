"""Initialise the embeddings of a new model from which tokens occur near which in the training text.

With random embeddings a run first learns which tokens are alike. Counting shows that in seconds: tokens with the same
neighbours are alike. The vectors are the leading singular vectors of the positive pointwise mutual information between
a token and its neighbours, left and right each by themselves (Levy and Goldberg 2014, "Neural Word Embedding as Implicit
Matrix Factorization"; Levy, Goldberg and Dagan 2015), by a randomised decomposition (Halko, Martinsson and Tropp 2011).

Shapes: V tokens of the vocabulary that are counted, W the width of the embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_TOKENS = 5_000_000
"""Tokens of text to count."""
_MOST_ROWS = 32_768
"""Tokens of the vocabulary that get vectors, the most frequent ones; others keep their random embeddings."""
_DISTANCES = (1, 2)
_SMOOTHING = 0.75  # of the neighbours' frequencies, without which rare ones weigh too much (Levy et al. 2015)
_MOST_RANK = 256
_SPARE, _ITERATIONS = 16, 1  # of the randomised decomposition
_STRENGTH = 4.5
"""Length of the vectors, compared with random embeddings."""


def token_vectors(
    tokens: np.ndarray, offsets: np.ndarray, width: int, seed: int
) -> tuple[np.ndarray, Tensor]:
    """Return vectors of the tokens of a text: those with the same neighbours lie near each other.

    Args:
        tokens: ``int64 [T]``, documents end to end.
        offsets: ``int64 [D + 1]``, where each begins, then ``T``.
        width: of a vector.
        seed: of the decomposition and of the directions of the vectors.

    Returns:
        The tokens that have vectors, ``int64 [V]``, and the vectors, fp32 ``[V, W]`` with a mean square of 1.
    """
    if len(tokens) <= len(offsets):  # nearly no pairs
        return np.zeros(0, dtype=np.int64), torch.zeros(0, width)
    counts = np.bincount(tokens)
    seen = np.sort(np.argsort(-counts, kind="stable")[:_MOST_ROWS])
    seen = seen[counts[seen] > 0]
    number = np.full(len(counts), -1)
    number[seen] = np.arange(len(seen))
    text, document = number[tokens], np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    information = [_information(*_pairs(text, document, distance), len(seen)) for distance in _DISTANCES]
    draw = torch.Generator().manual_seed(seed)
    vectors = _left_vectors([part for pair in information for part in pair], min(width, _MOST_RANK), draw)
    known = vectors.pow(2).sum(1) > 0
    seen, vectors = seen[known.numpy()], vectors[known]
    vectors = vectors / vectors.pow(2).mean(1, keepdim=True).sqrt()
    # A rotation, so that no direction of the model is special; where it is wider, the vectors lie in a part of it.
    directions = torch.linalg.qr(torch.randn(width, width, generator=draw))[0][: vectors.shape[1]]
    return seen, vectors @ directions * (width / vectors.shape[1]) ** 0.5


@torch.no_grad()
def set_token_vectors(model: PreTrainedModel, tokens: np.ndarray, vectors: Tensor) -> bool:
    """Replace the random embeddings of some tokens, ``int64 [V]``; return whether there are any."""
    table = model.get_input_embeddings().weight
    size = _STRENGTH * table.pow(2).mean().sqrt()  # type: ignore[operator]
    table[torch.from_numpy(tokens)] = vectors * size  # type: ignore[operator]
    return bool(len(tokens))


def _pairs(text: np.ndarray, document: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of tokens at a distance within a document, left and right, ``int64 [n]`` both."""
    left, right = text[:-distance], text[distance:]
    inside = (document[distance:] == document[:-distance]) & (left >= 0) & (right >= 0)
    return left[inside], right[inside]


def _information(left: np.ndarray, right: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
    """Return the positive pointwise mutual information of tokens with what is on their right, and on their left.

    Both are sparse ``[V, V]``.
    """
    keys, counts = np.unique(left * size + right, return_counts=True)
    rows, columns = np.divmod(keys, size)
    of_left, of_right = np.bincount(left, minlength=size), np.bincount(right, minlength=size)

    def matrix(token: np.ndarray, near: np.ndarray, of_token: np.ndarray, of_near: np.ndarray) -> Tensor:
        share = of_near**_SMOOTHING / max((of_near**_SMOOTHING).sum(), 1.0)
        value = np.log(counts / (of_token[token] * share[near]))
        kept = value > 0
        index = torch.from_numpy(np.stack([token[kept], near[kept]]))
        values = torch.from_numpy(value[kept].astype(np.float32))
        return torch.sparse_coo_tensor(index, values, (size, size), check_invariants=False).coalesce()

    return matrix(rows, columns, of_left, of_right), matrix(columns, rows, of_right, of_left)


def _left_vectors(parts: list[Tensor], rank: int, draw: torch.Generator) -> Tensor:
    """Return the left singular vectors of sparse ``[V, n]`` parts side by side, times the singular values, ``[V, rank]``."""
    rows = parts[0].shape[0]
    rank = min(rank, rows)

    def through(basis: Tensor) -> Tensor:
        product = torch.zeros_like(basis)
        for part in parts:
            product += part @ (part.T @ basis)
        return product

    basis = through(torch.randn(rows, min(rows, rank + _SPARE), generator=draw))
    for _ in range(_ITERATIONS):
        basis = through(torch.linalg.qr(basis)[0])
    basis = torch.linalg.qr(basis)[0]
    square = basis.T @ through(basis)
    values, vectors = torch.linalg.eigh((square + square.T) / 2)
    order = values.argsort(descending=True)[:rank]
    return basis @ vectors[:, order] * values[order].clamp(min=0).sqrt()
