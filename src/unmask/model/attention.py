"""Attention inside the documents of a packed row, for every model with the attention interface of transformers.

A row holds sequences end to end, and :class:`~unmask.model.packed_layout.PackedLayout` holds where each begins. On CUDA in
half precision torch's variable-length kernel takes the row as it is; tensors on ``meta``, which have shapes and no values, go
the same way, so that a test can follow a step without a device. Elsewhere sequences are computed in the stacks of the layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.model.packed_layout import PackedLayout, band, unseen

_LONGEST_STACK = 1024
_SHORT = 128  # up to here three plain products on a CPU are faster than its flash kernel
_VECTOR = 16  # fp32 numbers in a vector of AVX-512
_HEAD_GRAIN, _LARGEST_HEAD = 8, 256  # sizes of a head that the variable-length kernel takes
_KERNEL_SHARES_HEADS = torch.__version__ >= "2.13"  # not so in 2.11
NAME = "unmask_packed"
"""Under this name the function is registered with transformers."""


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
        raise ValueError("packed attention takes no mask: the layout holds which tokens belong together")
    if layout is None:
        layout = PackedLayout.of(np.array([0, query.shape[2]]), query.device)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    device = query.device.type
    if device != "meta" and torch.is_autocast_enabled(device):  # rotary embeddings return fp32 there
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if not dropout and fits_kernel(query):
        return _by_kernel(query, key, value, layout, scaling, sliding_window), None
    key, value = _repeat_heads(query, key, value)
    windowed = sliding_window is not None and layout.longest > sliding_window
    if len(layout.groups) == 1 and not dropout and not windowed and not torch.is_grad_enabled():
        return _of_one_length(query, key, value, layout, scaling), None
    if query.device.type == "cpu" and not dropout and layout.longest <= _LONGEST_STACK:
        return _StackedProducts.apply(query, key, value, layout, scaling, sliding_window), None
    return _by_groups(query, key, value, layout, scaling, dropout, sliding_window), None


def _repeat_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values with as many heads as there are of queries."""
    times = query.shape[1] // key.shape[1]
    if times == 1:
        return key, value
    return key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)


def fits_kernel(query: Tensor) -> bool:
    """Whether torch's variable-length kernel takes ``[1, heads, T, width]`` queries; it has no dropout."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.device.type in ("cuda", "meta") and half and query.shape[-1] <= _LARGEST_HEAD


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, window: int | None
) -> Tensor:
    """One call of torch's variable-length flash kernel.

    It takes heads whose size is a multiple of eight. Others are filled up with zeros, which change no score and are cut
    off the result.
    """
    from torch.nn.attention.varlen import varlen_attn  # takes seconds, and only a GPU needs it

    if not _KERNEL_SHARES_HEADS:
        key, value = _repeat_heads(query, key, value)
    shared: dict[str, Any] = {"enable_gqa": True} if key.shape[1] != query.shape[1] else {}
    side = -1 if window is None else window - 1
    size = query.shape[-1]
    spare = -size % _HEAD_GRAIN
    if spare:
        query, key, value = (F.pad(tensor, (0, spare)) for tensor in (query, key, value))
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    ends, longest = layout.cu_seqlens, layout.longest
    sides = (side, 0 if layout.causal else side)
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=sides, **shared)
    assert isinstance(out, Tensor)
    return (out.narrow(-1, 0, size) if spare else out).unsqueeze(0)


def _of_one_length(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float) -> Tensor:
    """Attend where all sequences have one length, without a gradient and with nothing copied beforehand."""
    _, count, length = layout.groups[0]
    if count == 1:
        q, k, v = query[0], key[0], value[0]
    else:
        parts = (part[0].transpose(0, 1).unflatten(0, (count, length)) for part in (query, key, value))
        q, k, v = (part.transpose(1, 2) for part in parts)
    if length <= _SHORT and q.device.type == "cpu":
        scores = (q @ k.mT).mul_(scaling)
        if layout.causal:
            scores.add_(unseen(length, None, True, scores.dtype))
        out = _softmax(scores) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, scale=scaling, is_causal=layout.causal)
    if count > 1:
        out = out.transpose(1, 2).flatten(0, 1)
        return out.unsqueeze(0)
    return out.transpose(0, 1).unsqueeze(0)


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax of ``[..., width]`` scores on a CPU.

    Torch computes rows that do not fill a vector one number at a time, ten times slower: short ones are filled up, and
    those in bf16, of which a vector holds twice as many, computed in fp32.
    """
    width = scores.shape[-1]
    if width % (2 * _VECTOR) == 0 or width >= 4 * _VECTOR:
        return scores.softmax(-1)
    rows = scores.float()
    if width < _VECTOR:
        rows = F.pad(rows, (0, _VECTOR - width), value=-torch.inf)
    return rows.softmax(-1)[..., :width].to(scores.dtype)


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
        bias = None
        if window is not None and length > window:
            bias = band(length, window, layout.causal, query.device)
        causal = layout.causal and bias is None
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=causal, scale=scaling
        )
        outs.append(out.transpose(1, 2).reshape(count * length, *out.shape[1::2]))
    return torch.cat(outs).unsqueeze(0)


class _StackedProducts(torch.autograd.Function):
    """Attention on the CPU by batched matrix products, stack by stack, writing straight into the packed row.

    The weights of a stack are kept for the way back: its scores are small, and products of them run at the
    rate of the processor's matrix units, which the flash kernel's backward is far from. Autograd over the slices
    would pay a full-size copy for each stack besides.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: PackedLayout,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        out = torch.empty(rows[0].shape, dtype=query.dtype)
        kept = []
        for stack in layout.stacks:
            # The query is scaled, and not the scores, which are more.
            q, k, v = (stack.take(row, scale) for row, scale in zip(rows, (scaling, 1.0, 1.0), strict=True))
            scores = stack.close(torch.bmm(q, k.mT), window, layout.causal)
            weights = _softmax(scores)
            stack.put(out, torch.bmm(weights, v))
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.layout, ctx.scaling = layout, scaling
        return out.unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        gradients = [torch.empty(gradient.shape[1:], dtype=query.dtype) for _ in rows]
        for stack, weights in zip(ctx.layout.stacks, kept, strict=True):
            q, k, v = (
                stack.take(row, scale) for row, scale in zip(rows, (ctx.scaling, 1.0, 1.0), strict=True)
            )
            out = stack.take(gradient[0], empty=0.0)
            scores = torch.ops.aten._softmax_backward_data(torch.bmm(out, v.mT), weights, -1, weights.dtype)
            of_query = torch.bmm(scores, k).mul_(ctx.scaling)
            parts = of_query, torch.bmm(scores.mT, q), torch.bmm(weights.mT, out)
            for into, part in zip(gradients, parts, strict=True):
                stack.put(into, part)
        return *(tensor.transpose(0, 1).unsqueeze(0) for tensor in gradients), None, None, None


def register(function: Callable[..., tuple[Tensor, None]] = packed_attention) -> None:
    """Make the function known to transformers under :data:`NAME`, in place of what was there."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, function)
