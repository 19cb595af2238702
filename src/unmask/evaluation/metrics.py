"""Metrics of masked-token predictions, from sums over targets: loss, perplexity, accuracy at k, reciprocal rank.

Shapes: M targets, U resampling units, G groups of targets, C columns of sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from unmask.evaluation.bootstrap import LEVEL, Estimate, Floats, ratios
from unmask.evaluation.predictions import TargetPredictions

COLUMNS = ("masked_tokens", "loss", "accuracy", "accuracy_at_5", "accuracy_at_10", "mean_reciprocal_rank")
"""What is summed over targets: their number, and what is divided by it."""

SHARES = {"accuracy", "accuracy_at_5", "accuracy_at_10", "mean_reciprocal_rank"}
"""Metrics that are between 0 and 1."""

_TOP = (1, 5, 10)


def target_columns(predictions: TargetPredictions) -> Floats:
    """Return ``[M, 6]``: what each target adds to :data:`COLUMNS`."""
    hits = [predictions.rank <= top for top in _TOP]
    return np.stack([np.ones(len(predictions.loss)), predictions.loss, *hits, 1 / predictions.rank], axis=1)


def perplexity(loss: float) -> float:
    """Return e to the power of a loss in nats; infinite where that overflows."""
    return math.exp(loss) if loss < 700 else loss if math.isnan(loss) else math.inf


def metrics_of(
    sums: Floats, names: Sequence[str] = COLUMNS[1:], *, difference: bool = False, level: float = LEVEL
) -> dict[str, Estimate]:
    """Return the metrics of ``[U, C]`` sums, the first column of which counts targets.

    Args:
        sums: of each resampling unit.
        names: of the other columns; those without a column are left out.
        difference: the sums are those of a difference, which may be negative.
        level: coverage of the intervals.
    """
    return _named(names, ratios(sums[:, 1:], sums[:, :1], level=level), difference)


def _named(names: Sequence[str], found: Iterable[Estimate], difference: bool) -> dict[str, Estimate]:
    """Return metrics by name, their intervals clipped to the values that each can have."""
    return {
        name: metric if difference else metric.within(0.0, 1.0 if name in SHARES else math.inf)
        for name, metric in zip(names, found, strict=False)
    }


def with_perplexity(metrics: dict[str, Estimate]) -> dict[str, Estimate]:
    """Return metrics with the perplexity after the loss."""
    return {"loss": metrics["loss"], "perplexity": metrics["loss"].map(perplexity), **metrics}


def group_metrics(
    labels: Sequence[str], groups: Floats, *, difference: bool = False
) -> Iterator[tuple[dict[str, Any], dict[str, Estimate]]]:
    """Yield label and number of targets, and metrics, of each group that has a target.

    Args:
        labels: of the G groups.
        groups: ``[U, G, C]`` sums.
        difference: as for :func:`metrics_of`.
    """
    units, _, columns = groups.shape
    estimates = iter(
        ratios(
            groups[:, :, 1:].reshape(units, -1),
            np.repeat(groups[:, :, :1], columns - 1, axis=2).reshape(units, -1),
        )
    )
    for label, count in zip(labels, groups[:, :, 0].sum(axis=0), strict=True):
        metrics = _named(COLUMNS[1:columns], islice(estimates, columns - 1), difference)
        if count:
            yield {"label": label, "masked_tokens": int(count)}, metrics


def paired_sums(first: Floats, second: Floats) -> Floats:
    """Return the sums of a paired difference, second minus first: their metrics are differences with paired intervals.

    Args:
        first, second: ``[..., C]`` sums of two models over the same targets, the first column of which counts them.
    """
    difference = second - first
    difference[..., 0] = first[..., 0]
    return difference
