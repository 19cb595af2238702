"""Draws from a softmax that are a function of the logits and of random bits given for each row, and of nothing else.

The largest of logits with Gumbel noise is a draw from their softmax (Gumbel-max). It is made in two stages, first which block of
the vocabulary and then which entry of it, so that a row needs as much noise as two square roots of the vocabulary. Inverting
the distribution function would need one number, and rounding errors, which depend on what shares a batch, would change
many more draws: it sums them up over the vocabulary.

Shapes: M rows, V entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unmask.data.masking.random_bits import GOLDEN, MIX_1, MIX_2
from unmask.model.float64 import exact_device
from unmask.model.softmax import row_blocks


@torch.no_grad()
def sample(logits: Tensor, bits: Tensor, allowed: Tensor) -> Tensor:
    """Return ``int64 [M]`` entries, drawn from the softmax over those that are allowed.

    Args:
        logits: ``[M, V]`` in any floating dtype; they are computed with in fp32.
        bits: ``int64 [M]`` random bits.
        allowed: ``bool [V]``.
    """
    entries = logits.shape[1]
    parts = row_blocks(len(bits), entries, logits.device)
    if not parts:
        return bits
    width = math.isqrt(entries - 1) + 1
    closed = torch.zeros(entries, device=logits.device).masked_fill_(~allowed, -math.inf)
    shape = parts[0].stop, -(-entries // width), width
    scores = torch.full(shape, -math.inf, device=logits.device)
    room = scores, torch.empty_like(scores)
    return torch.cat([_sample_block(logits[part], bits[part], closed, room) for part in parts])


def _sample_block(logits: Tensor, bits: Tensor, closed: Tensor, room: tuple[Tensor, Tensor]) -> Tensor:
    """Return the draws of a block of rows.

    Args:
        logits: ``[m, V]``.
        bits: ``int64 [m]``.
        closed: ``[V]``, minus infinity for entries that are not allowed, else 0.
        room: two fp32 arrays of ``m`` or more rows of the vocabulary in its blocks; minus infinity at the end of the first.
    """
    scores, powers = (part[: len(logits)] for part in room)
    _, blocks, width = scores.shape
    flat = scores.flatten(1)
    torch.add(logits, closed, out=flat[:, : logits.shape[1]])
    flat.sub_(flat.amax(-1, keepdim=True))
    exact = exact_device(logits.device)
    noise = _gumbel(bits.to(exact), blocks + width)
    block = (torch.exp(scores, out=powers).sum(-1).log().to(exact) + noise[:, :blocks]).argmax(-1)
    inside = scores[torch.arange(len(block), device=logits.device), block.to(logits.device)].to(exact)
    return (block * width + (inside + noise[:, blocks:]).argmax(-1)).to(logits.device)


def _gumbel(bits: Tensor, count: int) -> Tensor:
    """Return ``float64 [M, count]`` Gumbel noise of each row from its own bits."""
    counters = torch.arange(1, count + 1, device=bits.device) * _signed(int(GOLDEN))
    mixed = _mix(bits[:, None] + counters)
    uniform = (_shifted(mixed, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform))


def _mix(counters: Tensor) -> Tensor:
    """Hash ``int64`` counters as :func:`unmask.data.masking.random_bits.mix` does unsigned ones; products wrap around."""
    counters = (counters ^ _shifted(counters, 30)) * _signed(int(MIX_1))
    counters = (counters ^ _shifted(counters, 27)) * _signed(int(MIX_2))
    return counters ^ _shifted(counters, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift to the right as unsigned integers are."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number
