"""The masked-only head: an LM head sees the masked positions and nothing else, in any architecture.

A masked-LM class of transformers is an encoder followed by head modules. The first module called after the
encoder is found once, by watching a probe; from then on a hook hands it only the rows that are to be predicted.
Transform, bias and tied decoder run as they always do, on 15% of the rows.

On a CUDA device products in half precision whose sides are no multiples of eight are computed by slow kernels, and most
vocabularies are none: there the output layer has some more rows while it computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unmask.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_PADDED_ON = "cuda"
_GRAIN = 64


def require_encoder(model: PreTrainedModel, name: str) -> None:
    """Refuse a model in which a mask is not predicted from the text on both sides of it.

    Raises:
        ConfigError: the model has a decoder, or its attention looks back only.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        why = "an encoder and a decoder: the decoder predicts each token from those before it"
    elif getattr(config, "is_decoder", False) or getattr(config, "causal", False):
        why = "attention that looks back only (is_decoder or causal in its config.json)"
    elif not hasattr(model.get_input_embeddings(), "weight"):
        why = "no table of token embeddings"
    else:
        return
    raise ConfigError(
        f"'{name}' ({config.model_type}) has {why}. Masked language modelling needs an encoder with an LM head, such "
        f"as BERT, RoBERTa, DeBERTa or ModernBERT"
    )


def find_head(model: nn.Module, encoder: nn.Module, probe_ids: Tensor) -> nn.Module:
    """Return the first direct child of ``model`` that is called after ``encoder``.

    Args:
        model: a masked-LM model of transformers.
        encoder: its base model.
        probe_ids: ``int64 [1, L]`` to call it with.

    Raises:
        ConfigError: nothing is called after the encoder, so this is no masked-LM model.
    """
    called: list[nn.Module] = []
    hooks = [
        child.register_forward_pre_hook(lambda module, _: called.append(module)) for child in model.children()
    ]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(input_ids=probe_ids)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    after = called[called.index(encoder) + 1 :] if encoder in called else []
    if not after:
        raise ConfigError(
            f"{type(model).__name__} calls no head after its encoder; is it a masked language model?"
        )
    return after[0]


class TargetSelector:
    """Hands the head the chosen rows of the encoder's output while an index is set, and everything otherwise."""

    def __init__(self, head: nn.Module) -> None:
        self.index: Tensor | None = None
        head.register_forward_pre_hook(self._select)

    def _select(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.index is None:
            return None
        hidden = args[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.index), *args[1:])


def run_head(model: PreTrainedModel, encoder: nn.Module, states: Tensor) -> Tensor:
    """Return the ``[M, ...]`` logits that a model has at ``[M, H]`` states of its encoder."""
    from transformers.modeling_outputs import BaseModelOutput

    forward = encoder.forward
    encoder.forward = lambda *_, **__: BaseModelOutput(last_hidden_state=states[None])
    try:
        ids = torch.zeros(1, len(states), dtype=torch.int64, device=states.device)
        logits: Tensor = model(input_ids=ids).logits
    finally:
        encoder.forward = forward
    return logits.squeeze(0)  # indexing would fill a gradient of zeros and copy into it


class PaddedLinear(nn.Linear):
    """A linear layer that computes a round number of outputs under autocast on CUDA, and is ``nn.Linear`` otherwise."""

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        if device != _PADDED_ON or not torch.is_autocast_enabled(device):
            return functional.linear(input, self.weight, self.bias)
        spare, dtype = -self.out_features % _GRAIN, torch.get_autocast_dtype(device)
        weight = functional.pad(self.weight.to(dtype), (0, 0, 0, spare))
        bias = None if self.bias is None else functional.pad(self.bias.to(dtype), (0, spare))
        return functional.linear(input, weight, bias).narrow(-1, 0, self.out_features)


def pad_output_layer(model: PreTrainedModel) -> None:
    """Let the output layer of the LM head be a :class:`PaddedLinear`, if it is a plain linear layer of no round size."""
    layer = model.get_output_embeddings()
    if type(layer) is nn.Linear and layer.out_features % _GRAIN:
        layer.__class__ = PaddedLinear
