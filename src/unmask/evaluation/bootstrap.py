"""Figures with intervals: sums over documents, resampled documents, calibration. Arrays in, numbers out.

Every figure is a ratio of two sums over documents, for example the summed loss over the number of masked tokens.
Its 95% interval is the percentile interval of the bootstrap over documents (Efron & Tibshirani 1993): tokens of one
document are not independent, documents are. The resamples are a function of the seed and of how many units there
are, so two models on the same documents are resampled alike, and the interval of their difference is a paired one.

Shapes: D documents, U resampling units, B resamples, K figures, M targets, R bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.data.masking.random_bits import mix

Floats = NDArray[np.float64]

RESAMPLES = 1_000
SEED = 0
LEVEL = 0.95
FEWEST_UNITS = 5
"""With fewer documents a percentile interval says nothing, and none is given."""
MOST_UNITS = 5_000
"""More documents than this are resampled in as many groups, drawn by their hash: the same variance, bounded work."""
BINS = 15
"""Bins of the calibration error, as in Guo et al. (2017), "On Calibration of Modern Neural Networks"."""

_BLOCK = 1 << 21
_MOST_EMPTY = 0.05


class Figure(NamedTuple):
    """A figure and its 95% interval; the ends are NaN where there are too few documents for one."""

    value: float
    low: float
    high: float

    def map(self, function: Callable[[float], float]) -> Figure:
        """Apply an increasing function to value and ends."""
        return Figure(*(float(function(part)) for part in self))

    @property
    def interval(self) -> list[float] | None:
        """The two ends, or ``None``."""
        return None if math.isnan(self.low) else [self.low, self.high]

    def to_dict(self) -> dict[str, float | list[float] | None]:
        return {"value": self.value, "interval": self.interval}


def resampling_units(keys: NDArray[np.uint64], most: int = MOST_UNITS) -> NDArray[np.int64]:
    """Return ``int64 [D]``: the unit that each document is resampled with.

    Args:
        keys: ``uint64 [D]`` hashes of the documents.
        most: with more documents than this, units are groups of documents, drawn by their hash.
    """
    if len(keys) <= most:
        return np.arange(len(keys))
    # The hash decides the order of evaluation too, so that its plain remainder would not be independent of it.
    return (mix(keys + np.uint64(1)) % np.uint64(most)).astype(np.int64)


def ratios(
    numerators: Floats, denominators: Floats, *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Figure]:
    """Return each figure as the ratio of two sums over units, with its interval.

    Args:
        numerators: ``[U, K]`` sums of each unit.
        denominators: ``[U, K]``, not negative; ``[U, 1]`` stands for all K. MaskUnits that have nothing in any of them
            are not resampled.
        resamples: how often the units are drawn, with replacement.
        seed: of the random_bits.

    Returns:
        K figures; NaN where a whole denominator is 0, and no interval where fewer than ``FEWEST_UNITS`` units count
        or resamples often miss them all.
    """
    counted = denominators.any(axis=1)
    numerators, denominators = (
        numerators[counted],
        np.broadcast_to(denominators[counted], numerators[counted].shape),
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        values = numerators.sum(axis=0) / denominators.sum(axis=0)
        drawn = np.concatenate(
            [
                counts @ numerators / (counts @ denominators)
                for counts in _counts(len(numerators), resamples, seed)
            ]
        )
    enough = (denominators > 0).sum(axis=0) >= FEWEST_UNITS
    enough &= np.isnan(drawn).mean(axis=0) <= _MOST_EMPTY
    tail = 100 * (1 - LEVEL) / 2
    figures = []
    for value, column, known in zip(values, drawn.T, enough, strict=True):
        low, high = np.nanpercentile(column, [tail, 100 - tail]) if known else (math.nan, math.nan)
        figures.append(Figure(float(value), float(low), float(high)))
    return figures


def _counts(units: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks ``[b, U]`` of how often each unit was drawn, B rows in all."""
    draw = np.random.default_rng(seed)
    rows = max(1, _BLOCK // max(units, 1))
    for begin in range(0, resamples, rows):
        size = min(rows, resamples - begin)
        chosen = draw.integers(units, size=(size, units)) if units else np.zeros((size, 0), dtype=np.int64)
        chosen += units * np.arange(size)[:, None]
        yield np.bincount(chosen.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


@dataclass(frozen=True)
class Calibration:
    """How probabilities agree with what comes true.

    Attributes:
        error: the expected calibration error: the mean distance of a bin's accuracy from its mean confidence,
            weighted by the targets in it.
        low: ``[R]`` where bins begin. high: ``[R]`` where they end.
        targets: ``[R]`` targets whose most probable token has a probability in the bin.
        confidence: ``[R]`` mean of these probabilities, NaN in an empty bin.
        accuracy: ``[R]`` how many of these tokens were right, NaN in an empty bin.
    """

    error: float
    low: Floats
    high: Floats
    targets: Floats
    confidence: Floats
    accuracy: Floats


def reliability_bins(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS
) -> Floats:
    """Sort M targets into bins of equal width.

    Args:
        confidence: ``[M]`` probability of the most probable token.
        correct: ``[M]`` whether that token is the one that stood there.
        bins: R.

    Returns:
        ``[R, 3]``: targets, summed confidence, right ones; such arrays add up over batches.
    """
    place = np.minimum((np.asarray(confidence, dtype=np.float64) * bins).astype(np.int64), bins - 1)
    columns = (None, confidence, correct.astype(np.float64))
    return np.stack([np.bincount(place, weights, minlength=bins) for weights in columns], axis=1).astype(
        np.float64
    )


def calibration(bins: Floats) -> Calibration:
    """Return what ``[R, 3]`` :func:`reliability_bins` say."""
    count, confidence, correct = bins.T
    edges = np.linspace(0, 1, len(bins) + 1)
    error = float(np.abs(correct - confidence).sum() / max(count.sum(), 1))
    with np.errstate(invalid="ignore"):
        return Calibration(error, edges[:-1], edges[1:], count, confidence / count, correct / count)
