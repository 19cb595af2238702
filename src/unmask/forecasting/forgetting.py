"""The law of forgetting: the rise of the loss on general text, in tokens of the domain and the share of replay.

``F = J + A P^p h(d) / (1 + B r / (1 - r)) - G g(z)``: the first steps of a new optimizer raise the loss, whatever the text is;
``d`` tokens of the domain raise it further, less so with replay (Bethune et al. 2025, arXiv 2502.06042) and more so in the
``P`` passes over a text, one at least; ``z`` tokens of general text lower it where the base has not learned it to the end, as
a power law. ``h(d) = ((1 + d / d0)^beta - 1) / beta`` grows without bound for ``beta`` above 0 and ends for ``beta`` below.

Fitted as the law of held-out loss is, see :mod:`unmask.forecasting.law`.

Shapes: n probing runs, B draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unmask.evaluation.bootstrap import Floats
from unmask.forecasting.sampling import Flat, Normal, posterior

_BETA = Normal(0.7, 0.5, most=2.0)
_PASSES = Normal(0.3, 0.3, most=2.0)
_SHIELD = Normal(float(np.log(8.0)), 1.5, most=10.0)
"""Of the logarithm of ``B``."""
_OFFSETS = 0.1, 10.0
"""``d0`` is sought from so much of the shortest to so many of the longest run; its logarithm has a flat prior."""
_PART = 0.02
"""By this factor a run counts less on a part of the text, since a few documents are not like all."""
_DRIFT = 1.0
"""Per doubling beyond the longest run a forecast drifts by this many errors of the fit."""
_GENERAL_POWER = 0.3
_FREEDOM = 3.0
LEAST_ERROR = 0.001
"""Of a run, as a share of the loss of the base: what is smaller is noise."""


@dataclass(frozen=True)
class Forgetting:
    """B draws of the law.

    Attributes:
        jump, rise, beta, offset, shield, learned, passes: ``[B]``: ``J``, ``A``, ``beta``, ``d0``, ``B``, ``G`` and ``p``.
        error: ``[B]``, standard error of a run.
        longest: tokens of the longest run.
        normal: ``[B]`` standard normal numbers, of what the law misses.
    """

    jump: Floats
    rise: Floats
    beta: Floats
    offset: Floats
    shield: Floats
    learned: Floats
    passes: Floats
    error: Floats
    longest: float
    normal: Floats

    def expected(self, tokens: float, share: float, text: float) -> Floats:
        """Return ``[B]`` rises of the loss on general text after so many tokens, a share of them general text.

        Args:
            tokens: of the run.
            share: of general text.
            text: tokens of one pass over the text of the domain.
        """
        domain, general = np.array([(1 - share) * tokens]), np.array([share * tokens])
        lost, learned = _shapes(
            domain, general, np.array([text]), self.beta, self.offset, self.shield, self.passes
        )
        return np.asarray(self.jump + self.rise * lost[:, 0] - self.learned * learned[:, 0])

    def forecast(self, tokens: float, share: float, text: float) -> Floats:
        """Return :meth:`expected` with the error of a run and of the extrapolation."""
        far = max(0.0, float(np.log2(max(tokens, 1.0) / self.longest)))
        return self.expected(tokens, share, text) + self.error * self.normal * np.hypot(1.0, _DRIFT * far)


def _shapes(
    domain: Floats,
    general: Floats,
    text: Floats,
    beta: Floats,
    offset: Floats,
    shield: Floats,
    passes: Floats,
) -> tuple[Floats, Floats]:
    """Return ``[K, n]`` each: what is lost with ``A`` of 1, and what is learned with ``G`` of 1."""
    beta, offset, shield, passes = (part[:, None] for part in (beta, offset, shield, passes))
    steep = np.where(np.abs(beta) < 1e-4, 1e-4, beta)
    lost = np.expm1(steep * np.log1p(domain / offset)) / steep / (1 + shield * general / domain)
    lost *= np.maximum(domain / text, 1.0) ** passes
    return lost, -np.expm1(-_GENERAL_POWER * np.log1p(general / offset))


def fit(domain: Floats, general: Floats, text: Floats, rises: Floats, base: float, seed: int) -> Forgetting:
    """Fit the law to runs of several lengths, of parts of the text, with and without replay.

    Args:
        domain: ``[n]`` tokens of the domain.
        general: ``[n]`` tokens of general text.
        text: ``[n]`` tokens of one pass over the text that was given.
        rises: ``[B, n]`` of the loss on general text.
        base: that of the base.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    tokens, draws = domain + general, len(rises)
    ends = np.log([tokens.min() * _OFFSETS[0], tokens.max() * _OFFSETS[1]])
    weights = np.sqrt(tokens / tokens.max())
    weights[text < 0.99 * text.max()] *= _PART
    freedom = _FREEDOM + len(tokens) - 2
    highest = np.maximum(rises.max(axis=1), 0.0)

    def compare(state: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return ``A``, ``G``, the sum of squares of what is lost, and the sum of squares that the law misses."""
        offset, shield = np.exp(state[:, 1:3]).T
        lost, learned = _shapes(domain, general, text, state[:, 0], offset, shield, state[:, 4])
        risen = rises - (state[:, 3] * highest)[:, None]
        pairs = ((lost, lost), (learned, learned), (lost, learned), (lost, risen), (learned, risen))
        aa, gg, ag, ya, yg = ((weights * one * other).sum(axis=1) for one, other in pairs)
        rise, gain = _not_negative(aa, gg, ag, ya, yg)
        missed = (weights * (risen - rise[:, None] * lost + gain[:, None] * learned) ** 2).sum(axis=1)
        return rise, gain, aa, missed + _FREEDOM * (LEAST_ERROR * base) ** 2

    priors: list[Normal | Flat] = [_BETA, Flat(*ends), _SHIELD, Flat(0.0, 1.0), _PASSES]
    state = posterior(priors, lambda state: compare(state)[3], freedom, draws, rng)
    rise, gain, squares, missed = compare(state)
    error = np.sqrt(missed / rng.chisquare(freedom, draws))
    slack = error / np.sqrt(np.maximum(squares, 1e-12)) * rng.standard_normal(draws)
    rise = np.where(rise > 0, np.maximum(rise + slack, 0.0), rise)
    beta, offset, shield = state[:, 0], np.exp(state[:, 1]), np.exp(state[:, 2])
    jump, normal = state[:, 3] * highest, rng.standard_normal(draws)
    return Forgetting(jump, rise, beta, offset, shield, gain, state[:, 4], error, float(tokens.max()), normal)


def _not_negative(aa: Floats, gg: Floats, ag: Floats, ya: Floats, yg: Floats) -> tuple[Floats, Floats]:
    """Return ``[K]`` each: ``A`` and ``G`` of least squares, neither of them negative."""
    small = 1e-12
    alone_a, alone_g = (
        np.maximum(ya / np.maximum(aa, small), 0.0),
        np.maximum(-yg / np.maximum(gg, small), 0.0),
    )
    even = aa * gg - ag**2
    solvable = even > 1e-9 * aa * gg
    even = np.where(solvable, even, 1.0)
    a, g = (ya * gg - yg * ag) / even, (ya * ag - yg * aa) / even
    both = solvable & (a >= 0) & (g >= 0)
    a_alone = alone_a**2 * aa >= alone_g**2 * gg
    return np.where(both, a, np.where(a_alone, alone_a, 0.0)), np.where(
        both, g, np.where(a_alone, 0.0, alone_g)
    )
