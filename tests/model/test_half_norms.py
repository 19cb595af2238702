from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from unmask.model.masked_lm import MaskedLM
from unmask.model.norms import Bf16LayerNorm, use_bf16_norms
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum

Load = Callable[..., MaskedLM]


def outputs_of_norms(model: MaskedLM, batch: Any) -> list[torch.dtype]:
    found: list[torch.dtype] = []
    norms = [module for module in model.model.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_hook(lambda *given: found.append(given[2].dtype)) for norm in norms]
    model.target_logits(batch)
    for hook in hooks:
        hook.remove()
    assert len(found) >= 3
    return found


def make_whole(model: MaskedLM) -> None:
    """Put torch's own norms back."""
    for module in model.model.modules():
        if isinstance(module, Bf16LayerNorm):
            module.__class__ = nn.LayerNorm


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "mpnet"])
def test_norms_hand_on_half_precision_in_training_alone(
    load: Load, make_batch: Any, architecture: str
) -> None:
    model = load(architecture, precision="bf16")
    batch = make_batch(model.vocabulary, [20, 9])
    model.model.train()
    assert set(outputs_of_norms(model, batch)) == {torch.bfloat16}
    with torch.no_grad():
        untrained = outputs_of_norms(model, batch)
    model.model.eval()
    evaluated = outputs_of_norms(model, batch)
    make_whole(model)
    assert untrained == evaluated == outputs_of_norms(model, batch)
    assert torch.float32 in evaluated


def test_in_fp32_norms_are_as_they_were(load: Load, make_batch: Any) -> None:
    model = load("bert", precision="fp32")
    model.model.train()
    assert set(outputs_of_norms(model, make_batch(model.vocabulary, [9]))) == {torch.float32}
    assert not any(isinstance(module, Bf16LayerNorm) for module in model.model.modules())


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_gradients_stay_near_those_of_fp32(load: Load, make_batch: Any, architecture: str) -> None:
    """No further from them than with whole norms, give or take what chance makes of so few numbers."""
    half, whole, exact = (load(architecture, precision=name) for name in ("bf16", "bf16", "fp32"))
    make_whole(whole)
    batch = make_batch(exact.vocabulary, [60, 60, 30, 12])
    found = []
    for model in (half, whole, exact):
        model.model.eval()
        halved = [module for module in model.model.modules() if isinstance(module, Bf16LayerNorm)]
        for module in halved:
            module.training = True
        step_gradients(GradientSum(model), [batch], [len(batch.target_ids)])
        found.append(torch.cat([w.grad.ravel() for w in model.model.parameters() if w.grad is not None]))
    half_error, whole_error = ((part - found[2]).norm() / found[2].norm() for part in found[:2])
    assert 0 < half_error < 0.02
    assert half_error < 2 * whole_error


def test_only_plain_norms_are_halved() -> None:
    class Own(nn.LayerNorm):
        pass

    model = nn.Sequential(
        nn.LayerNorm(4), Own(4), nn.LayerNorm(4, elementwise_affine=False), nn.LayerNorm(4).double()
    )
    assert use_bf16_norms(model) == 1
    assert [type(layer).__name__ for layer in model] == ["Bf16LayerNorm", "Own", "LayerNorm", "LayerNorm"]
    assert use_bf16_norms(model) == 1


def test_a_norm_that_was_halved_is_saved_as_any_other() -> None:
    model = nn.Sequential(nn.LayerNorm(4))
    names = list(model.state_dict())
    use_bf16_norms(model)
    assert list(model.state_dict()) == names
