"""Whether bf16 pays on this machine: measured, not guessed from a name."""

from __future__ import annotations

import time

import torch

_SIDE = 768
_WORTH = 1.3


def pick_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Decide between ``fp32`` and ``bf16``.

    Args:
        wanted: ``fp32``, ``bf16``, or ``auto`` to measure.
        device: where training will compute.

    Returns:
        The precision, and a sentence that says why.
    """
    if wanted != "auto":
        return wanted, f"computing in {wanted}, as asked"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "computing in bf16 with fp32 weights: the GPU has it"
        return "fp32", "computing in fp32: the GPU has no bf16"
    ratio = _seconds(torch.float32) / _seconds(torch.bfloat16)
    if ratio >= _WORTH:
        return (
            "bf16",
            f"computing in bf16 with fp32 weights: matrix products are {ratio:.1f} times as fast here",
        )
    return "fp32", f"computing in fp32: bf16 matrix products are only {ratio:.1f} times as fast here"


def _seconds(dtype: torch.dtype) -> float:
    """Return the best of a few timings of one matrix product."""
    left = torch.ones(_SIDE, _SIDE, dtype=dtype)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        left @ left
        times.append(time.perf_counter() - begin)
    return min(times)
