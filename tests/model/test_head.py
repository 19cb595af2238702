from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unmask.errors import ConfigError
from unmask.model import head
from unmask.model.head import TargetSelector, find_head
from unmask.model.masked_lm import MaskedLM

# The first module after the encoder: what computes the logits, transform included.
HEADS = {
    "bert": "cls",
    "roberta": "lm_head",
    "distilbert": "vocab_transform",
    "electra": "generator_predictions",
    "albert": "predictions",
    "deberta-v2": "cls",
    "modernbert": "head",
    "eurobert": "lm_head",
    "mpnet": "lm_head",
}


@pytest.mark.parametrize(("architecture", "name"), HEADS.items())
def test_the_head_is_found_in_every_architecture(tiny_model: Any, architecture: str, name: str) -> None:
    model = tiny_model(architecture, 200)
    encoder = getattr(model, model.base_model_prefix)
    assert find_head(model, encoder, torch.tensor([[5, 6, 7]])) is getattr(model, name)
    assert not model.training


def test_looking_for_the_head_leaves_the_mode_and_no_hooks(tiny_model: Any) -> None:
    model = tiny_model("bert", 200).train()
    find_head(model, model.bert, torch.tensor([[5]]))
    assert model.training
    assert not any(child._forward_pre_hooks for child in model.children())


@pytest.mark.parametrize("architecture", HEADS)
def test_masked_only_is_the_full_head_on_those_rows(
    load: Callable[..., MaskedLM], make_batch: Any, architecture: str
) -> None:
    """Output and gradients, at the targets of sequences of several lengths."""
    model = load(architecture)
    batch = make_batch(model.vocabulary, [30, 30, 17, 4, 1])
    everywhere = replace(batch, target_index=np.arange(batch.tokens), target_ids=batch.input_ids)
    found = model.target_logits(batch)
    wanted = model.target_logits(everywhere)[torch.from_numpy(batch.target_index)]
    assert found.shape == (len(batch.target_ids), model.model.config.vocab_size)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    gradients = []
    for logits in (found, wanted):
        logits.square().mean().backward()
        weights = model.model.named_parameters()
        gradients.append({name: w.grad.clone() for name, w in weights if w.grad is not None})
        model.model.zero_grad(set_to_none=True)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_gate_lets_everything_pass_without_an_index() -> None:
    head = nn.Linear(3, 5)
    gate, hidden = TargetSelector(head), torch.randn(2, 4, 3)
    assert head(hidden).shape == (2, 4, 5)
    gate.index = torch.tensor([0, 7, 7])
    assert torch.equal(
        head(hidden), nn.functional.linear(hidden.reshape(-1, 3)[[0, 7, 7]], head.weight, head.bias)
    )
    gate.index = None
    assert head(hidden).shape == (2, 4, 5)


def test_the_gate_is_open_again_when_a_batch_fails(load: Callable[..., MaskedLM], make_batch: Any) -> None:
    model = load("bert")
    batch = make_batch(model.vocabulary, [6, 5])
    with pytest.raises(IndexError):
        model.target_logits(replace(batch, input_ids=batch.input_ids + 10**6))
    assert model.model(input_ids=torch.tensor([[5, 6, 7]])).logits.shape[:2] == (1, 3)


def test_a_model_without_a_head_is_refused(tiny_model: Any) -> None:
    class Headless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = tiny_model("bert", 200).bert

        def forward(self, input_ids: torch.Tensor) -> Any:
            return self.encoder(input_ids=input_ids)

    model = Headless()
    with pytest.raises(ConfigError, match="Headless calls no head after its encoder"):
        find_head(model, model.encoder, torch.tensor([[5]]))


@pytest.mark.parametrize("bias", [True, False])
def test_an_output_layer_of_round_size_gives_the_same(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are filled up on CUDA alone; here on the CPU, to see that nothing changes."""
    monkeypatch.setattr(head, "_PADDED_ON", "cpu")
    torch.manual_seed(0)
    plain = nn.Linear(8, 50, bias=bias)
    layer = deepcopy(plain)
    layer.__class__ = head.PaddedLinear
    rows = torch.randn(5, 8)
    found = []
    for module in (layer, plain):
        given = rows.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = module(given)
        out.float().square().sum().backward()
        found.append([out.detach(), given.grad, *(weight.grad for weight in module.parameters())])
    torch.testing.assert_close(*found)
    assert found[0][0].shape == (5, 50)
    assert list(layer.state_dict()) == list(plain.state_dict())
