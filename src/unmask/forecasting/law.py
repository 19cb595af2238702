"""The law of held-out loss: a power law in tokens, in which repeated text counts less, with the uncertainty of its fit.

``L(x) = E + C (1 + x / x0)^-alpha`` has the offset of a model that was trained before (Hernandez et al. 2021, arXiv
2102.01293). ``x`` are effective tokens: of D tokens of a text that has U, those beyond one pass count less and less
(Muennighoff et al. 2023, arXiv 2305.16264): ``x = U (1 + R (1 - exp(-(D / U - 1) / R)))``. A token of general text counts as
``t`` tokens of the domain.

The fit is Bayesian, since few points leave ``E``, ``alpha`` and ``x0`` open together: of each resample of the held-out
documents one law is drawn, by its likelihood and weak priors. A forecast is what these laws say, with the
residuals of the fit, which grow with the distance from the longest run.

Shapes: n probing runs, B draws (the first is of the documents as they are).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unmask.evaluation.bootstrap import Floats
from unmask.forecasting.sampling import Flat, Normal, posterior
from unmask.reporting.json_documents import Expected

LEVEL = 0.9
"""Coverage of the intervals of a forecast."""
DRAWS = 400

_MOST_LOG = 12.0
_ALPHA = Normal(float(np.log(0.3)), 0.9, _MOST_LOG)
_REPEATS = Normal(float(np.log(15.4)), 1.2, _MOST_LOG)
"""Of the logarithms of ``alpha`` and ``R``; the median of ``R`` is the fit over many sizes in Muennighoff et al."""
_OFFSETS = 1 / 30, 10.0
"""``x0`` is sought from so much of the shortest to so many of the longest run; its logarithm and ``E`` have flat priors."""
_FREEDOM = 3.0
_LEAST_ERROR = 0.001
"""The error of a law before anything is fitted, as a share of the loss; it counts as ``_FREEDOM`` runs."""
_SHORT = 0.5
"""The square of the error of a run grows with this power of how much shorter it is than the longest one."""
_PART, _REPLAYED = 0.06, 0.25
"""By these factors a run counts less on a part of the text, since a few documents are not like all, and with general text."""
_DRIFT = 0.5
"""Per doubling beyond the longest run a forecast drifts by this many errors of the fit."""


@dataclass(frozen=True)
class Points:
    """Probing runs as the law sees them.

    Attributes:
        tokens: ``[n]``, of the domain.
        general: ``[n]``, of general text.
        text: ``[n]``, of the text that was given, in one pass.
        losses: ``[B, n]``.
    """

    tokens: Floats
    general: Floats
    text: Floats
    losses: Floats

    def where(self, chosen: np.ndarray) -> Points:
        """Return some of the runs."""
        return Points(self.tokens[chosen], self.general[chosen], self.text[chosen], self.losses[:, chosen])


@dataclass(frozen=True)
class Law:
    """B draws of the law.

    Attributes:
        floor, fall, alpha, offset, repeats, other: ``[B]``: ``E``, ``C``, ``alpha``, ``x0``, ``R`` and ``t``.
        error: ``[B]``, standard error of a run of the longest length.
        longest: effective tokens of the longest run.
        normal: ``[B]`` standard normal numbers, of what the law misses.
    """

    floor: Floats
    fall: Floats
    alpha: Floats
    offset: Floats
    repeats: Floats
    other: Floats
    error: Floats
    longest: float
    normal: Floats

    def expected(self, tokens: float, text: float, general: float = 0.0) -> Floats:
        """Return ``[B]`` losses after so many tokens of a text of ``text`` tokens, and so many of general text."""
        x = effective(tokens, text, self.repeats) + self.other * general
        return np.asarray(self.floor + self.fall * (1 + x / self.offset) ** -self.alpha)

    def forecast(self, tokens: float, text: float, general: float = 0.0) -> Floats:
        """Return :meth:`expected` with the error of a run and of the extrapolation."""
        far = max(0.0, float(np.log2(max(tokens, 1.0) / self.longest)))
        return self.expected(tokens, text, general) + self.error * self.normal * np.hypot(1.0, _DRIFT * far)


def effective(tokens: float | Floats, text: float | Floats, repeats: float | Floats) -> Floats:
    """Return what ``tokens`` of a text of ``text`` tokens are worth in tokens that are not repeated."""
    over = np.maximum(np.asarray(tokens) / text - 1, 0.0)
    return np.asarray(np.minimum(tokens, text) + text * repeats * -np.expm1(-over / repeats))


def fit(points: Points, seed: int) -> Law:
    """Fit the law to runs of several lengths, of parts of the text, and with general text.

    Args:
        points: at least four, of different lengths.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    losses, draws = points.losses, len(points.losses)
    least, longest = losses.min(axis=1), float(points.tokens[points.general == 0].max())
    weights = _weights(points, longest)
    ends = np.log([points.tokens.min() * _OFFSETS[0], longest * _OFFSETS[1]])
    freedom = _FREEDOM + len(points.tokens) - 1

    def compare(state: Floats) -> tuple[Floats, Floats, Floats]:
        """Return ``C``, its sum of squares, and the weighted sum of squares that the law misses."""
        alpha, offset, repeats = (np.exp(state[:, [place]]) for place in range(3))
        x = effective(points.tokens, points.text, repeats) + state[:, [4]] * points.general
        shape = (1 + x / offset) ** -alpha
        above = losses - (state[:, 3] * least)[:, None]
        squares = (weights * shape**2).sum(axis=1)
        fall = np.maximum((weights * shape * above).sum(axis=1) / squares, 0.0)
        missed = (weights * (above - fall[:, None] * shape) ** 2).sum(axis=1)
        return fall, squares, missed + _FREEDOM * (_LEAST_ERROR * least) ** 2

    priors: list[Normal | Flat] = [_ALPHA, Flat(*ends), _REPEATS, Flat(0.0, 1.0), Flat(0.0, 1.0)]
    state = posterior(priors, lambda state: compare(state)[2], freedom, draws, rng)
    fall, squares, missed = compare(state)
    error = np.sqrt(missed / rng.chisquare(freedom, draws))
    fall = np.maximum(fall + error / np.sqrt(squares) * rng.standard_normal(draws), 0.0)
    alpha, offset, repeats = np.exp(state[:, :3]).T
    normal = rng.standard_normal(draws)
    return Law(state[:, 3] * least, fall, alpha, offset, repeats, state[:, 4], error, longest, normal)


def _weights(points: Points, longest: float) -> Floats:
    """Return ``[n]``: the inverse of the squares of the errors of the runs, that of the longest one being 1."""
    weights = np.minimum(points.tokens / longest, 1.0) ** _SHORT
    weights[points.text < 0.99 * points.text.max()] *= _PART
    weights[points.general > 0] *= _REPLAYED
    return np.asarray(weights)


def interval(values: Floats) -> tuple[float, float, float]:
    """Return the median of draws and the ends of their interval."""
    tail = (1 - LEVEL) / 2
    low, middle, high = np.quantile(values, [tail, 0.5, 1 - tail])
    return float(middle), float(low), float(high)


def value(draws: Floats) -> Expected:
    """Return the median of draws and its interval, ready for JSON."""
    middle, low, high = interval(draws)
    return {"value": middle, "interval": [low, high]}
