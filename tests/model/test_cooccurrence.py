"""Embeddings that start from counts: tokens with the same neighbours are alike."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask.model.cooccurrence import set_token_vectors, token_vectors

WIDTH = 32
KINDS, OF_A_KIND = 4, 10


def kinds_in_turn(documents: int = 200, length: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return text in which a token of one kind follows one of the kind before, drawn at random."""
    draw = np.random.default_rng(0)
    kind = np.arange(length) % KINDS
    tokens = 5 + kind * OF_A_KIND + draw.integers(OF_A_KIND, size=(documents, length))
    return tokens.ravel(), np.arange(documents + 1) * length


def likeness(vectors: Tensor) -> Tensor:
    normed = torch.nn.functional.normalize(vectors, dim=1)
    return normed @ normed.T


def test_tokens_with_the_same_neighbours_are_alike() -> None:
    seen, vectors = token_vectors(*kinds_in_turn(), WIDTH, seed=0)
    assert seen.tolist() == list(range(5, 5 + KINDS * OF_A_KIND))
    torch.testing.assert_close(vectors.pow(2).mean(1), torch.ones(len(seen)))
    alike = likeness(vectors)
    kind = torch.arange(len(seen)) // OF_A_KIND
    same = kind[:, None] == kind
    assert alike[same].min() > alike[~same].max() + 0.3


def test_neighbours_of_other_documents_do_not_count() -> None:
    tokens, _ = kinds_in_turn(length=2)  # pairs of the first two kinds
    tokens = np.append(tokens, [90, 91])  # two documents of one token
    offsets = np.append(np.arange(0, len(tokens) - 1, 2), [len(tokens) - 1, len(tokens)])
    seen, _ = token_vectors(tokens, offsets, WIDTH, seed=0)
    assert seen.max() < 90


def test_the_same_seed_gives_the_same_vectors() -> None:
    once, again, other = (token_vectors(*kinds_in_turn(), WIDTH, seed=seed)[1] for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    torch.testing.assert_close(likeness(once), likeness(other), atol=0.02, rtol=0)


def test_a_text_without_pairs_has_no_vectors() -> None:
    for tokens in ([], [7], [7, 8, 9]):
        seen, vectors = token_vectors(
            np.array(tokens, dtype=np.int64), np.arange(len(tokens) + 1), WIDTH, seed=0
        )
        assert not len(seen)
        assert vectors.shape == (0, WIDTH)


def test_tokens_that_do_not_occur_keep_their_embeddings(tiny_model: Any) -> None:
    model = tiny_model("modernbert", 200)
    table = model.get_input_embeddings().weight
    before = table.detach().clone()
    seen = np.array([6, 8])
    assert set_token_vectors(model, seen, torch.ones(2, table.shape[1]))
    kept = np.setdiff1d(np.arange(len(table)), seen)
    assert torch.equal(table[kept], before[kept])
    torch.testing.assert_close(table[seen].std(), torch.tensor(0.0))
    assert not set_token_vectors(model, seen[:0], torch.zeros(0, table.shape[1]))
