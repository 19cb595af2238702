"""Draws from the posteriors of several resamples at once: differential evolution Markov chains (ter Braak 2006).

Each chain is of one resample. A step is proposed along the difference of two other chains, so that it follows the narrow
valleys in which several parameters explain a few points alike.

Shapes: B chains, d parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unmask.evaluation.bootstrap import Floats

_STEPS = 800
_STARTS = 40


def sample(
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
