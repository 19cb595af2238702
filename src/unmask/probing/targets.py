"""What is predicted of a unit: one class, a set of classes, or a number. Each says how it is learned and read.

Shapes: U units, H hidden size, K classes, O outputs of the head.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unmask.model.float64 import in_float64
from unmask.probing.examples import Examples, Task, label_set

Floats = NDArray[np.float32]
Array = NDArray[Any]
Predictor = Callable[[Floats], Array]
"""Features ``[U, H]`` to predicted codes ``[U, ...]``."""

_ITERATIONS = 100


class Target(ABC):
    """Labels as arrays, and how to learn them.

    Attributes:
        outputs: O, of the head of fine-tuning.
        fallback: the code of a token that was truncated.
    """

    outputs: int
    fallback: int = 0

    @abstractmethod
    def codes(self, labels: Sequence[str]) -> Array:
        """Return the labels of one example as an array, the first dimension its units."""

    @abstractmethod
    def names(self, codes: Array) -> list[str]:
        """Return the labels of one example again."""

    @abstractmethod
    def fit(self, x: Floats, y: Array, strength: float, weights: NDArray[np.float64] | None) -> Predictor:
        """Fit a regularised linear model.

        Args:
            x: ``[U, H]`` standardised features.
            y: ``[U, ...]`` codes.
            strength: the inverse of the regularisation.
            weights: ``[U]``, how often each unit counts.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the summed loss of ``[U, O]`` outputs of the head."""

    @abstractmethod
    def decode(self, outputs: Tensor) -> Tensor:
        """Return the codes that outputs of the head stand for."""


def target_of(task: Task, labels: Sequence[str], most_frequent: str) -> Target:
    """Return the target of a task.

    Args:
        task: the task.
        labels: all labels, those that train lacks last.
        most_frequent: the most frequent label of train.
    """
    if task.kind == "regression":
        return Numbers(task.train)
    if task.kind == "multilabel":
        return LabelSets(labels)
    return Classes(labels, len(label_set(task.train)), labels.index(most_frequent))


class Classes(Target):
    """One class per unit; codes are ``[U]`` class numbers. Logistic regression, or cross-entropy."""

    def __init__(self, labels: Sequence[str], outputs: int, fallback: int) -> None:
        self._labels = list(labels)
        self._number = {label: code for code, label in enumerate(labels)}
        self.outputs, self.fallback = outputs, fallback

    def codes(self, labels: Sequence[str]) -> Array:
        return np.array([self._number[label] for label in labels])

    def names(self, codes: Array) -> list[str]:
        return [self._labels[code] for code in codes]

    def fit(self, x: Floats, y: Array, strength: float, weights: NDArray[np.float64] | None) -> Predictor:
        return _logistic_regression(x, y, strength, weights)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y, reduction="sum")

    def decode(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1)


class LabelSets(Target):
    """Any number of classes per text; codes are ``[1, K]`` of 0 and 1. Each class is learned for itself."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = list(labels)
        self.outputs = len(self._labels)

    def codes(self, labels: Sequence[str]) -> Array:
        return np.isin(self._labels, list(labels))[None].astype(np.int64)

    def names(self, codes: Array) -> list[str]:
        return [label for label, there in zip(self._labels, codes[0], strict=True) if there]

    def fit(self, x: Floats, y: Array, strength: float, weights: NDArray[np.float64] | None) -> Predictor:
        fitted = [_logistic_regression(x, column, strength, weights) for column in y.T]
        return lambda rows: np.stack([predict(rows) for predict in fitted], axis=1)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, y.to(outputs.dtype), reduction="sum")

    def decode(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(torch.int64)


class Numbers(Target):
    """A number per text; codes are ``[1]`` floats. Ridge regression, or the squared error of standardised numbers."""

    outputs = 1

    def __init__(self, train: Examples) -> None:
        values = np.array([float(label) for (label,) in train.labels])
        self._mean, self._spread = float(values.mean()), float(values.std()) or 1.0

    def codes(self, labels: Sequence[str]) -> Array:
        return np.array([float(label) for label in labels])

    def names(self, codes: Array) -> list[str]:
        return [repr(float(code)) for code in codes]

    def fit(self, x: Floats, y: Array, strength: float, weights: NDArray[np.float64] | None) -> Predictor:
        from sklearn.linear_model import Ridge
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            model = Ridge(alpha=1 / strength).fit(x, y, sample_weight=weights)
        return lambda rows: np.asarray(model.predict(rows), dtype=np.float64)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        wanted = ((y - self._mean) / self._spread).to(outputs)
        return F.mse_loss(outputs[:, 0], wanted, reduction="sum")

    def decode(self, outputs: Tensor) -> Tensor:
        return in_float64(outputs[:, 0]) * self._spread + self._mean


def _logistic_regression(
    x: Floats, y: Array, strength: float, weights: NDArray[np.float64] | None
) -> Predictor:
    """Fit a logistic regression; where a resample holds a single class, predict that class."""
    if len(found := np.unique(y)) == 1:
        return lambda rows: np.full(len(rows), found[0], dtype=np.int64)
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=strength, max_iter=_ITERATIONS)
    # On a busy machine, threads that wait by spinning are 40 times slower.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter(
            "ignore"
        )  # of convergence: what is left to gain is below the differences of seeds
        model.fit(x, y, sample_weight=weights)
    return lambda rows: model.predict(rows).astype(np.int64) if len(rows) else np.zeros(0, dtype=np.int64)
