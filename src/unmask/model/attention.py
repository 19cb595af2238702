"""Attention inside the documents of a packed row, for every model with the attention interface of transformers.

A row holds sequences end to end, and ``PackedLayout`` holds where each begins. On CUDA in half precision torch's
variable-length kernel takes the row as it is; tensors on ``meta``, which have shapes and no values, go the same way, so
that a test can follow a step without a device. Elsewhere sequences of one length, which are neighbours in a
row that is in order of length, are computed together; those of rare lengths with their neighbours, where the empty places
cost less than products of their own, and in round sizes, as :mod:`unmask.model.shapes` explains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.model.shapes import round_up

_LONGEST_STACK = 1024
_ALONE = 1024  # sequences of one length and so many tokens are computed by themselves on a CPU, with nothing to pick
_WASTE = 1 << 15  # empty scores (query by key) of a stack that take as long as a stack of their own would
# Others are stacked to multiples of these, since a product of a new shape begins slowly.
_WIDTHS, _COUNTS = 16, 4
_NOTHING = -1e9  # added to a score, its weight is zero in fp32 and bf16
_SHORT = 128  # up to here three plain products on a CPU are faster than its flash kernel
_VECTOR = 16  # fp32 numbers in a vector of AVX-512
_HEAD_GRAIN, _LARGEST_HEAD = 8, 256  # sizes of a head that the variable-length kernel takes
_SEQUENCE_STEPS, _LEAST_BOUND = 4, 64  # round sizes of what the kernel is told of the sequences of a row
_KERNEL_SHARES_HEADS = torch.__version__ >= "2.13"  # not so in 2.11
NAME = "unmask_packed"
"""Under this name the function is registered with transformers."""


class Rows(NamedTuple):
    """Where the vectors of a stack lie, head by head.

    Attributes:
        source: ``int64 [n * heads * width]``, for each place of ``[n, heads, width]`` a row of ``[tokens, heads]``.
        target: ``int64 [tokens * heads]``, the other way.
        empty: ``int64``, places that hold no token.
    """

    source: Tensor
    target: Tensor
    empty: Tensor


@dataclass(frozen=True)
class Stack:
    """Neighbours in a packed row that are computed together, each in one of ``n`` rows of ``width`` places.

    Attributes:
        first: their first token.
        tokens: how many they have.
        count: ``n``.
        width: at least the longest one's length.
        lengths: ``int64 [n]``, tokens of each; 0 for rows that stay empty. ``None`` where every place holds a token.
        bias: ``[n, 1, 1, width - shortest]``, minus infinity behind the end of a sequence.
        shortest: places that hold a token in all of them.
    """

    first: int
    tokens: int
    count: int
    width: int
    lengths: np.ndarray | None = None
    bias: Tensor | None = None
    shortest: int = 0
    _rows: dict[int, Rows] = field(default_factory=dict)

    @staticmethod
    def of(groups: list[tuple[int, int, int]]) -> Stack:
        """Join groups of neighbours, none of them longer than the first."""
        first, count, width = groups[0]
        if _is_alone(count, width):
            return Stack(first, count * width, count, width)
        width = -(-width // _WIDTHS) * _WIDTHS
        lengths = np.repeat([length for _, _, length in groups], [count for _, count, _ in groups])
        spare = -len(lengths) % _COUNTS
        if spare * width * width < _WASTE:
            lengths = np.concatenate([lengths, np.zeros(spare, dtype=lengths.dtype)])
        # A row that holds no sequence sees what it likes; with nothing to see its weights would be no numbers.
        ends = np.where(lengths > 0, lengths, width)
        shortest = int(ends.min())
        closed = torch.from_numpy(np.arange(shortest, width) >= ends[:, None])
        bias = torch.zeros(closed.shape).masked_fill_(closed, -torch.inf)[:, None, None]
        return Stack(first, int(lengths.sum()), len(lengths), width, lengths, bias, shortest)

    def rows(self, heads: int) -> Rows:
        """Return where the vectors of so many heads lie; what an empty place gets is a copy of some token there is."""
        if heads not in self._rows:
            assert self.lengths is not None
            place, head = np.arange(self.width), np.arange(heads)[:, None]
            begins = np.cumsum(self.lengths) - self.lengths
            token = np.minimum(begins[:, None] + place, self.tokens - 1)
            holds = np.broadcast_to((place < self.lengths[:, None])[:, None], (self.count, heads, self.width))
            source = (token[:, None] * heads + head).ravel()
            full = np.flatnonzero(holds)
            target = np.empty(len(full), dtype=np.int64)
            target[source[full]] = full
            self._rows[heads] = Rows(*map(torch.from_numpy, (source, target, np.flatnonzero(~holds))))
        return self._rows[heads]

    def take(self, row: Tensor, scale: float = 1.0, empty: float | None = None) -> Tensor:
        """Copy these of ``[T, heads, size]``, scaled, to ``[n * heads, width, size]``; empty places get that value, or any."""
        _, heads, size = row.shape
        part = row[self.first : self.first + self.tokens]
        if self.lengths is None:
            copy = torch.empty(self.count, heads, self.width, size, dtype=row.dtype)
            part = part.view(self.count, self.width, heads, size).transpose(1, 2)
            copy = copy.copy_(part) if scale == 1.0 else torch.mul(part, scale, out=copy)
            return copy.flatten(0, 1)
        rows = self.rows(heads)
        copy = part.reshape(-1, size).index_select(0, rows.source)
        if empty is not None:
            copy.index_fill_(0, rows.empty, empty)
        return (copy if scale == 1.0 else copy.mul_(scale)).view(-1, self.width, size)

    def put(self, row: Tensor, part: Tensor) -> None:
        """Write ``[n * heads, width, size]`` to its place in a contiguous ``[T, heads, size]``."""
        _, heads, size = row.shape
        into = row[self.first : self.first + self.tokens]
        if self.lengths is None:
            part = part.view(self.count, heads, self.width, size).transpose(1, 2)
            into.view(part.shape).copy_(part)
        else:
            torch.index_select(part.view(-1, size), 0, self.rows(heads).target, out=into.view(-1, size))

    def close(self, scores: Tensor, window: int | None, causal: bool) -> Tensor:
        """Let nothing be seen at the empty places of ``[n * heads, width, width]`` scores, outside a window or behind, in place."""
        if causal or (window is not None and self.width > window):
            scores.add_(_unseen(self.width, window, causal, scores.dtype))
        if self.bias is not None:
            scores.view(self.count, -1, *scores.shape[1:])[..., self.shortest :].add_(self.bias)
        return scores


@dataclass(frozen=True)
class PackedLayout:
    """Where the ``N`` sequences of a packed row of ``T`` tokens lie.

    Attributes:
        cu_seqlens: ``int32 [N + 1]`` on the device of the model; on a GPU there may be sequences of no tokens at the end.
        groups: ``(first token, sequences, length of each)`` of neighbours of equal length, in row order.
        longest: length of the longest sequence, or somewhat more.
        targets: ``int64 [M]``, the places that the last layer is to compute; without them it computes all.
        causal: a token sees itself and those before it in its sequence, and none behind.
    """

    cu_seqlens: Tensor
    groups: tuple[tuple[int, int, int], ...]
    longest: int
    targets: Tensor | None = None
    causal: bool = False

    @staticmethod
    def of(
        cu_seqlens: np.ndarray, device: torch.device, targets: Tensor | None = None, causal: bool = False
    ) -> PackedLayout:
        """Make the layout of sequences that begin at ``int [N + 1]`` places."""
        lengths = np.diff(cu_seqlens)
        turns = np.flatnonzero(np.diff(lengths)) + 1
        first = np.concatenate([[0], turns])
        counts = np.diff(np.concatenate([first, [len(lengths)]]))
        groups = tuple(zip(cu_seqlens[first].tolist(), counts.tolist(), lengths[first].tolist(), strict=True))
        longest = int(lengths.max())
        begins = cu_seqlens.astype(np.int32)
        if (
            device.type != "cpu"
        ):  # in round sizes too: sequences of no tokens, and an upper bound of the longest
            spare = round_up(len(lengths), _SEQUENCE_STEPS) - len(lengths)
            begins = np.concatenate([begins, np.full(spare, begins[-1])])
            longest = max(_LEAST_BOUND, round_up(longest, 1))
        return PackedLayout(on_device(begins, device), groups, longest, targets, causal)

    @cached_property
    def runs(self) -> list[int]:
        """Tokens of each group."""
        return [count * length for _, count, length in self.groups]

    @cached_property
    def stacks(self) -> list[Stack]:
        """The groups, those of few sequences joined with their neighbours where that is less work."""
        joined: list[list[tuple[int, int, int]]] = []
        room = 0
        for group in self.groups:
            _, count, length = group
            if _is_alone(count, length):
                joined.append([group])
                room = 0
                continue
            width = joined[-1][0][2] if room else length
            wasted = count * (width * width - length * length)
            if 0 <= wasted < room:
                joined[-1].append(group)
                room -= wasted
            else:
                joined.append([group])
                room = _WASTE
        return [Stack.of(groups) for groups in joined]


def _is_alone(count: int, length: int) -> bool:
    return count * length >= _ALONE


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device, from pinned memory where there is such, so that nothing waits for the copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


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
            scores.add_(_unseen(length, None, True, scores.dtype))
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
            bias = _band(length, window, layout.causal, query.device)
        causal = layout.causal and bias is None
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=causal, scale=scaling
        )
        outs.append(out.transpose(1, 2).reshape(count * length, *out.shape[1::2]))
    return torch.cat(outs).unsqueeze(0)


def _band(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor:
    """Return ``bool [length, length]``: which tokens are nearer than the window, and not behind where it is causal."""
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None, :]
    near = back.abs() < (length if window is None else window)
    return near & (back >= 0) if causal else near


@lru_cache(maxsize=64)
def _unseen(width: int, window: int | None, causal: bool, dtype: torch.dtype) -> Tensor:
    """Return ``[width, width]`` to add to scores, so that nothing is seen outside the window, or behind.

    It is finite, since the window of an empty place may hold empty places alone: with nothing to see its weights would
    be NaN.
    """
    return torch.where(_band(width, window, causal, torch.device("cpu")), 0.0, _NOTHING).to(dtype)


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
