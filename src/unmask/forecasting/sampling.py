"""Draws from the posteriors of several resamples at once: differential evolution Markov chains (ter Braak 2006).

Each chain is of one resample. A step is proposed along the difference of two other chains, so that it follows the narrow
valleys in which several parameters explain a few points alike.

Shapes: B chains, d parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unmask.evaluation.bootstrap import Floats

_STEPS = 800
_STARTS = 40


@dataclass(frozen=True)
class Normal:
    """A normal prior of a parameter, whose magnitude is below ``most``."""

    mean: float
    spread: float
    most: float


@dataclass(frozen=True)
class Flat:
    """A flat prior of a parameter, from ``low`` to ``high``."""

    low: float
    high: float


def posterior(
    priors: Sequence[Normal | Flat],
    missed: Callable[[Floats], Floats],
    freedom: float,
    draws: int,
    rng: np.random.Generator,
) -> Floats:
    """Return ``[B, d]`` draws of the parameters of a law whose error has any size.

    Args:
        priors: of the parameters.
        missed: from ``[B, d]`` to the weighted sums ``[B]`` of the squares that the law misses.
        freedom: degrees of freedom of the error.
        draws: B.
        rng: of the draws.
    """
    normal = {place: each for place, each in enumerate(priors) if isinstance(each, Normal)}
    flat = {place: each for place, each in enumerate(priors) if isinstance(each, Flat)}

    def prior() -> Floats:
        found = {
            place: each.mean + each.spread * rng.standard_normal(draws) for place, each in normal.items()
        }
        found |= {place: rng.uniform(each.low, each.high, draws) for place, each in flat.items()}
        return np.stack([found[place] for place in range(len(priors))], axis=1)

    def score(state: Floats) -> Floats:
        inside = np.all([np.abs(state[:, place]) < each.most for place, each in normal.items()], axis=0)
        for place, one in flat.items():
            inside &= (state[:, place] >= one.low) & (state[:, place] < one.high)
        found = -0.5 * freedom * np.log(missed(np.where(inside[:, None], state, start)))
        for place, each in normal.items():
            found -= 0.5 * ((state[:, place] - each.mean) / each.spread) ** 2
        return np.where(inside, found, -np.inf)

    start = prior()
    return _sample(score, prior, rng)


def _sample(
    score: Callable[[Floats], Floats], prior: Callable[[], Floats], rng: np.random.Generator
) -> Floats:
    """Return ``[B, d]`` draws, one of each chain.

    Args:
        score: from ``[B, d]`` to the logarithms ``[B]`` of the densities, minus infinity where a parameter cannot be.
        prior: draws ``[B, d]``, where the chains begin.
        rng: of the draws.
    """
    state = prior()
    best = score(state)
    for _ in range(_STARTS):
        state, best = _better(state, best, other := prior(), score(other))
    chains, size = state.shape
    jump = 2.38 / np.sqrt(2 * size)
    for step in range(_STEPS):
        first, second = rng.integers(chains, size=(2, chains))
        proposed = state + (1.0 if step % 10 == 9 else jump) * (state[first] - state[second])
        proposed += 1e-3 * rng.standard_normal(state.shape)
        found = score(proposed)
        accepted = np.log(rng.random(chains)) < found - best
        state = np.where(accepted[:, None], proposed, state)
        best = np.where(accepted, found, best)
    return state


def _better(state: Floats, best: Floats, other: Floats, found: Floats) -> tuple[Floats, Floats]:
    higher = found > best
    return np.where(higher[:, None], other, state), np.where(higher, found, best)
