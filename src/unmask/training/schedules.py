"""Schedules: what changes over a run, as functions of how much of it is done (0 at the start, 1 at the end)."""

from __future__ import annotations

import math
from collections.abc import Callable

from unmask.config.settings import ScheduleSettings


def learning_rate_factor(settings: ScheduleSettings, name: str) -> Callable[[float], float]:
    """Return the function from progress to the factor of the peak learning rate.

    Args:
        settings: shares of warm-up and decay.
        name: ``linear``, ``cosine``, ``trapezoid`` (Zhai et al. 2022; Hägele et al. 2024) or ``constant``.
    """
    after = {
        "constant": lambda share: 1.0,
        "linear": lambda share: 1.0 - share,
        "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
        "trapezoid": lambda share: min(
            1.0, (1.0 - share) / settings.decay_share if settings.decay_share else 1.0
        ),
    }[name]
    warmup = settings.warmup_share

    def factor(progress: float) -> float:
        progress = min(max(progress, 0.0), 1.0)
        if progress < warmup:
            return progress / warmup
        # A trapezoid's decay is a share of the whole run, the others fall over all that follows warm-up.
        return after(progress if name == "trapezoid" or warmup >= 1 else (progress - warmup) / (1.0 - warmup))

    return factor


def batch_share(progress: float, ramp: float) -> float:
    """Return the share of a full batch that a step takes: a quarter, then a half, and all of it after the ramp.

    Args:
        progress: share of the run that is done.
        ramp: share of the run in which batches are smaller. What a model learns first, it learns as well from less
            text a step (McCandlish et al. 2018), so that more steps fit into the same time.
    """
    if progress >= ramp:
        return 1.0
    return 0.25 if progress < ramp / 2 else 0.5


def mask_rate(start: float, end: float | None, progress: float, schedule: str = "linear") -> float:
    """Return the mask rate: constant, or falling from ``start`` to ``end`` (Yang et al. 2023).

    Args:
        start: the rate at the beginning.
        end: the rate at the end; ``None`` keeps ``start``.
        progress: share of the run that is done; below 0 and above 1 count as these.
        schedule: ``linear``, or ``cosine``, which is slow at both ends.
    """
    if end is None:
        return start
    done = min(max(progress, 0.0), 1.0)
    if schedule == "cosine":
        done = 0.5 * (1.0 - math.cos(math.pi * done))
    return start + (end - start) * done
