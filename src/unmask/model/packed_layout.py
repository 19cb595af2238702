"""Where the sequences of a packed row lie, and how a CPU stacks them to compute attention in few products.

Sequences of one length, which are neighbours in a row that is in order of length, are computed together; those of rare
lengths with their neighbours, where the empty places cost less than products of their own, and in round sizes, as
:mod:`unmask.model.shapes` explains.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.model.shapes import round_up

_ALONE = 1024  # sequences of one length and so many tokens are computed by themselves on a CPU, with nothing to pick
_WASTE = 1 << 15  # empty scores (query by key) of a stack that take as long as a stack of their own would
# Others are stacked to multiples of these, since a product of a new shape begins slowly.
_WIDTHS, _COUNTS = 16, 4
_NOTHING = -1e9  # added to a score, its weight is zero in fp32 and bf16
_LEAST_BOUND = 64  # of the longest sequence that the kernel is told of


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
            scores.add_(unseen(self.width, window, causal, scores.dtype))
        if self.bias is not None:
            scores.view(self.count, -1, *scores.shape[1:])[..., self.shortest :].add_(self.bias)
        return scores


@dataclass
class PackedLayout:
    """Where the ``N`` sequences of a packed row of ``T`` tokens lie; it is not changed once it is made.

    Not a frozen dataclass: ``torch.compile`` of torch 2.11 looks at every field of those, and compiles anew for new ``groups``.

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
            spare = round_up(len(lengths), 1) - len(lengths)
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
    """Copy an array to a device; to a CUDA device from pinned memory, so that nothing waits for the copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def band(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor:
    """Return ``bool [length, length]``: which tokens are nearer than the window, and not behind where it is causal."""
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None, :]
    near = back.abs() < (length if window is None else window)
    return near & (back >= 0) if causal else near


@lru_cache(maxsize=64)
def unseen(width: int, window: int | None, causal: bool, dtype: torch.dtype) -> Tensor:
    """Return ``[width, width]`` to add to scores, so that nothing is seen outside the window, or behind.

    It is finite, since the window of an empty place may hold empty places alone: with nothing to see its weights would
    be NaN.
    """
    return torch.where(band(width, window, causal, torch.device("cpu")), 0.0, _NOTHING).to(dtype)
