"""Linear layers for inference on a CPU: weights reordered once into the layout of oneDNN.

``torch.nn.functional.linear`` hands fp32 products on a CPU to MKL. With a weight that was reordered once, oneDNN is
two to three times as fast on an AMD processor with AVX-512, at 1 row as at 4,096, and it is what ``torch.compile``
takes for frozen weights. bf16 gains by the same means that weights are not cast again in every call. A second copy
of the weights is the price, so this is for inference, not for training. A weight that is replaced or changed in place is
noticed, except through ``.data``, which keeps no count of changes; after a pass with a gradient it is always laid out anew.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_DTYPES = (torch.float32, torch.bfloat16)
_ROWS = 16  # a hint to oneDNN; what it lays out for few rows is as good for many


class OneDnnLinear(nn.Linear):
    """A linear layer that keeps its weight a second time, laid out for oneDNN.

    Where a gradient may be wanted, or off the CPU, it is ``nn.Linear``. A weight that was changed is laid out anew.
    """

    def forward(self, input: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if torch.is_grad_enabled() or not input.is_cpu or not has_onednn(dtype):
            if torch.is_grad_enabled():
                # What follows may be a step of a fused optimizer, which changes weights without counting it.
                self.__dict__.pop("_copy", None)
            return functional.linear(input, self.weight, self.bias)
        kept: _Copy | None = self.__dict__.get("_copy")
        if kept is None or kept.is_stale(dtype):
            kept = self.__dict__["_copy"] = _Copy(self, dtype)
        return kept.product(input)

    def __getstate__(self) -> dict[str, Any]:
        # The copy is for this process alone: what is pickled or deep-copied makes its own.
        return {name: value for name, value in self.__dict__.items() if name != "_copy"}


class _Copy:
    """A layer's weight and bias in one type, laid out for oneDNN, and what they were copied from."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._product: Any = torch.ops.mkldnn._linear_pointwise.default
        with torch.inference_mode(False), torch.no_grad():
            weight = layer.weight.detach().to(dtype).contiguous()
            self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight.default(weight, _ROWS)
            self._bias = None if layer.bias is None else layer.bias.detach().to(dtype, copy=True)
        self._parameters = layer._parameters
        self._sources = [
            (name, value, _version(value), value.data_ptr())
            for name, value in layer._parameters.items()
            if value is not None
        ]

    def product(self, rows: Tensor) -> Tensor:
        """Return ``[..., outputs]``."""
        found: Tensor = self._product(rows.to(self._dtype), self._weight, self._bias, "none", [], "")
        return found

    def is_stale(self, dtype: torch.dtype) -> bool:
        """Whether another type is wanted, or a parameter is another one, or was changed, since it was copied."""
        for name, value, version, place in self._sources:
            if self._parameters[name] is not value or value.data_ptr() != place:
                return True
            if version is not None and value._version != version:
                return True
        return dtype is not self._dtype


def _version(value: Tensor) -> int | None:
    """Return how often a tensor was changed in place; those made in inference mode do not count that."""
    return None if value.is_inference() else value._version


def use_onednn_linear(model: nn.Module) -> int:
    """Let the linear layers of a model on the CPU be computed by oneDNN while no gradient is wanted.

    Layers of a class of their own, and those in other types than fp32, stay as they are. Outputs differ from those
    of ``nn.Linear`` by rounding alone.

    Returns:
        How many layers there are of this kind now; 0 where this torch has no oneDNN.
    """
    plain = [layer for layer in model.modules() if type(layer) is nn.Linear and _fits(layer)]
    if plain and has_onednn(torch.float32):
        for layer in plain:
            layer.__class__ = OneDnnLinear
    return sum(isinstance(layer, OneDnnLinear) for layer in model.modules())


def share_onednn_weights(source: nn.Module, target: nn.Module) -> None:
    """Give a copy of a model that shares its parameters what is laid out for oneDNN already."""
    for layer, twin in zip(source.modules(), target.modules(), strict=True):
        if "_copy" in layer.__dict__:
            twin.__dict__["_copy"] = layer.__dict__["_copy"]


def _fits(layer: nn.Linear) -> bool:
    weight = layer.weight
    return weight.is_cpu and weight.dtype == torch.float32 and not weight.is_inference()


@cache
def has_onednn(dtype: torch.dtype) -> bool:
    """Return whether a small product works: the operators are internal to torch, and bf16 needs AVX-512 or AVX-NE-CONVERT.

    The answer is kept, so it must not depend on the context in which it was first wanted.
    """
    if dtype not in _DTYPES or not torch.backends.mkldnn.is_available():
        return False
    try:
        # In inference mode the layer's parameters could not be set; under autocast the types would differ.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            layer = nn.Linear(12, 8, dtype=dtype)
            weight = (torch.arange(96.0) / 96).reshape(8, 12).to(dtype)
            layer.weight.copy_(weight)
            layer.bias.copy_(weight[:, 0])
            rows = weight[:3] - 0.5
            expected = functional.linear(rows, layer.weight, layer.bias)
            return torch.allclose(_Copy(layer, dtype).product(rows), expected, rtol=0.02, atol=1e-6)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
