"""Simulations of the 95% intervals: how often they miss the truth, with few documents, skew, and few seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from unmask.evaluation.bootstrap import Floats, ratios
from unmask.probing.metrics import SeedScores

Draw = np.random.Generator
SIZES = (10, 20, 50, 200)
TRIALS, AT_ONCE = 6_000, 300


def tokens_of(draw: Draw, shape: tuple[int, int]) -> Floats:
    """Documents of very different lengths: one in ten has three times the median."""
    return np.ceil(draw.lognormal(3, 0.8, shape))


def two_equal_models(draw: Draw, shape: tuple[int, int]) -> Floats:
    """Differences of two models whose losses are skewed and have one distribution."""
    return draw.lognormal(0, 1, shape) - draw.lognormal(0, 1, shape)


def one_slightly_better_often(draw: Draw, shape: tuple[int, int]) -> Floats:
    """Differences of mean 0: small losses in most documents, larger gains in a few (skew 1)."""
    return draw.gamma(4, 1, shape) - 4


def one_better_in_few(draw: Draw, shape: tuple[int, int]) -> Floats:
    """Differences of mean 0, exponential (skew 2)."""
    return draw.exponential(1, shape) - 1


def loss_of_a_model(draw: Draw, shape: tuple[int, int]) -> Floats:
    """Losses of documents around 3 nats, skew 1.4; less 3, so that the truth is 0."""
    return draw.gamma(2, 1.5, shape) - 3


KINDS = (two_equal_models, one_slightly_better_often, one_better_in_few, loss_of_a_model)


def missed(kind: Callable[[Draw, tuple[int, int]], Floats], size: int, trials: int) -> float:
    """Return the share of intervals that exclude the true value, 0: verdicts that are false."""
    draw = np.random.default_rng(size)
    wrong = 0
    for block in range(trials // AT_ONCE):
        shape = size, AT_ONCE
        tokens = tokens_of(draw, shape)
        found = ratios(tokens * kind(draw, shape), tokens, seed=block)
        assert all(estimate.interval for estimate in found)
        wrong += sum(estimate.sign != 0 for estimate in found)
    return wrong / trials


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_an_interval_misses_the_truth_in_at_most_6_percent(
    kind: Callable[[Draw, tuple[int, int]], Floats], size: int
) -> None:
    share = missed(kind, size, TRIALS)
    print(f"{kind.__name__}, {size} documents: {share:.1%}")
    assert share <= 0.06


def test_a_difference_in_a_few_documents_has_an_interval_of_its_size() -> None:
    """Resamples without any of them differ from the truth by rounding alone in their own spread."""
    draw = np.random.default_rng(4)
    tokens = tokens_of(draw, (30, 1))
    gains = np.zeros((30, 1))
    gains[:3] = 1
    (found,) = ratios(gains, tokens)
    assert -1 < found.low < found.value < found.high < 1


def test_few_documents_are_not_surer_than_many() -> None:
    assert missed(two_equal_models, 10, 2 * AT_ONCE) < 0.06
    assert missed(loss_of_a_model, 10, 2 * AT_ONCE) < 0.08


# ---- probe: S seeds, E test examples


def fine_tuned(draw: Draw, easy: Floats, gold: np.ndarray, seeds: int, spread: float) -> SeedScores:
    """A model of which each seed is as good as its luck, with ``spread`` in logits."""
    classes, row = int(gold.max()) + 1, np.arange(len(gold))
    counts = []
    for _ in range(seeds):
        right = draw.uniform(size=len(gold)) < 1 / (1 + np.exp(-easy - spread * draw.standard_normal()))
        guess = np.where(right, gold, (gold + draw.integers(1, classes, len(gold))) % classes)
        count = np.zeros((len(gold), classes, 3))
        count[row, gold, 0] = right
        count[row, guess, 1] += 1
        count[row, gold, 2] += 1
        counts.append(count)
    return SeedScores.of("classification", "macro_f1", counts)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(50, 50), (500, 500), (100, 100, 5)])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_a_probe_calls_a_model_better_without_reason_in_at_most_6_percent(
    sizes: tuple[int, ...], seeds: int, spread: float
) -> None:
    draw = np.random.default_rng(seeds)
    gold = np.repeat(np.arange(len(sizes)), sizes)
    wrong = 0
    for _ in range(trials := 1_500):
        shared = 1.4 + draw.standard_normal(len(gold))
        first, second = (
            fine_tuned(draw, shared + 0.5 * draw.standard_normal(len(gold)), gold, seeds, spread)
            for _ in range(2)
        )
        span = (second - first).interval(gold)
        assert span is not None
        wrong += not span[0] <= 0 <= span[1]
    print(f"{sizes} test examples, {seeds} seeds, spread {spread}: {wrong / trials:.1%}")
    assert wrong / trials <= 0.06
