"""Apple's ``mps``, or a stand-in for it where there is none.

The stand-in computes on the CPU and holds to what is known of the device: no float64 and no uint64, no pinned memory, no
operation on tensors of two devices. Its kernels are those of the CPU, so of the device's own it shows nothing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
_WITHIN = "lazy"  # what autograd is told: a device that it knows here, and that nothing else uses
_REFUSED = (torch.float64, torch.uint64)
_MAY_MIX = (aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put_.default)


class OnMps(torch.Tensor):
    """A tensor that says it is on ``mps``, and has its values in one on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnMps:
        if values.dtype in _REFUSED:
            raise TypeError(f"the MPS framework doesn't support {values.dtype}")
        options = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), dtype=values.dtype, device=_WITHIN, **options
        )
        made.values = values
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("mps", 0)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> OnMps:
        return OnMps(inner["values"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with _StandIn():
            return func.decompose(*args, **kwargs)
    given = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    on_mps = [tensor for tensor in given if isinstance(tensor, OnMps)]
    if func not in _MAY_MIX and on_mps and any(t.ndim and not isinstance(t, OnMps) for t in given):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found mps and cpu")
    inner_args, inner = tree_map_only(OnMps, lambda tensor: tensor.values, (args, dict(kwargs)))
    if on_mps and func is aten._fused_adamw_.default:  # as on mps, until a torch of 2026
        inner |= {"grad_scale": None, "found_inf": None}
    here = bool(on_mps)
    if inner.get("device") is not None:
        here = torch.device(inner["device"]).type in ("mps", _WITHIN)
        inner["device"] = torch.device("cpu")
        if here and (inner.get("pin_memory") or inner.get("dtype") in _REFUSED):
            raise TypeError(f"the MPS framework doesn't support {inner}")
    found = func(*inner_args, **inner)
    if not here:
        return found
    # What was changed in place is returned as what it is.
    known = {id(tensor.values): tensor for tensor in on_mps} | {id(tensor): tensor for tensor in given}
    # A view of a tensor that was made outside inference mode is one of those too.
    with torch.inference_mode(torch.is_inference_mode_enabled() and all(t.is_inference() for t in given)):
        return tree_map_only(
            torch.Tensor, lambda tensor: known[id(tensor)] if id(tensor) in known else OnMps(tensor), found
        )


class _StandIn(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch computes before it asks the tensors: attention here by its formula, and new tensors from numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and isinstance(args[0], OnMps):
            return _attention(*args, **kwargs)
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == "mps":
            return func(*args, **(kwargs | {"device": "cpu"})).to(kwargs["device"])
        return func(*args, **kwargs)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    assert not enable_gqa
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        closed = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if closed else scores + attn_mask
    return F.dropout(scores.softmax(-1), dropout_p) @ value


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device itself with ``UNMASK_TEST_DEVICE=mps``, otherwise the stand-in."""
    if os.environ.get("UNMASK_TEST_DEVICE") == "mps":
        if not torch.backends.mps.is_available():
            pytest.skip("torch finds no mps")
        yield torch.device("mps", 0)
        return
    if torch.backends.mps.is_built():
        pytest.skip("UNMASK_TEST_DEVICE=mps tests this torch's own mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    clipping = importlib.import_module("torch.nn.utils.clip_grad")
    monkeypatch.setattr(clipping, "_device_has_foreach_support", lambda device: True)
    with ExitStack() as stack:
        stack.enter_context(_StandIn())
        stack.enter_context(_Functions())
        yield torch.device("mps", 0)
