"""Random bits that are a pure function of (seed, epoch, document, position in the document).

The generator is counter-based: a stateless 64-bit hash, so random bits do not depend on batch size, packing, workers,
processes or resuming. The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from unmask.data.packing import Packed

EVALUATION_EPOCH = -1
"""The epoch reserved for evaluation, so that its masks are fixed and differ from those of training."""
EVALUATION_SEED = 0
"""The seed of every evaluation, so that all models predict the same positions."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class MaskKey:
    """Seed and epoch of the masks of one pass."""

    seed: int
    epoch: int

    def stream(self, purpose: str) -> np.uint64:
        """Return the 64-bit key of an independent stream of random bits."""
        text = f"unmask masks 1/{self.seed}/{self.epoch}/{purpose}"
        return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


EVALUATION_KEY = MaskKey(EVALUATION_SEED, EVALUATION_EPOCH)


def random_bits(packed: Packed, stream: np.uint64) -> np.ndarray:
    """Return ``uint64 [T]``: random bits of each token, by stream, document and position."""
    lengths = np.diff(packed.cu_seqlens)
    starts = packed.cu_seqlens[:-1].astype(np.uint64)
    with np.errstate(over="ignore"):
        base = packed.keys + stream + (packed.offsets.astype(np.uint64) - starts) * GOLDEN
        counters = np.repeat(base, lengths)
        counters += np.arange(len(counters), dtype=np.uint64) * GOLDEN
    return mix(counters)


def random_bits_at(packed: Packed, index: np.ndarray, stream: np.uint64) -> np.ndarray:
    """Return ``uint64 [M]``: the values of :func:`random_bits` at ``int64 [M]`` positions only."""
    segment = np.searchsorted(packed.cu_seqlens, index, side="right") - 1
    position = (index - packed.cu_seqlens[segment] + packed.offsets[segment]).astype(np.uint64)
    with np.errstate(over="ignore"):
        return mix(packed.keys[segment] + stream + position * GOLDEN)


def sequence_random_bits(packed: Packed, stream: np.uint64) -> np.ndarray:
    """Return ``uint64 [N]``: random bits of each sequence, by stream, document and first position."""
    with np.errstate(over="ignore"):
        return mix(packed.keys + stream + packed.offsets.astype(np.uint64) * GOLDEN)


def shuffled(count: int, key: MaskKey) -> np.ndarray:
    """Return ``int64 [count]``: a permutation determined by the key."""
    with np.errstate(over="ignore"):
        counters = np.arange(count, dtype=np.uint64) * GOLDEN + key.stream("order")
    return np.argsort(mix(counters), kind="stable")


def mix(counters: np.ndarray) -> np.ndarray:
    """Hash ``uint64`` counters in place and return them."""
    scratch = np.empty_like(counters)
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        np.right_shift(counters, np.uint64(shift), out=scratch)
        np.bitwise_xor(counters, scratch, out=counters)
        np.multiply(counters, factor, out=counters)
    np.right_shift(counters, np.uint64(31), out=scratch)
    np.bitwise_xor(counters, scratch, out=counters)
    return counters


def run_hashes(numbers: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return ``uint64 [W]`` hashes of consecutive runs of ``int64 [T]`` numbers, which begin at ``int64 [W]`` ``first``."""
    lengths = np.diff(first, append=len(numbers))
    place = np.arange(len(numbers)) - np.repeat(first, lengths)
    with np.errstate(over="ignore"):
        scrambled = mix(numbers.astype(np.uint64) * MIX_2 + place.astype(np.uint64) * GOLDEN + MIX_1)
        return np.add.reduceat(scrambled, first)


def threshold(share: float) -> np.uint64:
    """Return the threshold below which a share of all random bits lies."""
    return np.uint64(min(int(share * 2.0**64), 2**64 - 1))


def uniform(draw: np.ndarray) -> np.ndarray:
    """Return random bits as ``float64`` in [0, 1), for display."""
    return (draw >> np.uint64(11)).astype(np.float64) * 2.0**-53
