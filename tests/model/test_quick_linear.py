"""What makes linear layers quick to ask changes nothing in what they say."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from unmask.model.cpu import linear
from unmask.model.cpu.linear import OneDnnLinear, use_onednn_linear
from unmask.model.masked_lm import MaskedLM

pytestmark = pytest.mark.skipif(
    not use_onednn_linear(nn.Sequential(nn.Linear(2, 2))),
    reason="this torch has no oneDNN with laid-out weights",
)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 7), nn.GELU(), nn.Linear(7, 5, bias=False))


def pair() -> tuple[nn.Sequential, nn.Sequential]:
    """The same network twice; the second is quick."""
    quick = network()
    use_onednn_linear(quick)
    return network(), quick


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(12,), (1, 12), (2, 5, 12), (300, 12), (3, 0, 12)])
def test_products_are_those_of_a_linear_layer(shape: tuple[int, ...]) -> None:
    plain, quick = pair()
    with torch.inference_mode():
        torch.testing.assert_close(quick(rows(*shape)), plain(rows(*shape)), rtol=1e-5, atol=1e-6)
        turned = rows(12, 4).T
        torch.testing.assert_close(quick(turned), plain(turned), rtol=1e-5, atol=1e-6)


def test_all_plain_layers_become_quick_once() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(4, 4), nn.Linear(4, 4).half(), nn.Linear(4, 4), nn.ReLU())
    assert use_onednn_linear(model) == use_onednn_linear(model) == 1
    assert [type(layer) for layer in model] == [Own, nn.Linear, OneDnnLinear, nn.ReLU]


def _scaled(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.mul_(2)


def _other_data(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data * 2


def _other_parameter(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.detach() * 2)


def _other_bias(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.bias.add_(1)


def _fused_step(layer: nn.Linear) -> None:
    """Fused optimizers change weights without counting it."""
    counted = layer.weight._version
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    layer(rows(3, 12)).square().sum().backward()
    optimizer.step()
    assert layer.weight._version == counted


@pytest.mark.parametrize("change", [_scaled, _other_data, _other_parameter, _other_bias, _fused_step])
def test_a_changed_layer_is_seen(change: Callable[[nn.Linear], None]) -> None:
    plain, quick = pair()
    with torch.inference_mode():
        before = quick(rows(3, 12))
    for model in (plain, quick):
        change(model[0])
    with torch.inference_mode():
        after = quick(rows(3, 12))
        torch.testing.assert_close(after, plain(rows(3, 12)), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(after, before)


def test_gradients_are_those_of_a_linear_layer() -> None:
    plain, quick = pair()
    with torch.inference_mode():
        quick(rows(3, 12))
    for model in (plain, quick):
        model(rows(3, 12)).square().sum().backward()
    assert torch.equal(quick[0].weight.grad, plain[0].weight.grad)


def test_under_autocast_products_are_in_bf16() -> None:
    plain, quick = pair()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found, wanted = quick(rows(9, 12)), plain(rows(9, 12))
    assert found.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)
    with torch.inference_mode():  # and in fp32 again afterwards
        torch.testing.assert_close(quick(rows(9, 12)), plain(rows(9, 12)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_onednn_is_first_tried_does_not_matter(dtype: torch.dtype) -> None:
    wanted = linear.has_onednn.__wrapped__(dtype)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert linear.has_onednn.__wrapped__(dtype) == wanted


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("in_inference_mode", [False, True])
def test_a_copy_has_weights_of_its_own(
    copied: Callable[[nn.Module], nn.Module], in_inference_mode: bool
) -> None:
    _, quick = pair()
    with torch.inference_mode():
        wanted = quick(rows(3, 12))
    with torch.inference_mode(in_inference_mode):
        other = copied(quick)
    _scaled(quick[0])
    with torch.inference_mode():
        torch.testing.assert_close(other(rows(3, 12)), wanted, rtol=1e-5, atol=1e-6)


def test_a_loaded_model_can_be_trained(load: Any, make_batch: Any, tiny_model: Any) -> None:
    quick = load("bert")
    plain = MaskedLM(tiny_model("bert", quick.vocabulary.size), quick.tokenizer)
    plain.model.load_state_dict(quick.model.state_dict())
    assert any(isinstance(layer, OneDnnLinear) for layer in quick.model.modules())
    assert not any(isinstance(layer, OneDnnLinear) for layer in plain.model.modules())
    batch = make_batch(quick.vocabulary, [9, 9, 4])
    for model in (quick, plain):
        logits = model.target_logits(batch)
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.target_ids)).backward()
    wanted = dict(plain.model.named_parameters())
    for name, weight in quick.model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, wanted[name].grad, rtol=1e-5, atol=1e-6)
