"""A step's loss and gradient: each loss of the objective is summed and divided by its count in the whole step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unmask.data.batches import Batch, StepRows
from unmask.training.parallel import GradientSum


def step_gradients(
    summed: GradientSum, batches: Sequence[Batch], divisors: Sequence[int], *, last: bool = True
) -> tuple[Tensor, Tensor]:
    """Add the gradient of a step's loss to the weights, micro-batch by micro-batch.

    Dividing by the step's own counts, not by each micro-batch's, makes the sum the same for every split.

    Args:
        summed: the model, in training mode, its objective, and the processes, in each of which there are as many
            micro-batches.
        batches: this process's micro-batches.
        divisors: what each of the ``K`` losses is divided by, over all processes and micro-batches.
        last: whether the gradients are summed over the processes after these micro-batches; otherwise no message is sent.

    Returns:
        This process's part of each loss, ``float32 [K]``, and of the number of its targets that were predicted exactly,
        ``int64 [K]``; both on the device.
    """
    objective, device = summed.objective, summed.model.device
    divisors = [max(divisor, 1) for divisor in divisors]
    losses = torch.zeros(len(divisors), device=device)
    correct = torch.zeros(len(divisors), dtype=torch.int64, device=device)
    seed = None
    if objective.compares and last and not (summed.alone and len(batches) < 2):
        seed = torch.initial_seed()
        batches = _with_step_rows(summed, batches, seed)
    for number, batch in enumerate(batches):
        _seed_dropout(seed, number)
        empty = not any(objective.counts(batch))
        if empty and summed.alone:
            continue
        if empty:  # all processes take part in the sum
            batch = summed.filler()
        with summed.micro_batch(last and number == len(batches) - 1):
            found = summed.losses(batch, divisors)
            total = objective.total([loss.value for loss in found])
            (total * 0.0 if empty else total).backward()
        if not empty:
            losses += torch.stack([loss.value.detach() for loss in found])
            counts = [loss.correct for loss in found]
            correct += torch.stack([correct.new_zeros(()) if count is None else count for count in counts])
    return losses, correct


@torch.no_grad()
def _with_step_rows(summed: GradientSum, batches: Sequence[Batch], seed: int) -> list[Batch]:
    """Give each micro-batch what its sequences are compared with, by a first pass without a gradient.

    The gradient of a micro-batch with the rows of the others held constant is its part of the step's own, so a step takes
    the memory of one micro-batch (Gao et al. 2021, arXiv 2101.06983).
    """
    objective, found = summed.objective, []
    for number, batch in enumerate(batches):
        _seed_dropout(seed, number)
        empty = not any(objective.counts(batch))
        rows = objective.rows(summed.model, summed.filler() if empty else batch)
        found.append(tuple(row[:0] for row in rows) if empty else rows)
    columns = [summed.world.rows(torch.cat(column)) for column in zip(*found, strict=True)]
    arrays, first = tuple(array for array, _ in columns), columns[0][1]
    given = []
    for batch, rows in zip(batches, found, strict=True):
        given.append(replace(batch, of_step=StepRows(arrays, first)))
        first += len(rows[0])
    return given


def _seed_dropout(seed: int | None, number: int) -> None:
    """Drop the same in both passes of a micro-batch, where there are two."""
    if seed is not None:
        torch.manual_seed((seed + number) % 2**64)
