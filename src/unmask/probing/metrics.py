"""Metrics of predictions, and the intervals of the main metric.

Metrics are those of scikit-learn and, for entities, of seqeval. Intervals hold for other test examples and other seeds;
they are computed from counts per test example, ``[E, K, 3]`` true positives, predicted and true ones of each of K classes
or types, or, for correlations, from the numbers themselves.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from unmask.data.heldout_size import FEWEST_UNITS
from unmask.errors import MissingExtra
from unmask.evaluation.bootstrap import LEVEL, Floats, t_quantile
from unmask.probing.examples import Kind

Labels = list[list[str]]
"""A label for each unit of each example."""

CHOICES: dict[str, tuple[str, ...]] = {
    "classification": ("macro_f1", "accuracy", "matthews", "f1"),
    "multilabel": ("macro_f1", "micro_f1"),
    "regression": ("pearson", "spearman"),
    "entities": ("f1",),
    "tags": ("macro_f1", "accuracy"),
}
"""The metrics that verdicts and intervals can be of, by the kind of the task; the first by default."""
MAIN = {kind: names[0] for kind, names in CHOICES.items()}
"""The metric of verdicts and intervals."""
BINARY = ["0", "1"]
"""Two classes of which the second is the one to find; ``f1`` is that of it."""
CORRELATIONS = ("matthews", "pearson", "spearman")
"""Metrics from -1 to 1."""
PARTS = 1_000
"""Most parts of the test examples that are left out in turn, for the interval of a correlation of numbers."""


def check_packages(kind: Kind) -> None:
    """Check that the packages that compute the metrics are installed, before anything takes long.

    Raises:
        MissingExtra: scikit-learn or seqeval is not installed.
    """
    if find_spec("sklearn") is None:
        raise MissingExtra("scikit-learn", "probe", "unmask probe")
    if kind == "entities" and find_spec("seqeval") is None:
        raise MissingExtra("seqeval", "probe", "unmask probe on CoNLL files")


def label_metrics(
    kind: Kind, gold: Labels, predicted: Labels, left_out: Collection[str] = ()
) -> dict[str, float]:
    """Return the metrics of one set of predictions, 0 to 1, correlations -1 to 1.

    Of texts and tags: ``accuracy``, ``macro_f1`` (the mean over classes that occur in either), ``micro_f1``, which
    is the accuracy again where every unit has one label, and ``matthews``, the correlation of Matthews (1975); of classes 0
    and 1 also ``f1`` of class 1. Of texts with several labels: ``macro_f1``, ``micro_f1``, and ``accuracy`` of the whole set. Of
    numbers: ``pearson`` and ``spearman``, 0 where all predictions are equal. Of entities, counted whole and with their type as seqeval
    does by default (an ``I-`` that follows no ``B-`` begins an entity): ``f1``, ``precision``, ``recall``,
    ``macro_f1`` over types, and ``accuracy`` of tokens. Classes ``left_out`` do not enter the macro F1 of texts and tags.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that is never predicted, whose F1 is 0
        if kind == "entities":
            return _entity_metrics(gold, predicted)
        if kind == "regression":
            true, guess = _numbers(gold), _numbers(predicted)
            return {name: correlation(name, true, guess) for name in CHOICES[kind]}
        if kind == "multilabel":
            return _set_metrics(gold, predicted)
        return _unit_metrics(gold, predicted, left_out)


def _unit_metrics(gold: Labels, predicted: Labels, left_out: Collection[str]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    true, guess = ([label for labels in side for label in labels] for side in (gold, predicted))
    classes = sorted({*true, *guess} - {*left_out})
    found = {
        "accuracy": float(accuracy_score(true, guess)),
        "macro_f1": float(f1_score(true, guess, labels=classes, average="macro", zero_division=0)),
        "micro_f1": float(f1_score(true, guess, average="micro", zero_division=0)),
        "matthews": float(matthews_corrcoef(true, guess)),
    }
    if {*true, *guess} <= {*BINARY}:
        found["f1"] = float(f1_score(true, guess, pos_label=BINARY[1], zero_division=0))
    return found


def _set_metrics(gold: Labels, predicted: Labels) -> dict[str, float]:
    """Return the metrics of sets of labels, from their counts."""
    classes = sorted({label for side in (gold, predicted) for labels in side for label in labels})
    sums = counts_of("multilabel", gold, predicted, classes).sum(axis=0)
    found = {name: float(main_metric("multilabel", name, sums)) for name in CHOICES["multilabel"]}
    same = [sorted(true) == sorted(guess) for true, guess in zip(gold, predicted, strict=True)]
    return found | {"accuracy": float(np.mean(same))}


def _numbers(labels: Labels) -> Floats:
    return np.array([float(label) for (label,) in labels])


def correlation(metric: str, true: Floats, predicted: Floats) -> float:
    """Return Pearson's correlation, or Spearman's, that of the ranks; 0 where either side is constant."""
    if metric == "spearman":
        from scipy.stats import rankdata

        true, predicted = rankdata(true), rankdata(predicted)
    x, y = true - true.mean(), predicted - predicted.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else 0.0


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
    if kind == "multilabel":
        return Counter({*true} & {*guess}), Counter(guess), Counter(true)
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


def single_classes(kind: Kind, gold: Labels) -> list[str]:
    """Return the classes with one test example, where two others have more: their F1 has no known variance."""
    if kind != "classification":
        return []
    counts = Counter(label for (label,) in gold)
    single = sorted(label for label, count in counts.items() if count == 1)
    return single if len(counts) - len(single) >= 2 else []


def main_metric(kind: Kind, metric: str, sums: Floats) -> Floats:
    """Return one of the :data:`CHOICES` of ``[..., K, 3]`` summed counts; ``f1`` of a classification is that of class 1."""
    right, predicted, true = np.moveaxis(sums, -1, 0)
    if metric == "micro_f1" or kind == "entities":
        return np.asarray(2 * right.sum(axis=-1) / np.maximum((predicted + true).sum(axis=-1), 1))
    if metric == "accuracy":
        return np.asarray(right.sum(axis=-1) / np.maximum(true.sum(axis=-1), 1))
    if metric == "matthews":
        return _matthews(right, predicted, true)
    f1 = 2 * right / np.maximum(predicted + true, 1)
    if metric == "f1":
        return np.asarray(f1[..., 1])
    return np.asarray(f1.sum(axis=-1) / np.maximum((predicted + true > 0).sum(axis=-1), 1))


def _matthews(right: Floats, predicted: Floats, true: Floats) -> Floats:
    """Return the correlation of Matthews for K classes (Gorodkin 2004); 0 where either side has one class."""
    total = true.sum(axis=-1)
    covariance = right.sum(axis=-1) * total - (predicted * true).sum(axis=-1)
    spread = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (true**2).sum(axis=-1))
    return np.asarray(np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0))


@dataclass(frozen=True)
class SeedScores:
    """The main metric of one model, or its difference between two, for S seeds.

    Attributes:
        values: ``[S]``, on all test examples.
        without: ``[E]``, the mean over seeds when a test example is left out.
    """

    values: Floats
    without: Floats

    @staticmethod
    def of(kind: Kind, metric: str, counts: Sequence[Floats]) -> SeedScores:
        """Compute them from the ``[E, K, 3]`` counts of each seed."""
        totals = [part.sum(axis=0) for part in counts]
        without = [
            main_metric(kind, metric, total - part) for total, part in zip(totals, counts, strict=True)
        ]
        return SeedScores(main_metric(kind, metric, np.stack(totals)), np.mean(without, axis=0))

    @staticmethod
    def of_numbers(
        metric: str, gold: Labels, predicted: Sequence[Labels], unit: NDArray[np.int64]
    ) -> SeedScores:
        """Compute a correlation and its values without each of the test examples, or of up to 1,000 parts of them.

        Args:
            metric: ``pearson`` or ``spearman``.
            gold: true numbers.
            predicted: those of each seed.
            unit: ``int64 [E]``, what is left out together.
        """
        true, part = _numbers(gold), unit % PARTS
        kept = [part != number for number in range(part.max() + 1)]
        guesses = [_numbers(guess) for guess in predicted]
        values = [correlation(metric, true, guess) for guess in guesses]
        without = [[correlation(metric, true[rows], guess[rows]) for rows in kept] for guess in guesses]
        return SeedScores(np.array(values), np.mean(without, axis=0))

    def __sub__(self, other: SeedScores) -> SeedScores:
        return SeedScores(self.values - other.values, self.without - other.without)

    def interval(self, strata: NDArray[np.int64]) -> list[float] | None:
        """Return the 95% interval of the mean over seeds, for other seeds and other test examples.

        The variance over test examples is that of the jackknife within strata, that over seeds the usual one. Each has a
        t quantile of its own degrees of freedom, so that few seeds, or few examples of a class, make a wide interval.

        Args:
            strata: ``int64 [E]``, the class of each test example.

        Returns:
            Both ends, or ``None`` where there is one seed or too few test examples.
        """
        seeds, mean = len(self.values), float(self.values.mean())
        if seeds < 2 or len(self.without) < FEWEST_UNITS:
            return None
        share = (1 + LEVEL) / 2
        variance, freedom = _jackknife_variance(self.without, strata)
        over_examples = t_quantile(share, freedom) ** 2 * variance
        over_seeds = t_quantile(share, seeds - 1) ** 2 * float(self.values.var(ddof=1)) / seeds
        half = math.sqrt(over_examples + over_seeds)
        return [mean - half, mean + half]


def _jackknife_variance(without: Floats, strata: NDArray[np.int64]) -> tuple[float, float]:
    """Return the variance of a metric over test examples, and its degrees of freedom (Satterthwaite 1946)."""
    sizes = np.bincount(strata)
    several = sizes[strata] > 1
    mean = np.bincount(strata, without) / np.maximum(sizes, 1)
    squares = np.bincount(strata[several], (without - mean[strata])[several] ** 2, len(sizes))
    variances = squares * (sizes - 1) / np.maximum(sizes, 1)
    below = float((variances**2 / np.maximum(sizes - 1, 1)).sum())
    total = float(variances.sum())
    return total, max(total**2 / below, 1.0) if below else 1.0
