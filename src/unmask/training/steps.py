"""A step of training: its data, which are prepared while the one before is computed, and its result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.data.batches import Batch
from unmask.data.training_stream import Cursor
from unmask.model.float64 import in_float64
from unmask.objectives.objective import Objective


@dataclass(frozen=True)
class StepPlan:
    """The data of one step: this process's micro-batches, and values that are the same in all processes.

    ``counts``, the targets of each loss, are those of this process until :meth:`Loop.agreed` has added up those of all.
    """

    batches: list[Batch]
    cursor: Cursor
    following: Cursor
    sequences: np.ndarray
    tokens: int
    epochs: float
    mask_rate: float
    micro_batch_tokens: int
    counts: tuple[int, ...]
    objective: Objective
    stage: int = 0
    following_stage: int = 0


class StepResult(NamedTuple):
    """The result of one step with ``K`` losses, over all processes.

    Attributes:
        losses: ``float32 [K]`` on the device.
        correct: targets of each predicted exactly; ``int64 [K]`` on the device.
        norm: of the gradient, before clipping; scalar on the device. Where it or the loss is NaN or infinite, the step
            was not applied.
        skipped: why the step was skipped, or ``None``.
        spike: standard deviations of the loss above its running mean, or 0 if it is no spike.
    """

    losses: Tensor
    correct: Tensor
    norm: Tensor
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
        losses, correct, norm = result[:3]
        # The norm is on the host where the weights are.
        sums = in_float64(losses)
        figures = torch.cat([sums, in_float64(correct), in_float64(norm).to(sums.device).view(1)])
        if figures.is_cuda:
            figures = torch.empty(len(figures), dtype=torch.float64, pin_memory=True).copy_(
                figures, non_blocking=True
            )
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._figures = figures

    def read(self) -> tuple[list[float], list[int], float]:
        """Return the losses, the targets of each predicted exactly, and the gradient's norm."""
        if self._copied is not None:
            self._copied.synchronize()
        *figures, norm = self._figures.tolist()
        losses, correct = figures[: len(figures) // 2], figures[len(figures) // 2 :]
        return losses, [int(count) if math.isfinite(count) else 0 for count in correct], norm
