"""A linear model on the features of a frozen encoder, and what it has in common with fine-tuning.

Of a pair of texts the frozen encoder reads each alone, and the features are both vectors, their absolute difference and their
product (Conneau & Kiela 2018, "SentEval"). In fine-tuning it reads both as one sequence.

A seed changes how often each training example counts (a bootstrap resample: logistic regression itself has one solution),
alike for every model, so that comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.model.masked_lm import MaskedLM
from unmask.probing.features import Encoded, features
from unmask.probing.settings import Pool
from unmask.probing.targets import Array, Target
from unmask.progress import Progress

Floats = NDArray[np.float32]
Codes = list[Array]
"""E arrays of labels in numbers, see :mod:`unmask.probing.targets`; the first dimension is the units of an example."""
Metric = Callable[[Codes, Codes], float]
"""The metric of true and predicted labels to choose by."""

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation strengths to choose from on held-out examples."""
_FIFTH = 5


@dataclass(frozen=True)
class Part:
    """One part of a task, for one model.

    Attributes:
        encoded: its texts. codes: E arrays of labels in numbers, one per unit, also of those without a place.
        second: the second texts of pairs, where each is read alone.
    """

    encoded: Encoded
    codes: Codes
    second: Encoded | None = None

    @property
    def targets(self) -> Array:
        """``[U, ...]`` labels of the units that have a place."""
        return np.concatenate(
            [codes[kept] for codes, kept in zip(self.codes, self.encoded.kept, strict=True)]
        )

    def take(self, rows: Sequence[int]) -> Part:
        """Return the examples of these numbers."""
        second = self.second and self.second.take(rows)
        return Part(self.encoded.take(rows), [self.codes[row] for row in rows], second)

    def whole(self, predicted: Array, fallback: int) -> Codes:
        """Distribute ``[U, ...]`` predictions over the examples; units that were truncated get ``fallback``."""
        found, begin = [], 0
        for kept in self.encoded.kept:
            codes = np.full((len(kept), *predicted.shape[1:]), fallback, dtype=predicted.dtype)
            codes[kept] = predicted[begin : begin + int(kept.sum())]
            begin += int(kept.sum())
            found.append(codes)
        return found


@dataclass(frozen=True)
class Learner:
    """The inputs of both ways.

    Attributes:
        lm: the model. tagged: whether units are tokens. pool: how a text becomes one vector.
        target: what is predicted.
        metric: the metric to choose the regularisation by.
        progress: gets progress and messages.
    """

    lm: MaskedLM
    tagged: bool
    pool: Pool
    target: Target
    metric: Metric
    progress: Progress = Progress()


def probe_frozen(
    learner: Learner, train: Part, held: Part | None, test: Part, seeds: int
) -> tuple[list[Codes], dict[str, Any]]:
    """Fit a regularised linear model on standardised features, once for each seed.

    Args:
        learner: the model and how it is used.
        train: training examples; every seed resamples them with replacement.
        held: examples that choose the strength of the regularisation, once; by default every fifth of ``train``.
        test: examples to predict.
        seeds: S.

    Returns:
        S predictions for the examples of ``test``, and what was chosen.
    """
    raw = _features(learner, train)
    mean, spread = raw.mean(axis=0), raw.std(axis=0)
    scale = np.where(spread > 0, spread, 1)
    x, x_test = (raw - mean) / scale, (_features(learner, test) - mean) / scale
    x_held = None if held is None else (_features(learner, held) - mean) / scale
    learner.progress.begin("linear model")
    strength = _choose(learner, train, x, held, x_held)
    predictions = []
    for seed in range(seeds):
        weights = np.repeat(_resample(len(train.codes), seed), train.encoded.units)
        used = weights > 0
        guess = learner.target.fit(x[used], train.targets[used], strength, weights[used])(x_test)
        predictions.append(test.whole(guess, learner.target.fallback))
        learner.progress.advance((seed + 1) / seeds, {"seed": seed + 1})
    learner.progress.end()
    return predictions, {"strength": strength, "features": x.shape[1]}


def every_fifth(examples: int) -> list[int]:
    """Return the numbers of the training examples that are held out where there is no dev part."""
    return list(range(_FIFTH - 1, examples, _FIFTH))


def _choose(learner: Learner, train: Part, x: Floats, held: Part | None, x_held: Floats | None) -> float:
    """Return the strength with the best metric on held-out examples; of equals the smallest."""
    y, fitted = train.targets, np.ones(len(x), dtype=bool)
    if held is None or x_held is None:
        rows = every_fifth(len(train.codes))
        last = np.isin(np.arange(len(train.codes)), rows)
        fitted = ~np.repeat(last, train.encoded.units)
        held, x_held = train.take(rows), x[~fitted]
    if not (fitted.any() and len(held.codes)):
        return STRENGTHS[1]
    scores = {}
    for strength in STRENGTHS:
        guess = learner.target.fit(x[fitted], y[fitted], strength, None)(x_held)
        scores[strength] = learner.metric(held.codes, held.whole(guess, learner.target.fallback))
    return max(STRENGTHS, key=lambda strength: scores[strength])


def _features(learner: Learner, part: Part) -> Floats:
    found = []
    for encoded in filter(None, (part.encoded, part.second)):
        learner.progress.begin("features")
        found.append(
            features(learner.lm, encoded, tagged=learner.tagged, pool=learner.pool, progress=learner.progress)
        )
        learner.progress.end()
    if len(found) == 1:
        return found[0]
    first, second = found
    return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def _resample(examples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each example counts in the resample of a seed."""
    drawn = np.random.default_rng(seed).integers(examples, size=examples)
    return np.bincount(drawn, minlength=examples).astype(np.float64)
