"""A step on a GPU, followed without one.

Tensors on ``meta`` have shapes and no values: whatever would wait for the device, because it needs a value, fails there. A
stand-in for torch's variable-length kernel computes on a CPU what the kernel is documented to compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen

from unmask.model import attention
from unmask.model.masked_lm import MaskedLM


@dataclass
class Kernel:
    """The stand-in; it takes what the kernel takes, and remembers its calls."""

    shares_heads: bool = True
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        starts: Tensor,
        others: Tensor,
        most: int,
        more: int,
        **named: Any,
    ) -> Tensor:
        if "enable_gqa" in named and not self.shares_heads:
            raise TypeError("varlen_attn() got an unexpected keyword argument 'enable_gqa'")
        if not torch.compiler.is_compiling():
            self.calls.append({"q": q, "k": k, "v": v, "starts": starts, "longest": most, **named})
        place = torch.arange(q.shape[0])
        document = torch.bucketize(place, starts[1:], right=True)
        seen = document[:, None] == document[None]
        left, right = named.get("window_size", (-1, -1))
        if left >= 0:
            seen = seen & (place[:, None] - place[None] <= left) & (place[None] - place[:, None] <= right)
        rows = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v))
        gqa = named.get("enable_gqa", False)
        out = F.scaled_dot_product_attention(*rows, attn_mask=seen, scale=named["scale"], enable_gqa=gqa)
        return out.squeeze(0).transpose(0, 1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Let the stand-in compute on the CPU, where the kernel would on a GPU."""
    made = Kernel()
    monkeypatch.setattr(varlen, "varlen_attn", made)
    monkeypatch.setattr(attention, "fits_kernel", lambda query: True)
    return made


@pytest.fixture
def on_meta() -> Callable[[MaskedLM], MaskedLM]:
    """Return `move(model) -> MaskedLM`: its weights in bf16, which is what the kernel takes, and without values."""

    def move(model: MaskedLM) -> MaskedLM:
        model.model.to(torch.bfloat16).to("meta")
        assert model.device.type == "meta"
        return model

    return move
