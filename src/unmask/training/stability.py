"""What can go wrong in a step: a NaN or infinite loss, a loss spike, too little memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from unmask.errors import DivergedError
from unmask.training.parallel import own_part

SIGMAS = 6.0
"""A loss more than so many standard deviations above its running mean is a spike."""

Result = TypeVar("Result")

_OUT_OF_MEMORY = "DefaultCPUAllocator", "MPS backend out of memory"  # torch has no class of its own for these
_FOLLOW = 0.02  # weight of one more loss in the running mean, once there are many
_ENOUGH = 50  # losses before any is called a spike


def spike_of(trend: dict[str, float], loss: float) -> float:
    """Return by how many standard deviations a loss exceeds the running mean if it is a spike, otherwise 0.

    Args:
        trend: mean, variance and count, as :func:`follow` updates them.
        loss: of one step.
    """
    deviation = math.sqrt(trend.get("variance", 0.0))
    if trend.get("count", 0.0) < _ENOUGH or not deviation:
        return 0.0
    sigmas = (loss - trend["mean"]) / deviation
    return sigmas if sigmas > SIGMAS else 0.0


def follow(trend: dict[str, float], loss: float) -> None:
    """Update the running mean and variance with a loss; a spike counts as the highest loss that is none."""
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
    """Return which of loss and gradient norm is NaN or infinite, if any."""
    if not math.isfinite(loss):
        return f"the loss is {loss:g}"
    return None if math.isfinite(norm) else f"the gradient's norm is {norm:g}"


def require_finite_weights(model: nn.Module, step: int) -> None:
    """Raise where a weight is NaN or infinite, before a checkpoint is written.

    Raises:
        DivergedError: a weight is not finite.
    """
    named = {name: own_part(weight.detach()) for name, weight in model.named_parameters()}
    finite = torch.stack([weight.isfinite().all() for weight in named.values()]).tolist()  # waits once
    for name, is_finite in zip(named, finite, strict=True):
        if not is_finite:
            raise DivergedError(
                f"step {step}: the weight {name} is no longer finite; nothing was saved. "
                f"Lower the learning rate"
            )


def unless_out_of_memory(compute: Callable[[], Result]) -> Result | None:
    """Return the result of ``compute``, or ``None`` where it runs out of memory on the device or the machine."""
    try:
        return compute()
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if not any(name in str(error) for name in _OUT_OF_MEMORY):
            raise
    # Only here, where no traceback refers to the tensors any more, can they be freed.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
