"""Attention inside the documents of a packed row, for every model with the attention interface of transformers.

A row holds sequences end to end, and ``PackedLayout`` says where each lies. On CUDA in half precision torch's
variable-length kernel takes the row as it is. Elsewhere sequences of one length are computed together by torch's
flash kernel: they stand side by side in a row that is in order of length, so no token is copied to a padded
place and nothing is computed that is not text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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
        groups = tuple(zip(cu_seqlens[first].tolist(), counts.tolist(), lengths[first].tolist()))
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
    if query.device.type == "cpu" and not dropout and not windowed:
        return _GroupedFlash.apply(query, key, value, layout, scaling), None  # type: ignore[no-untyped-call]
    return _by_groups(query, key, value, layout, scaling, dropout, sliding_window), None


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, window: int | None
) -> Tensor:
    """One call of torch's variable-length flash kernel."""
    from torch.nn.attention.varlen import varlen_attn

    side = -1 if window is None else window - 1
    out = varlen_attn(
        *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),
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
    for (_, count, length), *parts in zip(layout.groups, *rows):
        q, k, v = (part.reshape(count, length, *part.shape[1:]).transpose(1, 2) for part in parts)
        bias = None if window is None or length <= window else _band(length, window, query.device)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scaling)
        outs.append(out.transpose(1, 2).reshape(count * length, *out.shape[1::2]))
    return torch.cat(outs).unsqueeze(0)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Return ``bool [length, length]``: which tokens are nearer than the window."""
    place = torch.arange(length, device=device)
    return (place[:, None] - place[None, :]).abs() < window


class _GroupedFlash(torch.autograd.Function):
    """torch's flash kernel for the CPU, group by group, writing straight into the packed row.

    Autograd over the slices would pay a full-size copy for each group, forward and backward.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        out = torch.empty(rows[0].shape, dtype=query.dtype)
        sums = []
        for group in layout.groups:
            q, k, v = (_group(row, group) for row in rows)
            part, logsumexp = flash(q, k, v, 0.0, False, attn_mask=None, scale=scaling)
            _group(out, group).copy_(part)
            sums.append(logsumexp)
        ctx.save_for_backward(query, key, value, out, *sums)
        ctx.layout, ctx.scaling = layout, scaling
        return out.unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, out, *sums = ctx.saved_tensors
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        gradients = [torch.empty(out.shape, dtype=out.dtype) for _ in rows]
        for group, logsumexp in zip(ctx.layout.groups, sums):
            q, k, v = (_group(row, group) for row in rows)
            parts = flash(
                _group(gradient[0], group), q, k, v, _group(out, group), logsumexp, 0.0, False,
                attn_mask=None, scale=ctx.scaling,
            )  # fmt: skip
            for into, part in zip(gradients, parts):
                _group(into, group).copy_(part)
        return *(tensor.transpose(0, 1).unsqueeze(0) for tensor in gradients), None, None


def _group(row: Tensor, group: tuple[int, int, int]) -> Tensor:
    """View a group of ``[T, heads, width]`` as ``[sequences, heads, length, width]``."""
    first, count, length = group
    part = row[first : first + count * length]
    return part.unflatten(0, (count, length)).transpose(1, 2)


def register() -> None:
    """Make the function known to transformers under :data:`NAME`; again is harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
