"""The loss: cross-entropy summed over masked tokens, divided by their number in the whole step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.data.batches import Batch
from unmask.model.masked_lm import MaskedLM


def step_gradients(model: MaskedLM, batches: list[Batch], targets: int) -> tuple[Tensor, Tensor]:
    """Add the gradient of a step's loss to the weights, micro-batch by micro-batch.

    Dividing by the step's own number of targets, not by each micro-batch's, makes the sum the same for every
    split.

    Args:
        model: in training mode.
        batches: this process's micro-batches.
        targets: masked tokens of the step over all processes and micro-batches.

    Returns:
        This process's part of the loss, and of the number of targets filled exactly; both scalars on the device.
    """
    loss = torch.zeros((), device=model.device)
    correct = torch.zeros((), dtype=torch.int64, device=model.device)
    for batch in batches:
        if not len(batch.target_ids):
            continue
        logits = model.target_logits(batch)
        labels = torch.from_numpy(batch.target_ids).to(model.device, non_blocking=True)
        part = F.cross_entropy(logits.float(), labels, reduction="sum") / max(targets, 1)
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
        correct += (logits.detach().argmax(-1) == labels).sum()
    return loss, correct
