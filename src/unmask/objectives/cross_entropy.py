"""Cross-entropy summed over targets and divided by their number in the whole step, with its gradient in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from unmask.model.float64 import exact_device
from unmask.model.softmax import row_blocks

_FUSED = (torch.float32, torch.bfloat16, torch.float16)


def masked_cross_entropy(logits: Tensor, labels: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Return the fp32 cross-entropy summed over labels and divided, and how many rows are right.

    Args:
        logits: ``[M, V]`` in any floating dtype; the sums are fp32 whatever it is. Rows behind those that have a label
            do not count, and have a gradient of zero.
        labels: ``int64``, at most ``M``.
        divisor: masked tokens of the whole step.
    """
    loss, hits = _CrossEntropy.apply(logits, labels, divisor)
    return loss, hits


class _CrossEntropy(torch.autograd.Function):
    """Loss and gradient over blocks of rows, or over all of them in one kernel.

    torch's own path writes five fp32 arrays of the size of the logits to memory; this one keeps the gradient alone, in the
    dtype of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        ctx.kernel = fused_kernel() if logits.device.type == "cuda" and logits.dtype in _FUSED else None
        if ctx.kernel is not None and logits.stride(1) == 1:
            losses, right = ctx.kernel.rows(logits, labels, gradient, divisor)
            loss, hits = losses.sum(dtype=torch.float64), right.sum()
        else:
            ctx.kernel = None
            loss, hits = _in_blocks(logits, labels, gradient, divisor)
        gradient[len(labels) :].zero_()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hits)
        return (loss / divisor).float().to(logits.device), hits

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # A pass over all logits for nothing is a hundredth of a step; off the CPU to look would cost more.
        if ctx.kernel is not None:
            ctx.kernel.scale(gradient, scale)
        elif gradient.device.type != "cpu" or scale != 1.0:
            gradient.mul_(scale)
        return gradient, None, None, None


@cache
def fused_kernel() -> ModuleType | None:
    """Return :mod:`unmask.objectives.cross_entropy_kernel`, if it can be built here and gives what it should."""
    try:
        from unmask.objectives import cross_entropy_kernel as kernel

        with torch.no_grad():
            logits = torch.arange(12.0, device="cuda").reshape(2, 6)
            labels = torch.tensor([1, 5], device="cuda")
            gradient, wanted = torch.empty_like(logits), torch.empty_like(logits)
            losses, hits = kernel.rows(logits, labels, gradient, 3)
            loss, right = _in_blocks(logits, labels, wanted, 3)
            kernel.scale(gradient, torch.ones((), device="cuda"))
        same = torch.allclose(gradient, wanted, rtol=1e-4) and torch.allclose(losses.sum(), loss.float())
        return kernel if same and int(hits.sum()) == int(right) else None
    except Exception:  # no Triton, no compiler of C, another device than it knows: all are found out here
        return None


def _in_blocks(logits: Tensor, labels: Tensor, gradient: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses, in float64, and of the hits, and write the gradient, a block of rows at a time."""
    on_cpu = logits.device.type == "cpu"
    compute = _on_cpu if on_cpu else _on_device
    loss = torch.zeros((), device=exact_device(logits.device), dtype=torch.float64)
    hits = torch.zeros((), device=logits.device, dtype=torch.int64)
    parts = row_blocks(len(labels), logits.shape[1], logits.device)
    buffer = torch.empty(parts[0].stop if on_cpu and parts else 0, logits.shape[1])
    for part in parts:
        losses, correct = compute(logits[part], labels[part].unsqueeze(1), gradient[part], buffer, divisor)
        loss += losses.to(loss.device).sum(dtype=torch.float64)
        hits += correct
    return loss, hits


def _on_cpu(
    logits: Tensor, label: Tensor, gradient: Tensor, buffer: Tensor, divisor: int
) -> tuple[Tensor, Tensor]:
    """Compute the losses of rows and write their gradient, in a buffer that stays in the cache.

    Args:
        logits: ``[m, V]``.
        label: ``int64 [m, 1]``.
        gradient: ``[m, V]``, is written.
        buffer: fp32, of ``m`` rows at least.
        divisor: of the gradient.

    Returns:
        ``fp32 [m, 1]``, and in how many rows the label is the first of the highest logits.
    """
    block = buffer[: len(label)].copy_(logits)
    right = block.gather(1, label)
    top = block.amax(-1, keepdim=True)
    # Finding which comes first is slow, so only the rows are searched where it can be the label.
    found = (right == top).squeeze(1)
    correct = (block[found].argmax(-1, keepdim=True) == label[found]).sum()
    total = block.sub_(top).exp_().sum(-1, keepdim=True)
    losses = total.log() + top - right
    block.mul_((total * divisor).reciprocal_())
    block.scatter_add_(1, label, torch.full_like(total, -1.0 / divisor))
    gradient.copy_(block)
    return losses, correct


def _on_device(
    logits: Tensor, label: Tensor, gradient: Tensor, _: Tensor, divisor: int
) -> tuple[Tensor, Tensor]:
    """As :func:`_on_cpu`, in few kernels and with no wait for the device."""
    log_softmax = logits.log_softmax(-1, dtype=torch.float32)
    right = log_softmax.gather(1, label)
    correct = (logits.argmax(-1, keepdim=True) == label).sum()
    slopes = log_softmax.exp_().scatter_(1, label, right.expm1())
    torch.mul(slopes, 1.0 / divisor, out=gradient)
    return -right, correct


def loss_in_blocks(
    block_loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    states: Tensor,
    labels: Tensor,
    blocks: Sequence[slice],
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the sums of a loss, and of its hits, over blocks of rows, with the memory of one block.

    The gradient of a block is computed with its loss, so that nothing is kept of it, and nothing computed twice.

    Args:
        block_loss: of ``[m, H]`` rows and their labels, in fp32, with the hits.
        states: ``[M, H]``.
        labels: ``int64``, at most ``M``.
        blocks: of the rows.
        weights: those that may have a part in the loss besides the rows.
    """
    loss, hits = _LossInBlocks.apply(block_loss, states, labels, blocks, *weights)
    return loss, hits


class _LossInBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        block_loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        states: Tensor,
        labels: Tensor,
        blocks: Sequence[slice],
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        of_states = torch.empty_like(states)
        of_weights: list[Tensor | None] = [None] * len(weights)
        found = []
        for part in blocks:
            rows = states[part].detach().requires_grad_()
            with torch.enable_grad():
                loss, hits = block_loss(rows, labels[part])
            of_states[part], *more = torch.autograd.grad(loss, (rows, *weights), allow_unused=True)
            for place, gradient in enumerate(more):
                known = of_weights[place]
                # Not in place: two weights may have one tensor as their gradient.
                of_weights[place] = gradient if known is None else known + gradient
            found.append((loss.detach(), hits))
        ctx.gradients = [of_states, *of_weights]
        losses, counts = zip(*found, strict=True)
        hits = torch.stack(counts).sum()
        ctx.mark_non_differentiable(hits)
        return torch.stack(losses).sum(), hits

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if scale.device.type != "cpu" or scale != 1.0:
            gradients = [None if gradient is None else gradient * scale for gradient in gradients]
        of_states, *of_weights = gradients
        return None, of_states, None, None, *of_weights
