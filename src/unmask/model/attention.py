"""Attention inside the documents of a packed row, for every model with the attention interface of transformers.

A row holds sequences end to end, and ``PackedLayout`` says where each lies. On CUDA in half precision torch's
variable-length kernel takes the row as it is. Elsewhere sequences of one length, which stand side by side in a
row that is in order of length, are computed together: no place is padded and nothing is computed that is not text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LONGEST_STACK = 1024
_SHORT = 128  # up to here three plain products on a CPU are quicker than its flash kernel
NAME = "unmask_packed"
"""Under this name the function is registered with transformers."""


@dataclass(frozen=True)
class PackedLayout:
    """Where the ``N`` sequences of a packed row of ``T`` tokens lie.

    Attributes:
        cu_seqlens: ``int32 [N + 1]`` on the device of the model.
        groups: ``(first token, sequences, length of each)`` of neighbours of equal length, in row order.
        longest: length of the longest sequence.
    """

    cu_seqlens: Tensor
    groups: tuple[tuple[int, int, int], ...]
    longest: int

    @staticmethod
    def of(cu_seqlens: np.ndarray, device: torch.device) -> PackedLayout:
        """Make the layout of sequences that begin at ``int [N + 1]`` places."""
        lengths = np.diff(cu_seqlens)
        turns = np.flatnonzero(np.diff(lengths)) + 1
        first = np.concatenate([[0], turns])
        counts = np.diff(np.concatenate([first, [len(lengths)]]))
        groups = tuple(zip(cu_seqlens[first].tolist(), counts.tolist(), lengths[first].tolist(), strict=True))
        on_device = torch.from_numpy(cu_seqlens.astype(np.int32)).to(device, non_blocking=True)
        return PackedLayout(on_device, groups, int(lengths.max()))

    @cached_property
    def runs(self) -> list[int]:
        """Tokens of each group."""
        return [count * length for _, count, length in self.groups]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    layout: PackedLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend inside each sequence.

    Args:
        module: the attention layer, unused.
        query: ``[1, heads, T, width]``; ``key`` and ``value`` may have fewer heads.
        attention_mask: must be ``None``: a packed row has no padding.
        scaling: factor of the scores, by default ``width ** -0.5``.
        dropout: of the attention weights.
        sliding_window: a token sees others that are nearer than this.
        layout: where sequences lie; without one the whole row is one sequence.

    Returns:
        ``[1, T, heads, width]``, and ``None`` for the weights.
    """
    if attention_mask is not None:
        raise ValueError("packed attention takes no mask: the layout says which tokens belong together")
    if layout is None:
        layout = PackedLayout.of(np.array([0, query.shape[2]]), query.device)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _by_kernel(query, key, value, layout, scaling, sliding_window), None
    if key.shape[1] != query.shape[1]:
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    windowed = sliding_window is not None and layout.longest > sliding_window
    if len(layout.groups) == 1 and not dropout and not windowed and not torch.is_grad_enabled():
        return _of_one_length(query, key, value, layout.groups[0], scaling), None
    if query.device.type == "cpu" and not dropout and not windowed and layout.longest <= _LONGEST_STACK:
        return _GroupedProducts.apply(query, key, value, layout, scaling), None
    return _by_groups(query, key, value, layout, scaling, dropout, sliding_window), None


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, window: int | None
) -> Tensor:
    """One call of torch's variable-length flash kernel."""
    from torch.nn.attention.varlen import varlen_attn

    side = -1 if window is None else window - 1
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out = varlen_attn(
        q,
        k,
        v,
        layout.cu_seqlens,
        layout.cu_seqlens,
        layout.longest,
        layout.longest,
        scale=scaling,
        window_size=(side, side),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


def _of_one_length(
    query: Tensor, key: Tensor, value: Tensor, group: tuple[int, int, int], scaling: float
) -> Tensor:
    """Attend where all sequences have one length, without a gradient and with nothing copied beforehand."""
    _, count, length = group
    if count == 1:
        q, k, v = query[0], key[0], value[0]
    else:
        parts = (part[0].transpose(0, 1).unflatten(0, (count, length)) for part in (query, key, value))
        q, k, v = (part.transpose(1, 2) for part in parts)
    if length <= _SHORT and q.device.type == "cpu":
        out = (q @ k.mT).mul_(scaling).softmax(-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, scale=scaling)
    if count > 1:
        out = out.transpose(1, 2).flatten(0, 1)
        return out.unsqueeze(0)
    return out.transpose(0, 1).unsqueeze(0)


def _by_groups(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    scaling: float,
    dropout: float,
    window: int | None,
) -> Tensor:
    """One call of ``scaled_dot_product_attention`` for each length; exact everywhere, with autograd's own gradient."""
    rows = [tensor[0].transpose(0, 1).split(layout.runs) for tensor in (query, key, value)]
    outs = []
    for (_, count, length), *parts in zip(layout.groups, *rows, strict=True):
        q, k, v = (part.reshape(count, length, *part.shape[1:]).transpose(1, 2) for part in parts)
        bias = None if window is None or length <= window else _band(length, window, query.device)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scaling)
        outs.append(out.transpose(1, 2).reshape(count * length, *out.shape[1::2]))
    return torch.cat(outs).unsqueeze(0)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Return ``bool [length, length]``: which tokens are nearer than the window."""
    place = torch.arange(length, device=device)
    return (place[:, None] - place[None, :]).abs() < window


class _GroupedProducts(torch.autograd.Function):
    """Attention on the CPU by batched matrix products, length by length, writing straight into the packed row.

    The weights of a group are kept for the way back: a group's scores are small, and products of them run at the
    rate of the processor's matrix units, which the flash kernel's backward is far from. Autograd over the slices
    would pay a full-size copy for each group besides.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float
    ) -> Tensor:
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        out = torch.empty(rows[0].shape, dtype=query.dtype)
        kept = []
        for group in layout.groups:
            q, k, v = (_stacked(row, group) for row in rows)
            weights = torch.bmm(q, k.mT).mul_(scaling).softmax(-1)
            _unstack(out, group, torch.bmm(weights, v))
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.layout, ctx.scaling = layout, scaling
        return out.unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        gradients = [torch.empty(gradient.shape[1:], dtype=query.dtype) for _ in rows]
        for group, weights in zip(ctx.layout.groups, kept, strict=True):
            q, k, v = (_stacked(row, group) for row in rows)
            out = _stacked(gradient[0], group)
            scores = torch.ops.aten._softmax_backward_data(torch.bmm(out, v.mT), weights, -1, weights.dtype)
            scores.mul_(ctx.scaling)
            parts = torch.bmm(scores, k), torch.bmm(scores.mT, q), torch.bmm(weights.mT, out)
            for into, part in zip(gradients, parts, strict=True):
                _unstack(into, group, part)
        return *(tensor.transpose(0, 1).unsqueeze(0) for tensor in gradients), None, None


def _stacked(row: Tensor, group: tuple[int, int, int]) -> Tensor:
    """Copy a group of ``[T, heads, width]`` to ``[sequences * heads, length, width]``."""
    return _group(row, group).reshape(-1, group[2], row.shape[-1])


def _unstack(row: Tensor, group: tuple[int, int, int], part: Tensor) -> None:
    """Write ``[sequences * heads, length, width]`` to its place in ``[T, heads, width]``."""
    _group(row, group).copy_(part.view(group[1], -1, *part.shape[1:]))


def _group(row: Tensor, group: tuple[int, int, int]) -> Tensor:
    """View a group of ``[T, heads, width]`` as ``[sequences, heads, length, width]``."""
    first, count, length = group
    part = row[first : first + count * length]
    return part.unflatten(0, (count, length)).transpose(1, 2)


def register() -> None:
    """Make the function known to transformers under :data:`NAME`; again is harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
