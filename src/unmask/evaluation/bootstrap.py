"""Bootstrap confidence intervals over documents, and calibration (ECE, reliability bins).

Every metric is a ratio of two sums over documents, for example the summed loss over the number of masked tokens.
Tokens of one document are not independent, documents are, and copies of a text are one unit. The 95% interval is that of
the bootstrap-t over these units (Efron & Tibshirani 1993, chapter 12) with the standard error of the jackknife, and at
least as wide as the t interval whose degrees of freedom follow from how unequal the documents are in length. Percentiles
of the bootstrap would be too narrow for few documents: ``tests/evaluation/test_intervals.py`` simulates it.

The resamples depend only on the seed and the number of units, so two models on the same documents share them, and the
interval of their difference is paired.

Shapes: D documents, U resampling units, B resamples, K metrics, M targets, R bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.data.heldout_size import FEWEST_UNITS
from unmask.data.masking.random_bits import mix
from unmask.errors import plural
from unmask.reporting.format import no_interval

Floats = NDArray[np.float64]

RESAMPLES = 1_000
SEED = 0
LEVEL = 0.95
FEW_UNITS = 20
"""With fewer units it is said that the intervals are wide."""
MOST_UNITS = 5_000
"""More documents than this are resampled in as many groups, by their hash: same variance, bounded work."""
BINS = 15
"""Bins of the calibration error, as in Guo et al. (2017), "On Calibration of Modern Neural Networks"."""

INTERVAL = (
    f"{LEVEL:.0%}, bootstrap-t over documents ({RESAMPLES:,} resamples, seed {SEED}), at least as wide as the t interval; "
    "copies of a text count as one document"
)

_BLOCK = 1 << 21
_ROUNDING = 1e-12
"""Units whose ratios differ by less than this, relative to the largest, do not differ."""
_MOST_EMPTY = 0.05
"""Share of resamples in which a denominator may be 0; with more, no interval is given."""


class Estimate(NamedTuple):
    """A metric with its interval; the ends are NaN where the documents are too few, or too alike, for one."""

    value: float
    low: float
    high: float

    def map(self, function: Callable[[float], float]) -> Estimate:
        """Apply an increasing function to value and ends."""
        return Estimate(*(float(function(part)) for part in self))

    def within(self, least: float, most: float) -> Estimate:
        """Clip the interval to the values that the metric can have.

        One without width becomes none: documents that are all alike do not say how far others may differ.
        """
        if self.low == self.high:
            return self._replace(low=math.nan, high=math.nan)
        return self._replace(low=max(self.low, least), high=min(self.high, most))

    @property
    def interval(self) -> list[float] | None:
        """The two ends, or ``None``."""
        return None if math.isnan(self.low) else [self.low, self.high]

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes zero, otherwise 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def to_dict(self) -> dict[str, float | list[float] | None]:
        """Return value and interval; an interval with an infinite end is ``None``."""
        finite = math.isfinite(self.low) and math.isfinite(self.high)
        return {"value": self.value, "interval": [self.low, self.high] if finite else None}


def flat(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    """Return values by name, and their intervals under ``intervals``, ready for JSON."""
    values: dict[str, Any] = {name: metric.value for name, metric in metrics.items()}
    return values | {"intervals": {name: metric.interval for name, metric in metrics.items()}}


def resampling_units(keys: NDArray[np.uint64], most: int = MOST_UNITS) -> NDArray[np.int64]:
    """Return ``int64 [D]``: the unit that each document is resampled with; copies of a text share one.

    Args:
        keys: ``uint64 [D]`` hashes of the documents.
        most: with more texts than this, units are groups of documents, drawn by their hash.
    """
    distinct, unit = np.unique(keys, return_inverse=True)
    if len(distinct) <= most:
        return unit.astype(np.int64)
    # The hash decides the order of evaluation too, so that its plain remainder would not be independent of it.
    return (mix(keys + np.uint64(1)) % np.uint64(most)).astype(np.int64)


def interval_notes(documents: int, texts: int, what: str = "document") -> Iterator[str]:
    """Yield what limits intervals: documents that are copies, and too few of them.

    Args:
        documents: number of documents with a target.
        texts: the same, copies of a text counted once.
        what: name of a document.
    """
    if texts < documents:
        yield (
            f"{documents - texts:,} of {plural(documents, what)} are copies of others; copies count as one {what} in the "
            f"intervals"
        )
    if texts < FEWEST_UNITS:
        yield f"{no_interval(texts, what + 's')}, which needs {FEWEST_UNITS} with a masked token"
    elif texts < FEW_UNITS:
        yield f"intervals are wide: they rest on {plural(texts, what)}"


def ratios(
    numerators: Floats,
    denominators: Floats,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Estimate]:
    """Return ratios of two sums over units, each with its interval.

    Args:
        numerators: ``[U, K]`` sums of each unit.
        denominators: ``[U, K]``, not negative; ``[U, 1]`` stands for all K. Units whose denominators are all 0 are
            not resampled.
        level: coverage of the intervals.
        resamples: how often the units are drawn, with replacement.
        seed: of the resampling.

    Returns:
        K estimates; NaN where a whole denominator is 0, and no interval where fewer than ``FEWEST_UNITS`` units count
        or over 5% of the resamples have none of them.
    """
    counted = denominators.any(axis=1)
    numerators, denominators = numerators[counted], denominators[counted]
    with np.errstate(invalid="ignore", divide="ignore"):
        total = denominators.sum(axis=0)
        values = numerators.sum(axis=0) / total
        residuals = numerators - values * denominators
        residuals[np.abs(residuals) <= _ROUNDING * np.abs(numerators).max(axis=0, initial=0.0)] = 0.0
        error = _jackknife_error(residuals, denominators)
        scores = _resampled_scores(residuals, denominators, resamples, seed)
        effective = np.broadcast_to(total**2 / (denominators**2).sum(axis=0), values.shape)
    units = np.broadcast_to((denominators > 0).sum(axis=0), values.shape)
    known = (units >= FEWEST_UNITS) & (np.isnan(scores).mean(axis=0) <= _MOST_EMPTY)
    reach = [
        _reach(scores[:, k], int(units[k]), float(effective[k]), level) if known[k] else (math.nan, math.nan)
        for k in range(len(values))
    ]
    return [
        Estimate(float(value), float(value - size * below), float(value + size * above))
        for value, size, (below, above) in zip(values, error, reach, strict=True)
    ]


def _jackknife_error(residuals: Floats, denominators: Floats) -> Floats:
    """Return ``[K]`` standard errors of ratios: each unit is left out in its turn."""
    units = (denominators > 0).sum(axis=0)
    change = residuals / (denominators.sum(axis=0) - denominators)
    return np.asarray(np.sqrt((units - 1) / units * (change**2).sum(axis=0)))


def _resampled_scores(residuals: Floats, denominators: Floats, resamples: int, seed: int) -> Floats:
    """Return ``[B, K]``: how far each resampled ratio is from the true one, in its own standard errors.

    NaN where nothing of the denominator was drawn.
    """
    products = (residuals, denominators, residuals**2, residuals * denominators, denominators**2)
    units = (denominators > 0).sum(axis=0)
    parts = []
    for counts in resample_counts(len(residuals), resamples, seed):
        sums, total, squares, mixed, weights = (counts @ product for product in products)
        change = sums / total
        spread = squares - 2 * change * mixed + change**2 * weights
        spread[spread <= _ROUNDING * (squares + change**2 * weights)] = (
            0.0  # what is left where units do not differ
        )
        variance = spread * units / (units - 1)
        scores = change / (np.sqrt(variance) / total)
        parts.append(np.where(change == 0, 0.0, scores))
    return np.concatenate(parts)


def _reach(scores: Floats, units: int, effective: float, level: float) -> tuple[float, float]:
    """Return how many standard errors an interval reaches below and above its value.

    Args:
        scores: ``[B]`` of :func:`_resampled_scores`. Infinite ones come from resamples of units that do not differ.
        units: number of units.
        effective: number of units of equal size with the same variance.
        level: coverage of the interval.
    """
    tail = (1 - level) / 2
    share = tail * (1 - 2 / units)  # the scores of few units have shorter tails
    with np.errstate(invalid="ignore"):
        ends = np.nanquantile(scores, [1 - share, share]) * [1, -1]
    least = t_quantile(1 - tail, max(effective - 1, 1.0))
    below, above = np.maximum(np.where(np.isfinite(ends), ends, 0.0), least).tolist()
    return below, above


def t_quantile(share: float, freedom: float) -> float:
    """Return a quantile above the median of Student's t, whose ``freedom`` of at least 1 need not be whole."""
    # t = √freedom · tan(angle), where the angle has the density cos^(freedom - 1).
    angle = np.linspace(0, math.pi / 2, 4_097)
    below = np.cumsum(np.cos(angle[1:] - angle[1] / 2) ** (freedom - 1))
    place = np.interp((2 * share - 1) * below[-1], below, angle[1:])
    return float(math.sqrt(freedom) * math.tan(place))


def resample_counts(units: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[Floats]:
    """Yield blocks ``[b, U]`` of how often each unit was drawn, B rows in all."""
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // max(units, 1))
    for begin in range(0, resamples, rows):
        size = min(rows, resamples - begin)
        chosen = rng.integers(units, size=(size, units)) if units else np.zeros((size, 0), dtype=np.int64)
        chosen += units * np.arange(size)[:, None]
        yield np.bincount(chosen.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


@dataclass(frozen=True)
class Calibration:
    """Reliability of the predicted probabilities.

    Attributes:
        error: expected calibration error: the mean distance of a bin's accuracy from its mean confidence, weighted by
            the targets in it.
        low: ``[R]`` where bins begin. high: ``[R]`` where they end.
        targets: ``[R]`` targets whose most probable token has a probability in the bin.
        confidence: ``[R]`` mean of these probabilities, NaN in an empty bin.
        accuracy: ``[R]`` share of these tokens that were right, NaN in an empty bin.
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
        correct: ``[M]`` whether that token is the true one.
        bins: R.

    Returns:
        ``[R, 3]``: targets, summed confidence, correct ones; such arrays add up over batches.
    """
    place = np.minimum((np.asarray(confidence, dtype=np.float64) * bins).astype(np.int64), bins - 1)
    columns = (None, confidence, correct.astype(np.float64))
    return np.stack([np.bincount(place, weights, minlength=bins) for weights in columns], axis=1).astype(
        np.float64
    )


def calibration(bins: Floats) -> Calibration:
    """Return the calibration of ``[R, 3]`` :func:`reliability_bins`."""
    count, confidence, correct = bins.T
    edges = np.linspace(0, 1, len(bins) + 1)
    error = float(np.abs(correct - confidence).sum() / max(count.sum(), 1))
    with np.errstate(invalid="ignore"):
        return Calibration(error, edges[:-1], edges[1:], count, confidence / count, correct / count)
