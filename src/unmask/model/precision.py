"""Choose the precision of the computation: whether bf16 is faster on this machine is measured."""

from __future__ import annotations

import time
from functools import cache

import torch

from unmask.errors import ConfigError

_PRECISIONS = ("auto", "fp32", "bf16")
_SIDE = 768
_TURNS, _LEAST_TURNS = 15, 2
_WORTH = 1.3


def pick_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Decide between ``fp32`` and ``bf16``.

    Args:
        wanted: ``fp32``, ``bf16``, or ``auto`` to measure.
        device: where the model computes.

    Returns:
        The precision, and a sentence that says why.

    Raises:
        ConfigError: there is no such precision.
    """
    if wanted not in _PRECISIONS:
        raise ConfigError(f"no precision '{wanted}'; there are {', '.join(_PRECISIONS)}")
    return (wanted, f"computing in {wanted}") if wanted != "auto" else _faster(device)


def _faster(device: torch.device) -> tuple[str, str]:
    """Return the faster precision, and why."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "computing in bf16 with fp32 weights: the GPU has it"
        return "fp32", "computing in fp32: the GPU has no bf16"
    if device.type == "mps":
        return "fp32", "computing in fp32: what bf16 gains on mps has not been measured"
    ratio = _ratio()
    if ratio >= _WORTH:
        return (
            "bf16",
            f"computing in bf16 with fp32 weights: matrix products are {ratio:.1f} times as fast here",
        )
    if ratio < 1:
        return "fp32", "computing in fp32: bf16 matrix products are slower here"
    return "fp32", f"computing in fp32: bf16 matrix products are only {ratio:.1f} times as fast here"


@cache
def _ratio() -> float:
    """Return how many times as fast a bf16 matrix product is as one in fp32.

    The two alternate, and the fastest of many turns counts, so that another program on the machine slows both or
    neither. Where the first turns leave no doubt that bf16 is slower, it ends early.
    """
    best: dict[torch.dtype, float] = {}
    for turn in range(_TURNS):
        if turn == _LEAST_TURNS and best[torch.float32] < best[torch.bfloat16] / 2:
            break
        for dtype in (torch.float32, torch.bfloat16):
            side = torch.ones(_SIDE, _SIDE, dtype=dtype)
            begin = time.perf_counter()
            side @ side
            best[dtype] = min(best.get(dtype, 1e9), time.perf_counter() - begin)
    return best[torch.float32] / best[torch.bfloat16]
