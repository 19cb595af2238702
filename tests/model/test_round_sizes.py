from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from unmask.model.masked_lm import MaskedLM
from unmask.model.shapes import pad_to_round_size, round_up


def test_round_sizes_are_few_and_near() -> None:
    sizes = sorted({round_up(count, 64) for count in range(4096, 8193)})
    assert len(sizes) == 65
    assert {b - a for a, b in pairwise(sizes)} == {64}
    for count in range(1, 5000):
        assert 0 <= round_up(count, 64) - count < count / 64
    assert [round_up(count, 64) for count in (0, 1, 127, 129, 4033)] == [0, 1, 127, 130, 4064]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "albert"])
def test_what_fills_a_batch_changes_nothing(
    load: Callable[..., MaskedLM], make_batch: Any, architecture: str
) -> None:
    """Logits at the targets and the gradient of every weight are those of the batch as it was."""
    model = load(architecture)
    batch = make_batch(model.vocabulary, [40] * 10 + [39, 20, 7])
    filled = pad_to_round_size(batch, model.vocabulary.pad_id)
    count = len(batch.target_ids)
    assert (batch.tokens, filled.tokens) == (466, 468)
    assert len(filled.target_index) == round_up(count, 16) > count
    assert np.array_equal(filled.target_ids, batch.target_ids)
    found = []
    for given in (batch, filled):
        logits = model.target_logits(given)
        logits[:count].square().mean().backward()
        found.append((logits[:count].detach(), model.model.get_input_embeddings().weight.grad.clone()))
        found[-1] += tuple(w.grad.clone() for w in model.model.parameters() if w.grad is not None)
        model.model.zero_grad(set_to_none=True)
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_a_batch_is_filled_where_more_rows_are_taken(load: Callable[..., MaskedLM], make_batch: Any) -> None:
    model = load("bert")
    batch = make_batch(model.vocabulary, [40] * 10 + [39, 20, 7])
    count = len(batch.target_ids)
    with torch.no_grad():
        exact, filled = model.target_logits(batch), model.target_logits(batch, filled=True)
    assert (len(exact), len(filled)) == (count, round_up(count, 16))
    torch.testing.assert_close(filled[:count], exact, rtol=1e-5, atol=1e-5)


def test_a_round_batch_is_left_as_it_is(load: Callable[..., MaskedLM], make_batch: Any) -> None:
    batch = make_batch(load("bert").vocabulary, [4, 3], rate=0.9)
    assert pad_to_round_size(batch, 0) is batch


def test_a_sequence_of_filling_fits_any_table_of_positions(
    make_batch: Any, load: Callable[..., MaskedLM]
) -> None:
    """However many tokens it has, and however short the longest sequence may be."""
    batch = make_batch(load("bert").vocabulary, [8] * 1025)
    filled = pad_to_round_size(batch, 0)
    assert filled.tokens - batch.tokens == 120
    assert filled.position_ids.max() == 7
