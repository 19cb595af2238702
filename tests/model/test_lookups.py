"""Rows that are added last leave the gradient as autograd makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from unmask.model.cpu.embeddings import defer_embedding_grad
from unmask.model.masked_lm import MaskedLM
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum

Load = Callable[..., MaskedLM]
Gradients = dict[str, torch.Tensor]


def gradients(model: MaskedLM, batches: list[Any]) -> Gradients:
    model.model.zero_grad(set_to_none=True)
    step_gradients(GradientSum(model), batches, [sum(len(batch.target_ids) for batch in batches)])
    return {name: w.grad for name, w in model.model.named_parameters() if w.grad is not None}


def by_autograd(model: MaskedLM, batches: list[Any], monkeypatch: pytest.MonkeyPatch) -> Gradients:
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "register_forward_hook", lambda *_, **__: NoHook())
        return gradients(model, batches)


class NoHook:
    def remove(self) -> None:
        pass


def agree(found: Gradients, wanted: Gradients) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "albert", "deberta-v2", "mpnet"])
def test_the_gradient_is_that_of_autograd(
    load: Load, make_batch: Any, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """With two micro-batches, and with rows that stand for the filler among the tokens."""
    model = load(architecture)
    batches = [make_batch(model.vocabulary, [20, 9]), make_batch(model.vocabulary, [14, 3, 3])]
    batches[0].input_ids[4] = model.vocabulary.pad_id
    agree(gradients(model, batches), by_autograd(model, batches, monkeypatch))


def test_an_embedding_of_its_own_is_left_to_autograd(
    tiny_model: Any, wordpiece_tokenizer: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MaskedLM(
        tiny_model("bert", len(wordpiece_tokenizer), tie_word_embeddings=False), wordpiece_tokenizer
    )
    batches = [make_batch(model.vocabulary, [20, 9])]
    found = gradients(model, batches)
    assert "bert.embeddings.word_embeddings.weight" in found
    agree(found, by_autograd(model, batches, monkeypatch))


@pytest.mark.parametrize("checkpoints", [False, True])
def test_frozen_embeddings_stay_without_gradient(load: Load, make_batch: Any, checkpoints: bool) -> None:
    model = load("bert")
    table = model.model.get_input_embeddings()
    table.weight.requires_grad_(False)
    if checkpoints:  # which let the looked-up rows take a gradient all the same
        model.model.gradient_checkpointing_enable()
        model.model.enable_input_require_grads()
    model.model.train()
    gradients(model, [make_batch(model.vocabulary, [9])])
    assert table.weight.grad is None


def test_a_loss_without_the_head_has_its_gradient_too(load: Load) -> None:
    table = (model := load("bert").model).get_input_embeddings()
    with defer_embedding_grad(model):
        table(torch.tensor([[3, 5, 3]])).sum().backward()
    assert table.weight.grad.sum(1).tolist()[3:6] == [
        2.0 * table.embedding_dim,
        0.0,
        1.0 * table.embedding_dim,
    ]


def test_a_pass_that_fails_leaves_nothing_behind(load: Load) -> None:
    model = load("bert").model
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    ids = torch.tensor([3])
    with pytest.raises(RuntimeError, match="does not require grad"), defer_embedding_grad(model):
        table(ids).detach().sum().backward()
    assert table.weight.grad is None
    assert table(ids).grad_fn is not None
