"""Where float64 is computed: Apple's ``mps`` has none, so what needs it is moved to the CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_device(device: torch.device) -> torch.device:
    """Return the device itself where it has 64-bit numbers of all kinds, otherwise the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def in_float64(values: Tensor) -> Tensor:
    """Return the same numbers as float64, on :func:`exact_device`."""
    return values.to(exact_device(values.device)).double()
