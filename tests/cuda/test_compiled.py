"""Compiled layers: the model is traced whole, gives the same, and is compiled for a few shapes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from unmask.errors import ConfigError
from unmask.model.masked_lm import MaskedLM
from unmask.model.shapes import pad_to_round_size

Load = Callable[..., MaskedLM]
PACKED = ("bert", "roberta", "distilbert", "electra", "modernbert", "eurobert")
LENGTHS = [30, 30, 17, 4, 1]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing compiled is left over from another test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(model: MaskedLM, batch: Any) -> dict[str, torch.Tensor]:
    model.model.zero_grad(set_to_none=True)
    logits = model.target_logits(batch, filled=True)[: len(batch.target_ids)]  # the rest is filling
    logits.square().mean().backward()
    return {name: w.grad for name, w in model.model.named_parameters() if w.grad is not None}


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("architecture", [*PACKED, "albert"])
def test_a_model_is_traced_without_a_break(load: Load, make_batch: Any, architecture: str) -> None:
    """From ids to logits at the targets, the last layer and the head with them."""
    model = load(architecture)
    model.model.train()
    batch = make_batch(model.vocabulary, LENGTHS)
    wanted = gradients(model, batch)
    model.model.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    found = gradients(model, batch)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("architecture", "checkpoints"), [("bert", False), ("modernbert", True), ("eurobert", False)]
)
def test_compiled_layers_have_the_same_gradient(
    load: Load, make_batch: Any, architecture: str, checkpoints: bool
) -> None:
    model, compiled = load(architecture), load(architecture)
    compiled.compile_layers(backend="aot_eager")
    for one in (model, compiled):
        one.model.train()
        if checkpoints:
            one.model.gradient_checkpointing_enable()
    for seed in range(2):
        batch = make_batch(model.vocabulary, LENGTHS, seed=seed)
        wanted, found = gradients(model, batch), gradients(compiled, batch)
        assert found.keys() == wanted.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.usefixtures("kernel")
def test_layers_of_one_kind_are_compiled_once_and_evaluation_is_not(load: Load, make_batch: Any) -> None:
    """The documents of a batch have other lengths than those of the one before."""
    counter = CompileCounterWithBackend("eager")
    model = load("bert")
    model.compile_layers(backend=counter)  # type: ignore[arg-type]
    model.model.train()
    counts = set()
    for seed in range(10):
        lengths = [30] * 20 + [8] * 8 + [8 + seed, 8 - seed // 2]
        lengths.append(704 - sum(lengths))
        batch = make_batch(model.vocabulary, sorted(lengths, reverse=True), 0.15, seed)
        counts.add(len(pad_to_round_size(batch, 0, compiled=True).target_index))
        gradients(model, batch)
        with model.evaluating(), torch.no_grad():
            model.target_logits(make_batch(model.vocabulary, [seed + 1, 2]))
    # The first layer once; the last one, which computes the targets only, in two parts for each round number of them.
    assert counter.frame_count <= 1 + 2 * len(counts) < 10


def test_where_nothing_is_compiled(load: Load) -> None:
    with pytest.raises(
        ConfigError, match=r"train.compile needs a GPU .*BertForMaskedLM is computed in packed batches on cpu"
    ):
        load("bert").compile_layers()
    with pytest.raises(ConfigError, match="MPNetForMaskedLM is computed in padded batches"):
        load("mpnet").compile_layers(backend="eager")
