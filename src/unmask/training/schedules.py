"""Schedules of learning rate and mask rate, as functions of progress (0 at the start, 1 at the end)."""

from __future__ import annotations

import math
from collections.abc import Callable

from unmask.config.settings import ScheduleSettings

DECAY_SHARE = 0.4
"""Share of a run over which a trapezoid decays to zero."""


_FIRST = 0.01
"""Factor of the first step of a run by the clock: nobody knows yet how many steps its warm-up has."""


def learning_rate_factor(settings: ScheduleSettings, name: str) -> Callable[..., float]:
    """Return the function from the progress at the begin and the end of a step to the factor of the peak learning rate.

    Warm-up over n steps goes 1/n, 2/n … 1: it takes the progress at the end (by default that at the begin), so that no
    step is computed for nothing.

    Args:
        settings: the share of warm-up.
        name: ``linear``, ``cosine``, ``trapezoid`` (Zhai et al. 2022; Hägele et al. 2024) or ``constant``.
    """
    after = {
        "constant": lambda share: 1.0,
        "linear": lambda share: 1.0 - share,
        "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
        "trapezoid": lambda share: min(1.0, (1.0 - share) / DECAY_SHARE),
    }[name]
    warmup = settings.warmup_share

    def factor(progress: float, end: float = 0.0) -> float:
        progress = min(max(progress, 0.0), 1.0)
        if progress < warmup:
            return min(max(progress, end, _FIRST * warmup) / warmup, 1.0)
        # A trapezoid's decay is a share of the whole run, the others fall over all that follows warm-up.
        return after(progress if name == "trapezoid" or warmup >= 1 else (progress - warmup) / (1.0 - warmup))

    return factor


def mask_rate(start: float, end: float, progress: float) -> float:
    """Return the mask rate, which goes linearly from ``start`` to ``end`` (Yang et al. 2023).

    Args:
        start: the rate at the beginning.
        end: the rate at the end.
        progress: share of the run that is done; below 0 and above 1 count as these.
    """
    return start + (end - start) * min(max(progress, 0.0), 1.0)
