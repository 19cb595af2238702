from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unmask.model.layers import encoder_layers
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


PROJECTIONS = {"bert": 3, "modernbert": 1}  # linear layers for query, key and value


def rows_by_layer(model: MaskedLM, batch: Any) -> list[list[int]]:
    """Return how many rows every linear layer of the first and the last layer gets, in the order of calls."""
    layers = encoder_layers(model.model)[1]
    seen: list[list[int]] = []
    hooks = []
    for layer in (layers[0], layers[-1]):
        rows: list[int] = []
        seen.append(rows)
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                hook = module.register_forward_hook(
                    lambda _m, args, _o, rows=rows: rows.append(args[0].shape[-2])
                )
                hooks.append(hook)
    model.target_logits(batch)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("architecture", PROJECTIONS)
def test_what_is_not_asked_about_is_not_computed(
    load: Load, make_batch: Any, architecture: str, checkpoints: bool
) -> None:
    model = load(architecture)
    model.model.train()
    if checkpoints:
        model.model.gradient_checkpointing_enable()
    batch = make_batch(model.vocabulary, [20, 9])
    first, last = rows_by_layer(model, batch)
    assert set(first) == {batch.tokens}
    own = PROJECTIONS[architecture]
    assert last == [batch.tokens] * own + [len(batch.target_ids)] * (len(last) - own)


def test_a_model_called_by_its_users_computes_all(load: Load, make_batch: Any) -> None:
    model = load("modernbert")
    batch = make_batch(model.vocabulary, [9, 4])
    model.target_logits(batch)
    with model.plain() as raw, torch.no_grad():
        assert raw(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.shape[:2] == (1, 4)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_gradient_checkpoints_change_no_bit(load: Load, make_batch: Any, architecture: str) -> None:
    """The layer is as short where it is computed again, in the backward pass; with several micro-batches as well."""
    found = []
    for checkpoints in (False, True):
        model = load(architecture)
        model.model.train()
        if checkpoints:
            model.model.gradient_checkpointing_enable()
        for lengths in ([20, 9], [14, 14, 3]):
            model.target_logits(make_batch(model.vocabulary, lengths)).square().mean().backward()
        found.append([weight.grad for weight in model.model.parameters() if weight.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_checkpoints_of_the_other_kind_are_refused(load: Load, make_batch: Any) -> None:
    """They hand the layer copies in the backward pass, of which it could not tell what they are."""
    model = load("bert")
    model.model.train()
    model.model.gradient_checkpointing_enable({"use_reentrant": True})
    logits = model.target_logits(make_batch(model.vocabulary, [20, 9]))
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        logits.square().mean().backward()


def test_a_model_may_be_driven_by_two(load: Load, make_batch: Any) -> None:
    """Another `MaskedLM` around the same model finds the layer short and leaves it so."""
    model = load("bert")
    batch = make_batch(model.vocabulary, [20, 9])
    before = model.target_logits(batch)
    again = MaskedLM(model.model, model.tokenizer)
    assert again.short_last_layer
    assert torch.equal(again.target_logits(batch), before)
    assert torch.equal(copy.deepcopy(again).target_logits(batch), before)
