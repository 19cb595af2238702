"""The cross-entropy of rows and its gradient in one kernel of Triton, which comes with torch's builds for CUDA.

Each logit is read twice and its gradient written once, and nothing else of their size. Imported where Triton is alone.
"""

# Triton reads the annotations of its functions, so they stay what they are, and take no types of Python's.
# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

_AT_ONCE, _WARPS = 4096, 8


@triton.jit
def _rows(
    logits, labels, gradient, losses, hits, width, logits_stride, gradient_stride, divisor, BLOCK: tl.constexpr
):  # fmt: skip
    """One row: the loss, whether the label is the first of the highest logits, and the gradient of loss over divisor."""
    row = tl.program_id(0).to(tl.int64)
    source, target = logits + row * logits_stride, gradient + row * gradient_stride
    label = tl.load(labels + row)
    places = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, width, BLOCK):
        here = begin + places
        found = tl.load(source + here, mask=here < width, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, found)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.exp(found - base)
        top = higher
    best = tl.max(top, 0)
    total = tl.sum(total * tl.exp(top - best), 0)
    right = tl.load(source + label).to(tl.float32)
    factor = 1.0 / (total * divisor)
    before = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, width, BLOCK):
        here = begin + places
        found = tl.load(source + here, mask=here < width, other=float("-inf")).to(tl.float32)
        before += ((found == best) & (here < label)).to(tl.int32)
        slope = tl.exp(found - best) * factor - tl.where(here == label, 1.0 / divisor, 0.0)
        tl.store(target + here, slope, mask=here < width)
    tl.store(losses + row, tl.log(total) + best - right)
    tl.store(hits + row, ((right == best) & (tl.sum(before, 0) == 0)).to(tl.int32))


@triton.jit
def _scaled(values, scale, count, BLOCK: tl.constexpr):
    """Multiply by a number that is on the device; by 1, which it nearly always is, nothing is read."""
    factor = tl.load(scale)
    if factor != 1.0:
        here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        found = tl.load(values + here, mask=here < count)
        tl.store(values + here, found * factor, mask=here < count)


def rows(logits: Tensor, labels: Tensor, gradient: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Write the gradient of the losses' sum over ``divisor``.

    Args:
        logits: ``[M, V]``, the entries of a row side by side.
        labels: ``int64``, at most ``M``.
        gradient: ``[M, V]``, contiguous; rows without a label are left as they are.
        divisor: of the gradient alone.

    Returns:
        ``fp32`` losses and ``int32`` whether the label is the first of the highest logits, of each label.
    """
    count, width = len(labels), logits.shape[1]
    losses = torch.empty(count, device=logits.device)
    hits = torch.empty(count, dtype=torch.int32, device=logits.device)
    if count:
        with torch.cuda.device(logits.device):
            _rows[(count,)](
                logits, labels, gradient, losses, hits, width, logits.stride(0), gradient.stride(0), float(divisor),
                BLOCK=_AT_ONCE, num_warps=_WARPS,
            )  # fmt: skip
    return losses, hits


def scale(values: Tensor, factor: Tensor) -> None:
    """Multiply contiguous values by a number on their device, in place."""
    count = values.numel()
    if count:
        with torch.cuda.device(values.device):
            _scaled[(triton.cdiv(count, _AT_ONCE),)](values, factor, count, BLOCK=_AT_ONCE, num_warps=_WARPS)
