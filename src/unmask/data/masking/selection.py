"""Selection: which units are masked, so that their share of the tokens is the rate.

Every unit has a chance, and a draw that falls below it or not. The chance is the rate; with weighted units it is
the weight times a factor that is solved for every sequence, so that the expected tokens are the rate's share.

``bernoulli`` draws for each unit independently. ``fixed`` draws once for each sequence: its units are lined up, those of
one length in random order, each as wide as its chance, and every whole number from a random start takes the unit it
falls into (systematic sampling, Madow 1949). So each unit keeps its chance, and the number of targets keeps to the
rate's share: to one token where units are tokens, and to about the longest unit in any case.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unmask.data.masking.random_bits import MaskKey, random_bits, sequence_random_bits, threshold
from unmask.data.masking.units import MaskingPlan, MaskUnits, sequence_of, units_of
from unmask.data.packing import Packed

# Chances in whole numbers: sums do not depend on what else is in the batch, as sums of floats would.
_ONE = 1 << 40
_SHIFT = np.uint64(24)
_ROUNDING = 1e-12


class Selection(NamedTuple):
    """``U`` units, each chosen when its draw is below its limit.

    Attributes:
        first: ``int64 [U]``, the first token of each.
        draw: ``uint64 [U]``.
        limit: ``uint64 [U]``, or one for all.
    """

    first: np.ndarray
    draw: np.ndarray
    limit: np.ndarray | np.uint64

    @property
    def chosen(self) -> np.ndarray:
        """``bool [U]``."""
        return self.draw < self.limit


def select(packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float, maskable: np.ndarray) -> Selection:
    """Choose units.

    Args:
        packed: ``N`` sequences of ``T`` tokens.
        plan: strategy and count.
        key: seed and epoch.
        rate: share of the maskable tokens to choose.
        maskable: ``bool [T]``.
    """
    units = units_of(packed, plan, key)
    draw = random_bits(packed, key.stream("select"))[units.first]
    if units.weight is None and plan.settings.count == "bernoulli":
        return Selection(units.first, draw, threshold(rate))
    sequence = sequence_of(packed, units.first)
    sizes = np.add.reduceat(maskable, units.first, dtype=np.int64)
    chance = _chances(units, sizes, sequence, len(packed.keys), rate)
    if plan.settings.count == "bernoulli":
        return Selection(units.first, draw, _thresholds(chance))
    turn = sequence_random_bits(packed, key.stream("count"))
    return Selection(units.first, *_systematic(draw, chance, sizes, sequence, turn))


def _chances(
    units: MaskUnits, sizes: np.ndarray, sequence: np.ndarray, sequences: int, rate: float
) -> np.ndarray:
    """Return ``float64 [U]``: the chance of each unit, 0 where nothing in it can be masked."""
    if units.weight is None:
        return np.where(sizes > 0, rate, 0.0)
    wanted = rate * np.bincount(sequence, sizes, sequences)
    sure = sizes == 0
    while True:
        # Units whose weight would need a chance above 1 get 1, and the others share what is left.
        left = wanted - np.bincount(sequence, sizes * sure, sequences)
        mass = np.bincount(sequence, sizes * units.weight * ~sure, sequences)
        factor = np.divide(left, mass, out=np.zeros(sequences), where=mass > 0)
        over = ~sure & (units.weight * factor[sequence] >= 1.0 - _ROUNDING)
        if not over.any():
            return np.where(sizes > 0, np.where(sure, 1.0, units.weight * factor[sequence]), 0.0)
        sure |= over


def _systematic(
    draw: np.ndarray, chance: np.ndarray, sizes: np.ndarray, sequence: np.ndarray, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return draws and limits by which the systematic sample is chosen, ``uint64 [U]`` each."""
    width = np.round(chance * _ONE).astype(np.uint64)
    order = np.lexsort((draw, sequence * (sizes.max(initial=0) + 1) + sizes))
    ends = np.cumsum(width[order])
    before = ends - width[order]
    counts = np.bincount(sequence, minlength=len(turn))
    occupied = counts > 0
    begins = np.repeat(before[(np.cumsum(counts) - counts)[occupied]], counts[occupied])
    # A unit is taken when a whole number lies in it, which is to say: close enough behind its beginning.
    place = (before - begins + (turn >> _SHIFT)[sequence[order]]) & np.uint64(_ONE - 1)
    decided = np.empty_like(draw)
    decided[order] = (np.uint64(_ONE - 1) - place) << _SHIFT
    limit = np.where(width >= _ONE, ~np.uint64(0), width << _SHIFT)
    _take_at_least_one(decided, limit, draw, sizes, sequence, len(turn))
    return decided, limit


def _take_at_least_one(
    decided: np.ndarray,
    limit: np.ndarray,
    draw: np.ndarray,
    sizes: np.ndarray,
    sequence: np.ndarray,
    count: int,
) -> None:
    """Choose the unit with the lowest draw in sequences of two tokens or more in which none is chosen."""
    tokens = np.bincount(sequence, sizes, count)
    chosen = np.bincount(sequence, (decided < limit) & (sizes > 0), count)
    open_ = np.flatnonzero((sizes > 0) & ((chosen == 0) & (tokens > 1))[sequence])
    ranked = open_[np.lexsort((draw[open_], sequence[open_]))]
    lowest = ranked[np.diff(sequence[ranked], prepend=-1) > 0]
    decided[lowest], limit[lowest] = 0, np.maximum(limit[lowest], 1)


def _thresholds(chance: np.ndarray) -> np.ndarray:
    """Return ``uint64 [U]`` thresholds of ``float64 [U]`` chances."""
    whole = np.minimum(chance, 1.0 - 2.0**-53) * 2.0**64
    return np.where(chance >= 1.0, ~np.uint64(0), whole.astype(np.uint64))
