"""Hashes of runs of values, such as words or tokens: equal runs have equal hashes wherever they stand."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from unmask.data.masking.random_bits import mix

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_WORD_SIZE = 1 << 64


@lru_cache(maxsize=2)
def _powers(size: int, base: int) -> np.ndarray:
    """Return ``uint64 [size]`` powers of a base modulo 2^64."""
    factors = np.full(size, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def span_hashes(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return ``uint64 [S]`` hashes of the spans ``[begin, end)`` of ``uint64 [N]`` values, independent of their position."""
    size = 1 << max(12, len(values).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * _powers(size, _BASE)[: len(values)], out=sums[1:])
    shift = _powers(size, pow(_BASE, -1, _WORD_SIZE))[begins]
    # The length is hashed too: leading zeros would not change the sum.
    return mix((sums[ends] - sums[begins]) * shift + (ends - begins).astype(np.uint64))
