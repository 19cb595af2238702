"""Cross-entropy summed over targets and divided by their number in the whole step, with its gradient in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unmask.model.float64 import exact_device
from unmask.model.softmax import row_blocks


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
    """Loss and gradient in one pass over blocks of rows that stay in the cache.

    torch's own path writes five fp32 arrays of the size of the logits to memory; this one writes the gradient
    alone, in the dtype of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(logits)
        exact = exact_device(logits.device)
        loss = torch.zeros((), device=exact, dtype=torch.float64)
        hits = torch.zeros((), device=logits.device, dtype=torch.int64)
        parts = row_blocks(len(labels), logits.shape[1], logits.device)
        buffer = torch.empty(parts[0].stop if parts else 0, logits.shape[1], device=logits.device)
        for part in parts:
            label = labels[part].unsqueeze(1)
            block = buffer[: len(label)].copy_(logits[part])
            right = block.gather(1, label)
            top, correct = _highest(block, label, right)
            hits += correct
            total = block.sub_(top).exp_().sum(-1, keepdim=True)
            loss += (total.log() + top - right).to(exact).sum(dtype=torch.float64)
            block.mul_((total * divisor).reciprocal_())
            block.scatter_add_(1, label, torch.full_like(total, -1.0 / divisor))
            gradient[part] = block
        gradient[len(labels) :].zero_()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hits)
        return (loss / divisor).float().to(logits.device), hits

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # A pass over all logits for nothing is a hundredth of a step; off the CPU to look would cost more.
        if gradient.device.type != "cpu" or scale != 1.0:
            gradient.mul_(scale)
        return gradient, None, None


def _highest(logits: Tensor, label: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest logit of each row, ``[M, 1]``, and in how many rows the label is the first that has it.

    Args:
        logits: ``[M, V]``.
        label: ``int64 [M, 1]``.
        right: ``[M, 1]``, the logits of the labels.
    """
    if logits.device.type != "cpu":  # one pass finds both, and picking rows would wait for the device
        top, place = logits.max(-1, keepdim=True)
        return top, (place == label).sum()
    top = logits.amax(-1, keepdim=True)
    # On a CPU finding which comes first is slow, so only the rows are searched where it can be the label.
    found = (right == top).squeeze(1)
    return top, (logits[found].argmax(-1, keepdim=True) == label[found]).sum()


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
