"""Metrics of masked-token predictions, from sums over targets: loss, perplexity, accuracy at k, reciprocal rank.

Shapes: M targets, U resampling units, G groups of targets, C columns of sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unmask.evaluation.bootstrap import Estimate, Floats, ratios
from unmask.evaluation.predictions import TargetPredictions

COLUMNS = ("masked_tokens", "loss", "accuracy", "accuracy_at_5", "accuracy_at_10", "mean_reciprocal_rank")
"""What is summed over targets: their number, and what is divided by it."""

_TOP = (1, 5, 10)


def target_columns(predictions: TargetPredictions) -> Floats:
    """Return ``[M, 6]``: what each target adds to :data:`COLUMNS`."""
    hits = [predictions.rank <= top for top in _TOP]
    return np.stack([np.ones(len(predictions.loss)), predictions.loss, *hits, 1 / predictions.rank], axis=1)


def perplexity(loss: float) -> float:
    """Return e to the power of a loss in nats; infinite where that overflows."""
    return math.exp(loss) if loss < 700 else loss if math.isnan(loss) else math.inf


def metrics_of(sums: Floats, names: Sequence[str] = COLUMNS[1:]) -> dict[str, Estimate]:
    """Return the metrics of ``[U, C]`` sums, the first column of which counts targets.

    Args:
        sums: of each resampling unit.
        names: of the other columns; those without a column are left out.
    """
    return dict(zip(names, ratios(sums[:, 1:], sums[:, :1]), strict=False))


def with_perplexity(metrics: dict[str, Estimate]) -> dict[str, Estimate]:
    """Return metrics with the perplexity after the loss."""
    return {"loss": metrics["loss"], "perplexity": metrics["loss"].map(perplexity), **metrics}


def group_metrics(
    labels: Sequence[str], groups: Floats
) -> Iterator[tuple[dict[str, Any], dict[str, Estimate]]]:
    """Yield label and number of targets, and metrics, of each group that has a target.

    Args:
        labels: of the G groups.
        groups: ``[U, G, C]`` sums.
    """
    units, _, columns = groups.shape
    estimates = iter(
        ratios(
            groups[:, :, 1:].reshape(units, -1),
            np.repeat(groups[:, :, :1], columns - 1, axis=2).reshape(units, -1),
        )
    )
    for label, count in zip(labels, groups[:, :, 0].sum(axis=0), strict=True):
        metrics = dict(zip(COLUMNS[1:columns], estimates, strict=False))
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
