from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unmask.model.depth import encoder_layers
from unmask.model.masked_lm import MaskedLM

Load = Callable[..., MaskedLM]

# ALBERT's one layer stands for all; DeBERTa and MPNet take no packed rows.
SHORT = {
    "bert": True,
    "roberta": True,
    "distilbert": True,
    "electra": True,
    "albert": False,
    "deberta-v2": False,
    "modernbert": True,
    "eurobert": True,
    "mpnet": False,
}


@pytest.mark.parametrize(("architecture", "short"), SHORT.items())
def test_where_the_last_layer_can_be_short(load: Load, architecture: str, short: bool) -> None:
    assert load(architecture).short_last_layer is short


@pytest.mark.parametrize("architecture", [name for name, short in SHORT.items() if short])
def test_the_short_layer_gives_what_the_whole_one_gives(
    load: Load, make_batch: Any, architecture: str
) -> None:
    """Logits and the gradient of every weight, also of those that only the places left out go through."""
    model = load(architecture)
    batch = make_batch(model.vocabulary, [30, 30, 17, 4, 1])
    everywhere = replace(batch, target_index=np.arange(batch.tokens), target_ids=batch.input_ids)
    found = model.target_logits(batch)
    with model.plain() as raw, torch.no_grad():
        cuts = zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)
        rows = [raw(input_ids=torch.from_numpy(batch.input_ids[a:b])[None]).logits[0] for a, b in cuts]
    torch.testing.assert_close(found, torch.cat(rows)[batch.target_index], rtol=1e-5, atol=1e-5)
    gradients = []
    for logits in (found, model.target_logits(everywhere)[torch.from_numpy(batch.target_index)]):
        logits.square().mean().backward()
        gradients.append({name: w.grad for name, w in model.model.named_parameters() if w.grad is not None})
        model.model.zero_grad(set_to_none=True)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_what_is_not_asked_about_is_not_computed(load: Load, make_batch: Any, architecture: str) -> None:
    model = load(architecture)
    batch = make_batch(model.vocabulary, [20, 9])
    layers = encoder_layers(model.model)[1]
    seen: list[list[int]] = []
    for layer in layers:
        rows: list[int] = []
        seen.append(rows)
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda _m, args, _o, rows=rows: rows.append(args[0].shape[-2]))
    model.target_logits(batch)
    assert set(seen[0]) == {batch.tokens}
    targets = len(batch.target_ids)
    projections = {"bert": 3, "modernbert": 1}[architecture]  # query, key and value
    others = len(seen[1]) - projections
    assert seen[1] == [batch.tokens] * projections + [targets] * others


def test_a_model_called_by_its_users_computes_all(load: Load, make_batch: Any) -> None:
    model = load("modernbert")
    batch = make_batch(model.vocabulary, [9, 4])
    model.target_logits(batch)
    with model.plain() as raw, torch.no_grad():
        assert raw(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.shape[:2] == (1, 4)


def test_with_gradient_checkpoints_the_last_layer_is_whole(load: Load) -> None:
    model = load("bert")
    model.model.gradient_checkpointing_enable()
    assert not model.short_last_layer
