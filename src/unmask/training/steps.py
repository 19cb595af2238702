"""A step of training: its data, which are prepared while the one before is computed, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from unmask.data.batches import Batch, Cursor


@dataclass(frozen=True)
class StepPlan:
    """The data of one step: this process's micro-batches, and values that are the same in all processes.

    ``targets`` are those of this process until :meth:`Loop.agreed` has added up those of all.
    """

    batches: list[Batch]
    cursor: Cursor
    following: Cursor
    sequences: np.ndarray
    tokens: int
    epochs: float
    mask_rate: float
    micro_batch_tokens: int
    targets: int


class StepResult(NamedTuple):
    """The result of one step, over all processes.

    Attributes:
        loss: scalar on the device.
        correct: targets predicted exactly; scalar on the device.
        norm: of the gradient, before clipping; scalar on the device.
        targets: number of predicted tokens.
        skipped: why the step was skipped, or ``None``.
        spike: standard deviations of the loss above its running mean, or 0 if it is no spike.
    """

    loss: Tensor
    correct: Tensor
    norm: Tensor
    targets: int
    skipped: str | None = None
    spike: float = 0.0
