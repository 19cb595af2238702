"""Select the units to mask at the mask rate.

A unit is selected if its random draw is below its chance. The chance is the mask rate; for weighted units it is the
weight times a factor, solved for every sequence so that the expected share of masked tokens is the mask rate.

``bernoulli`` draws for each unit independently. ``fixed`` is systematic sampling (Madow 1949) with one draw per sequence:
units are ordered by length, in random order within a length, and laid on a line with their chances as widths; every
whole number from a random start selects the unit it falls into. Each unit keeps its chance, so the expected share is the
mask rate in texts of any length, and the number of targets differs from it by less than one for single tokens, and by
about the longest unit otherwise. A short text can have no target.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unmask.data.masking.random_bits import MaskKey, random_bits, sequence_random_bits, threshold
from unmask.data.masking.units import MaskingPlan, MaskUnits, sequence_of, units_of
from unmask.data.packing import Packed

# Chances as integers: unlike sums of floats, their sums do not depend on the rest of the batch.
_ONE = 1 << 40
_SHIFT = np.uint64(24)
_ROUNDING = 1e-12


class Selection(NamedTuple):
    """``U`` units, selected where the draw is below the limit.

    Attributes:
        first: ``int64 [U]``, the first token of each unit.
        draw: ``uint64 [U]``.
        limit: ``uint64 [U]``, or one for all units.
    """

    first: np.ndarray
    draw: np.ndarray
    limit: np.ndarray | np.uint64

    @property
    def selected(self) -> np.ndarray:
        """``bool [U]``: the selected units."""
        return self.draw < self.limit


def select(packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float, maskable: np.ndarray) -> Selection:
    """Select the units of packed sequences so that the expected share of ``bool [T]`` maskable tokens is the rate."""
    units = units_of(packed, plan, key)
    draw = random_bits(packed, key.stream("select"))[units.first]
    if units.weight is None and plan.settings.count == "bernoulli":
        return Selection(units.first, draw, threshold(rate))
    sequence = sequence_of(packed, units.first)
    sizes = np.add.reduceat(maskable, units.first, dtype=np.int64)
    chance = _chances(units, sizes, sequence, len(packed.keys), rate)
    if plan.settings.count == "bernoulli":
        return Selection(units.first, draw, _thresholds(chance))
    offset = sequence_random_bits(packed, key.stream("count"))
    return Selection(units.first, *_systematic(draw, chance, sizes, sequence, offset))


def _chances(
    units: MaskUnits, sizes: np.ndarray, sequence: np.ndarray, sequences: int, rate: float
) -> np.ndarray:
    """Return ``float64 [U]``: the chance of each unit, 0 if none of its tokens is maskable."""
    if units.weight is None:
        return np.where(sizes > 0, rate, 0.0)
    wanted = rate * np.bincount(sequence, sizes, sequences)
    sure = sizes == 0
    while True:
        # Chances above 1 become 1, and the other units share the rest.
        left = wanted - np.bincount(sequence, sizes * sure, sequences)
        mass = np.bincount(sequence, sizes * units.weight * ~sure, sequences)
        factor = np.divide(left, mass, out=np.zeros(sequences), where=mass > 0)
        over = ~sure & (units.weight * factor[sequence] >= 1.0 - _ROUNDING)
        if not over.any():
            return np.where(sizes > 0, np.where(sure, 1.0, units.weight * factor[sequence]), 0.0)
        sure |= over


def _systematic(
    draw: np.ndarray, chance: np.ndarray, sizes: np.ndarray, sequence: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return draws and limits of a systematic sample, ``uint64 [U]`` each."""
    width = np.round(chance * _ONE).astype(np.uint64)
    order = np.lexsort((draw, sequence * (sizes.max(initial=0) + 1) + sizes))
    ends = np.cumsum(width[order])
    before = ends - width[order]
    counts = np.bincount(sequence, minlength=len(offset))
    occupied = counts > 0
    begins = np.repeat(before[(np.cumsum(counts) - counts)[occupied]], counts[occupied])
    # A unit is selected if a whole number lies within its width.
    place = (before - begins + (offset >> _SHIFT)[sequence[order]]) & np.uint64(_ONE - 1)
    decided = np.empty_like(draw)
    decided[order] = (np.uint64(_ONE - 1) - place) << _SHIFT
    return decided, np.where(width >= _ONE, ~np.uint64(0), width << _SHIFT)


def _thresholds(chance: np.ndarray) -> np.ndarray:
    """Return ``uint64 [U]`` thresholds of ``float64 [U]`` chances."""
    whole = np.minimum(chance, 1.0 - 2.0**-53) * 2.0**64
    return np.where(chance >= 1.0, ~np.uint64(0), whole.astype(np.uint64))
