"""What can go wrong in a step: a loss that is no number, a spike, memory that does not suffice."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from unmask.errors import DivergedError

SIGMAS = 6.0
"""A loss that lies further above its running mean than so many standard deviations is a spike."""

Result = TypeVar("Result")

_FOLLOW = 0.02  # what one more loss counts in the running mean, once there are many
_ENOUGH = 50  # losses before any of them is called a spike


def spike_of(trend: dict[str, float], loss: float) -> float:
    """Return how many standard deviations a loss lies above the running mean if that is a spike, otherwise 0.

    Args:
        trend: what :func:`follow` keeps.
        loss: of one step.
    """
    deviation = math.sqrt(trend.get("variance", 0.0))
    if trend.get("count", 0.0) < _ENOUGH or not deviation:
        return 0.0
    sigmas = (loss - trend["mean"]) / deviation
    return sigmas if sigmas > SIGMAS else 0.0


def follow(trend: dict[str, float], loss: float) -> None:
    """Count a loss into the running mean and variance; a spike only as the highest loss that is none."""
    if spike_of(trend, loss):
        loss = trend["mean"] + SIGMAS * math.sqrt(trend["variance"])
    count = trend.get("count", 0.0) + 1
    share = max(1 / count, _FOLLOW)
    away = loss - trend.get("mean", 0.0)
    trend |= {
        "count": count,
        "mean": trend.get("mean", 0.0) + share * away,
        "variance": (1 - share) * (trend.get("variance", 0.0) + share * away * away),
    }


def not_finite(loss: float, norm: float) -> str | None:
    """Say what of a step is no finite number, if anything is."""
    if not math.isfinite(loss):
        return f"the loss is {loss:g}"
    return None if math.isfinite(norm) else f"the gradient's norm is {norm:g}"


def require_finite_weights(model: nn.Module, step: int) -> None:
    """Refuse weights that are not worth a checkpoint.

    Raises:
        DivergedError: a weight is not finite.
    """
    for name, weight in model.named_parameters():
        if not bool(weight.detach().isfinite().all()):
            raise DivergedError(
                f"step {step}: the weight {name} is no longer finite; nothing was saved. "
                f"Lower the learning rate"
            )


def unless_out_of_memory(compute: Callable[[], Result]) -> Result | None:
    """Compute something, or return ``None`` where the memory of the device, or of the machine, does not suffice."""
    try:
        return compute()
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # torch has no class of its own for it
            raise
    # Only here, where no traceback holds on to what was computed, can it be given back.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
