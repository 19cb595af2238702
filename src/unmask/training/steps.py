"""A step of training: its data, which are prepared while the one before is computed, and its result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
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
        norm: of the gradient, before clipping; scalar on the device. Where it or the loss is NaN or infinite, the step
            was not applied.
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


class ComputedStep:
    """A step whose figures are on their way from the device, which nothing waits for until they are read.

    Args:
        number: of the step, from 1.
        plan: its data.
        result: what :meth:`Loop.step` returned.
    """

    def __init__(self, number: int, plan: StepPlan, result: StepResult) -> None:
        self.number, self.plan, self.result = number, plan, result
        self._copied: torch.cuda.Event | None = None
        loss, correct, norm = result[:3]
        # The norm is on the host where the weights are.
        figures = torch.stack([loss.double(), correct.double(), norm.double().to(loss.device)])
        if figures.is_cuda:
            figures = torch.empty(3, dtype=torch.float64, pin_memory=True).copy_(figures, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._figures = figures

    def read(self) -> tuple[float, int, float]:
        """Return the loss, the targets predicted exactly, and the gradient's norm."""
        if self._copied is not None:
            self._copied.synchronize()
        loss, correct, norm = self._figures.tolist()
        return loss, int(correct) if math.isfinite(correct) else 0, norm
