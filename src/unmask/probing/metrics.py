"""Accuracy and F1 of predictions, and their bootstrap intervals.

Metrics are those of scikit-learn and, for entities, of seqeval. Intervals resample test examples and seeds: the metric
is computed anew from counts per example, ``[E, K, 3]`` true positives, predicted and true ones of each of K classes or
types.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from unmask.errors import MissingExtra
from unmask.evaluation.bootstrap import FEWEST_UNITS, Floats, percentile_interval, resample_counts
from unmask.probing.tasks import Kind

Labels = list[list[str]]
"""A label for each unit of each example."""

MAIN = {"classification": "macro_f1", "entities": "f1", "tags": "macro_f1"}
"""The metric of verdicts and intervals."""


def check_packages(kind: Kind) -> None:
    """Check that the packages that compute the metrics are installed, before anything takes long.

    Raises:
        MissingExtra: scikit-learn or seqeval is not installed.
    """
    if find_spec("sklearn") is None:
        raise MissingExtra("scikit-learn", "probe", "unmask probe")
    if kind == "entities" and find_spec("seqeval") is None:
        raise MissingExtra("seqeval", "probe", "unmask probe on CoNLL files")


def label_metrics(kind: Kind, gold: Labels, predicted: Labels) -> dict[str, float]:
    """Return the metrics of one set of predictions, 0 to 1.

    Of texts and tags: ``accuracy``, ``macro_f1`` (the mean over classes that occur in either) and ``micro_f1``, which
    is the accuracy again where every unit has one label. Of entities, counted whole and with their type as seqeval
    does by default (an ``I-`` that follows no ``B-`` begins an entity): ``f1``, ``precision``, ``recall``,
    ``macro_f1`` over types, and ``accuracy`` of tokens.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that is never predicted, whose F1 is 0
        return _entity_metrics(gold, predicted) if kind == "entities" else _unit_metrics(gold, predicted)


def _unit_metrics(gold: Labels, predicted: Labels) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    true, guess = ([label for labels in side for label in labels] for side in (gold, predicted))
    found = {"accuracy": float(accuracy_score(true, guess))}
    for average in ("macro", "micro"):
        found[f"{average}_f1"] = float(f1_score(true, guess, average=average, zero_division=0))
    return found


def _entity_metrics(gold: Labels, predicted: Labels) -> dict[str, float]:
    from seqeval.metrics import sequence_labeling as seqeval

    if not any(tag != "O" for side in (gold, predicted) for tags in side for tag in tags):
        nothing = dict.fromkeys(("f1", "precision", "recall", "macro_f1"), 0.0)
        return nothing | {"accuracy": float(seqeval.accuracy_score(gold, predicted))}
    precision, recall, f1, _ = seqeval.precision_recall_fscore_support(
        gold, predicted, average="micro", zero_division=0
    )
    macro = seqeval.precision_recall_fscore_support(gold, predicted, average="macro", zero_division=0)[2]
    found = {"f1": f1, "precision": precision, "recall": recall, "macro_f1": macro}
    return {name: float(value) for name, value in found.items()} | {
        "accuracy": float(seqeval.accuracy_score(gold, predicted))
    }


def counts_of(kind: Kind, gold: Labels, predicted: Labels, classes: Sequence[str]) -> Floats:
    """Return ``[E, K, 3]``: true positives, predicted and true ones of each example and class (or type)."""
    number = {name: place for place, name in enumerate(classes)}
    found = np.zeros((len(gold), len(classes), 3))
    for row, (true, guess) in enumerate(zip(gold, predicted, strict=True)):
        for column, counts in enumerate(_count(kind, true, guess)):
            for name, times in counts.items():
                found[row, number[name], column] += times
    return found


def _count(kind: Kind, true: list[str], guess: list[str]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Count true positives, predicted and true units (or entities), by class or type."""
    if kind != "entities":
        both = Counter(a for a, b in zip(true, guess, strict=True) if a == b)
        return both, Counter(guess), Counter(true)
    from seqeval.metrics.sequence_labeling import get_entities

    true_entities, guessed = ({*get_entities(tags)} for tags in (true, guess))
    return tuple(
        Counter(name for name, *_ in side) for side in (true_entities & guessed, guessed, true_entities)
    )  # type: ignore[return-value]


def classes_of(kind: Kind, labels: Sequence[str]) -> list[str]:
    """Return the labels, or the types of entities."""
    if kind != "entities":
        return sorted(labels)
    return sorted({label[2:] for label in labels if label != "O"})


def main_metric(kind: Kind, sums: Floats) -> Floats:
    """Return the main metric of ``[..., K, 3]`` summed counts."""
    if kind == "entities":
        right, predicted, true = np.moveaxis(sums.sum(axis=-2), -1, 0)
        return np.asarray(2 * right / np.maximum(predicted + true, 1))
    right, predicted, true = np.moveaxis(sums, -1, 0)
    total = predicted + true
    f1 = 2 * right / np.maximum(total, 1)
    return np.asarray(f1.sum(axis=-1) / np.maximum((total > 0).sum(axis=-1), 1))


def resampled(kind: Kind, counts: Sequence[Floats]) -> Floats:
    """Return ``[R, S]``: the main metric of each of S seeds on R resamples of the test examples.

    The resamples depend only on the number of examples, so two models share them.
    """
    stacked = np.concatenate([part.reshape(len(part), -1) for part in counts], axis=1)
    shape = (len(counts), *counts[0].shape[1:])
    return np.concatenate(
        [
            main_metric(kind, (drawn @ stacked).reshape(len(drawn), *shape))
            for drawn in resample_counts(len(stacked))
        ]
    )


def interval(values: Floats, examples: int) -> list[float] | None:
    """Return the 95% interval of the mean over seeds of ``[R, S]`` metrics, resampling the seeds as well.

    ``None`` where there are too few test examples for one. With few seeds it is narrow: S seeds drawn from S with
    replacement vary by (S - 1) / S of what new seeds would.
    """
    if examples < FEWEST_UNITS:
        return None
    _, seeds = values.shape
    chosen = np.random.default_rng(1).integers(seeds, size=values.shape)
    means = np.take_along_axis(values, chosen, axis=1).mean(axis=1)
    return list(percentile_interval(means))
