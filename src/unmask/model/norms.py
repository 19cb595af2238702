"""Layer norms that hand on bf16 where a model is trained under autocast, on a CPU or a CUDA device.

Autocast leaves their output, and with it the sums between the layers, in fp32, though each product that reads it rounds
it to bf16 first: memory is read and written for digits that are dropped on the way, forward and back. Norms that take
and give bf16, and compute in fp32 within, are what MosaicBERT was trained with (Portes et al. 2023). Evaluation and
scoring compute as before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_DEVICES = ("cpu", "cuda")


class Bf16LayerNorm(nn.LayerNorm):
    """A layer norm in bf16 while it is trained under bf16 autocast, and ``nn.LayerNorm`` otherwise."""

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if device not in _DEVICES or not (
            self.training and torch.is_grad_enabled() and torch.is_autocast_enabled(device)
        ):
            return functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)
        dtype = torch.get_autocast_dtype(device)
        if device == "cuda":  # its kernel takes one type
            weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        with torch.autocast(device, enabled=False):  # which would compute in fp32 on CUDA
            return functional.layer_norm(input.to(dtype), self.normalized_shape, weight, bias, self.eps)


def use_bf16_norms(model: nn.Module) -> int:
    """Let the layer norms of a model hand on bf16 in training; those of a class of their own stay as they are.

    Returns:
        How many layers there are of this kind now.
    """
    for layer in model.modules():
        if type(layer) is nn.LayerNorm and layer.weight is not None and layer.weight.dtype == torch.float32:
            layer.__class__ = Bf16LayerNorm
    return sum(isinstance(layer, Bf16LayerNorm) for layer in model.modules())
