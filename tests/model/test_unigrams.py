from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unmask.model.unigram_bias import set_unigram_bias


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_a_new_model_says_how_often_a_token_occurs(tiny_model: Any, architecture: str) -> None:
    """Not exactly: its weights are new, not zero, and add to the bias what they add without it."""
    model = tiny_model(architecture, 200)
    ids = torch.tensor([[5, 6, 7]])
    counts = np.arange(180)
    with torch.no_grad():
        before = model(input_ids=ids).logits - model.get_output_embeddings().bias
        assert set_unigram_bias(model, counts)
        added = (model(input_ids=ids).logits - before).double()
    seen = np.concatenate([np.maximum(counts, 1), np.ones(20)])
    wanted = torch.from_numpy(np.log(seen / seen.sum())).expand(1, 3, -1)
    torch.testing.assert_close(added, wanted, rtol=1e-4, atol=1e-4)


def test_a_head_without_a_bias_stays_as_it_is(tiny_model: Any) -> None:
    model = tiny_model("modernbert", 200, decoder_bias=False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    assert not set_unigram_bias(model, np.ones(200, dtype=np.int64))
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
