"""From probing runs to a forecast: expected losses with intervals, passes that help, replay, and what more text is worth.

Where the law does not hold, there is a reason instead of a number.

Shapes: U resampling units, B draws, n probing runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from unmask.errors import plural
from unmask.evaluation.bootstrap import Floats, resample_counts
from unmask.evaluation.verdict import NO_GAIN
from unmask.forecasting import forgetting as forgetting_law
from unmask.forecasting import law as domain_law
from unmask.forecasting.forgetting import Forgetting
from unmask.forecasting.law import DRAWS, Law, Points, interval
from unmask.forecasting.plan import Purpose
from unmask.forecasting.probing import Probe, Sums, mean_loss
from unmask.reporting.format import percent
from unmask.reporting.json_documents import CurvePoint, Expected, ForecastReplay, MoreText, Passes
from unmask.storage import JsonDict

FACTORS = (10, 100)
"""A forecast is of so many times the tokens of the longest probing run."""
LEAST_PASS = 0.001
"""A pass over the text helps while it lowers the expected loss by this share."""
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Replay shares that are compared."""
EQUAL = 0.05
"""Shares whose net gain is lower than the best by at most this part of it are as good."""

_FEWEST_LENGTHS = 4
_BACK = 4
_MOST_ERROR = 0.15
_FINE = 0.002
"""An error of this share of the loss is small whatever was gained."""
_WIDEST = 0.25
_MOST_PASSES = 1_000
_MORE_TEXT = (2, 10)
_ENOUGH = 64


@dataclass(frozen=True)
class Probed:
    """What was measured.

    Attributes:
        base: sums of the base model.
        probes: the probing runs.
        text_tokens: of one pass over the training text.
        seed: of the draws.
    """

    base: Sums
    probes: Sequence[Probe]
    text_tokens: int
    seed: int

    def of(self, *purposes: Purpose) -> list[Probe]:
        """Return the probing runs of some purposes."""
        return [probe for probe in self.probes if probe.run.purpose in purposes]

    def losses(self, probes: Sequence[Probe], text: str) -> tuple[Floats, Floats]:
        """Return ``[B]`` losses of the base and ``[B, n]`` of runs, over resamples of the documents; the first is no resample."""
        sums = np.stack([self.base[text], *(probe.sums[text] for probe in probes)], axis=2)
        counts = [np.ones((1, len(sums))), *resample_counts(len(sums), DRAWS - 1, self.seed)]
        targets, totals = (np.tensordot(np.concatenate(counts), sums[:, place], 1) for place in (0, 1))
        losses = totals / np.maximum(targets, 1)
        return losses[:, 0], losses[:, 1:]

    @cached_property
    def base_losses(self) -> Floats:
        """``[B]`` losses of the base on the domain."""
        return self.losses([], "domain")[0]

    @property
    def longest(self) -> Probe:
        """The longest run on the text as it is."""
        return max(self.of("length"), key=lambda probe: probe.tokens)


def analyse(probed: Probed, wanted_share: float | None = None) -> dict[str, Any]:
    """Return the forecast as plain values, see :class:`unmask.forecasting.forecast.Forecast`.

    Args:
        probed: the measurements.
        wanted_share: the replay share of the run that is planned; by default the best.
    """
    domain, law = _domain(probed)
    lost, forgetting = _forgetting(probed)
    tokens = probed.longest.tokens if probed.of("length") else 0
    horizons = [
        _horizon(probed, law, forgetting, factor, factor * tokens, wanted_share) for factor in FACTORS
    ]
    reach = max((row["tokens"] for row in horizons if row["domain"]), default=0)
    return {
        "domain": domain,
        "forgetting": lost,
        "horizons": horizons,
        "passes": None if law is None or not reach else _passes(law, probed.text_tokens, reach),
        "curve": [] if law is None else _curve(probed, law, forgetting),
        "rates": _rates(probed),
    }


def value(draws: Floats) -> Expected:
    """Return the median of draws and its interval, ready for JSON."""
    middle, low, high = interval(draws)
    return {"value": middle, "interval": [low, high]}


def loss_and_change(draws: Floats, base: Floats) -> tuple[Expected, Expected]:
    """Return a forecast of the loss and its change relative to the base, from ``[B]`` each.

    The change is paired over the resampled documents; the loss is that change of the base as it was measured, and its interval
    has the noise of the documents too.
    """
    change = value(draws / base - 1)
    middle = float(base[0]) * (1 + change["value"])
    _, low, high = interval(draws * (middle / float(np.median(draws))))
    return {"value": middle, "interval": [low, high]}, change


# ---- the laws


def _domain(probed: Probed) -> tuple[dict[str, Any], Law | None]:
    """Return how the law of the domain loss fits, and the law where it holds."""
    lengths = probed.of("length")
    if len(lengths) < _FEWEST_LENGTHS:
        reason = f"only {plural(len(lengths), 'run')} of different length ended in time, and the law takes {_FEWEST_LENGTHS}"
        return {"decision": "cannot tell", "reasons": [reason]}, None
    probes = probed.of("length", "repeats", "replay")
    base, losses = probed.losses(probes, "domain")
    points = Points(
        np.array([probe.domain_tokens for probe in probes], dtype=float),
        np.array([probe.tokens - probe.domain_tokens for probe in probes], dtype=float),
        np.array([probe.text_tokens for probe in probes], dtype=float),
        losses,
    )
    law = domain_law.fit(points, probed.seed)
    back = _backtest(points, lengths, probed)
    reasons = list(_against(probed, law, back, float(base[0])))
    names = {
        "floor": law.floor,
        "fall": law.fall,
        "alpha": law.alpha,
        "offset": law.offset,
        "repeats": law.repeats,
    }
    if points.general.any():
        names["other"] = law.other
    found = {
        "decision": "cannot tell" if reasons else "forecast",
        "reasons": reasons,
        "law": {name: value(draws) for name, draws in names.items()},
        "error": float(np.median(law.error)),
        "backtest": back,
    }
    return found, None if reasons else law


def _backtest(points: Points, lengths: Sequence[Probe], probed: Probed) -> dict[str, Any] | None:
    """Forecast the longest run from those of at most a quarter of its length; ``None`` where these are too few."""
    longest = probed.longest
    short = (points.general == 0) & (points.tokens * _BACK <= longest.domain_tokens * 1.01)
    if len(set(points.tokens[short])) < _FEWEST_LENGTHS - 1:
        return None
    law = domain_law.fit(points.where(short), probed.seed)
    draws = law.forecast(longest.domain_tokens, longest.text_tokens)
    draws *= probed.base_losses[0] / probed.base_losses
    measured = longest.loss("domain")
    low, high = (float(end) for end in np.quantile(draws, [0.01, 0.99]))
    return {
        "factor": longest.tokens
        / max(probe.tokens for probe in lengths if probe.tokens * _BACK <= longest.tokens * 1.01),
        "measured": measured,
        **value(draws),
        "holds": low <= measured <= high,
    }


def _against(probed: Probed, law: Law, back: JsonDict | None, base: float) -> Any:
    """Yield what speaks against a forecast of the domain loss."""
    lengths = sorted(probed.of("length"), key=lambda probe: probe.tokens)
    longest = lengths[-1]
    best = min(probe.loss("domain") for probe in lengths)
    fall = base - best
    if fall <= 0:
        yield "no probing run lowered the loss on held-out text"
        return
    if longest.loss("domain") > best + 0.1 * fall:
        yield "the loss of the longest run is higher than that of a shorter one, and the law only falls"
    error = float(np.median(law.error))
    if error > max(_MOST_ERROR * fall, _FINE * best):
        yield (
            f"the law misses the runs by {error:.3f} nats, {percent(error / fall, 0)} of what the longest one gained"
        )
    if back is not None and not back["holds"]:
        yield (
            f"from the shorter runs the law forecasts {back['value']:.3f} for the longest one, which has {back['measured']:.3f}"
        )


def _too_wide(found: Expected, loss: float) -> bool:
    """Tell whether the interval of a forecast is so wide, compared with the loss, that it says too little."""
    low, high = found["interval"]
    return high - low > _WIDEST * loss


def _forgetting(probed: Probed) -> tuple[dict[str, Any], Forgetting | None]:
    """Return how the law of forgetting fits, and the law where it holds."""
    if "general" not in probed.base:
        return {"decision": "unknown", "reasons": ["no general text was given (--general)"]}, None
    probes = probed.of("length", "repeats", "replay")
    if len({probe.tokens for probe in probed.of("length")}) < _FEWEST_LENGTHS:
        return {
            "decision": "cannot tell",
            "reasons": ["too few runs of different length ended in time"],
        }, None
    base, losses = probed.losses(probes, "general")
    rises = losses - base[:, None]
    domain = np.array([probe.domain_tokens for probe in probes], dtype=float)
    general = np.array([probe.tokens - probe.domain_tokens for probe in probes], dtype=float)
    text = np.array([probe.text_tokens for probe in probes], dtype=float)
    law = forgetting_law.fit(domain, general, text, rises, float(base[0]), probed.seed)
    error = float(np.median(law.error))
    spread = float(np.ptp(np.append(rises[0], 0.0)))
    names = {"jump": law.jump, "rise": law.rise, "beta": law.beta, "offset": law.offset}
    if general.any():
        names |= {"shield": law.shield, "learned": law.learned}
    if (text < text.max()).any():
        names["passes"] = law.passes
    reasons = []
    if fallen := _fallen(rises[:, probes.index(probed.longest)], float(base[0])):
        reasons.append(fallen)
    elif error > max(_MOST_ERROR * spread, _FINE * float(base[0])):
        reasons.append(f"the law misses the runs by {error:.3f} nats, and they differ by {spread:.3f}")
    found = {
        "decision": "cannot tell" if reasons else "forecast",
        "reasons": reasons,
        "law": {name: value(draws) for name, draws in names.items()},
        "error": error,
    }
    return found, None if reasons else law


def _fallen(rises: Floats, base: float) -> str | None:
    """Return that the loss on general text falls without replay, if it does: the law of forgetting only rises then.

    Args:
        rises: ``[B]`` of the longest run on the text alone.
        base: loss of the base.
    """
    _, _, high = interval(rises)
    if high >= 0 or -rises[0] <= forgetting_law.LEAST_ERROR * base:
        return None
    return (
        f"the longest run lowers the loss on general text by {-rises[0]:.3f} nats: the base has not learned that text to the end and "
        f"learns it from the domain too, which the law of forgetting does not know"
    )


# ---- what follows from them


def _horizon(
    probed: Probed,
    law: Law | None,
    forgetting: Forgetting | None,
    factor: float,
    tokens: float,
    wanted: float | None,
) -> dict[str, Any]:
    """Return the forecast for so many tokens in all."""
    text = float(probed.text_tokens)
    base = probed.base_losses
    found: dict[str, Any] = {"factor": factor, "tokens": int(tokens), "passes": tokens / text}
    found |= {
        "domain": None,
        "change": None,
        "forgetting": None,
        "replay": None,
        "more_text": None,
        "reason": None,
    }
    wide = []
    if law is not None:
        domain, change = loss_and_change(law.forecast(tokens, text), base)
        if _too_wide(domain, domain["value"]):
            low, high = domain["interval"]
            wide.append(f"every loss from {low:.2f} to {high:.2f}")
            law = None
    if law is not None:
        found["domain"], found["change"] = domain, change
        found["more_text"] = _more_text(law, tokens, text)
    if forgetting is not None:
        lost = value(forgetting.forecast(tokens, 0.0, text))
        if _too_wide(lost, mean_loss(probed.base["general"])):
            low, high = lost["interval"]
            wide.append(f"every change of the general loss from {low:+.2f} to {high:+.2f}")
        else:
            found["forgetting"] = lost
    if wide:
        found["reason"] = (
            f"for {factor:g} times the tokens {' and '.join(wide)} agrees with the runs; longer runs (--minutes) would narrow that"
        )
    if law is not None and forgetting is not None and probed.of("replay"):
        found["replay"] = _replay(law, forgetting, tokens, text, base, wanted)
    return found


def _more_text(law: Law, tokens: float, text: float) -> MoreText:
    """Return what more text would change at the same number of tokens trained on, and how much would be enough."""
    now = law.expected(tokens, text)
    if tokens <= text:
        return {"used_up": False, "rows": [], "enough": None}
    rows = []
    for factor in _MORE_TEXT:
        change = law.expected(tokens, factor * text) / now - 1
        middle, low, high = interval(change)
        rows.append(
            {"factor": factor, "tokens": int(factor * text), "change": {"value": middle, "interval": [low, high]},
             "worth": middle <= -NO_GAIN}
        )  # fmt: skip
    sizes = text * np.geomspace(1.0, max(tokens / text, 1.0), _ENOUGH)
    curves = np.stack([law.expected(tokens, size) for size in sizes])
    enough = sizes[np.argmax(curves <= curves[-1] * (1 + NO_GAIN), axis=0)]
    return {"used_up": True, "rows": rows, "enough": value(enough)}


def _replay(
    law: Law, forgetting: Forgetting, tokens: float, text: float, base: Floats, wanted: float | None
) -> ForecastReplay:
    """Return the replay share of the highest expected net gain: the fall of the domain loss less the rise of the general loss."""
    nets = np.stack(
        [
            base
            - law.expected((1 - share) * tokens, text, share * tokens)
            - forgetting.expected(tokens, share, text)
            for share in SHARES
        ]
    )
    expected = nets.mean(axis=1)
    best = int(np.argmax(expected))
    good = [
        share
        for share, net in zip(SHARES, expected, strict=True)
        if expected[best] - net <= EQUAL * abs(expected[best])
    ]
    share = SHARES[best] if wanted is None else wanted
    domain = law.forecast((1 - share) * tokens, text, share * tokens)
    return {
        "best": SHARES[best],
        "as_good": [good[0], good[-1]],
        "share": share,
        "domain": loss_and_change(domain, base)[0],
        "forgetting": value(forgetting.forecast(tokens, share, text)),
        "net_gain": value(base - domain - forgetting.forecast(tokens, share, text)),
        "shares": [
            {"share": each, "net_gain": float(net)} for each, net in zip(SHARES, expected, strict=True)
        ],
    }


def _passes(law: Law, text: float, most: float) -> Passes:
    """Return after how many passes over the text another one no longer helps.

    ``limit`` is how many the forecast reaches; ``value`` is ``None`` where another one helps up to there in most draws.
    """
    limit = int(min(most / text, _MOST_PASSES))
    if limit < 1:
        return {"value": None, "interval": None, "limit": most / text}
    curve = np.stack([law.expected(number * text, text) for number in range(1, limit + 2)])
    helps = 1 - curve[1:] / curve[:-1] >= LEAST_PASS
    last = np.where(helps.all(axis=0), np.inf, np.argmin(helps, axis=0) + 1)
    low, middle, high = np.quantile(last, [0.05, 0.5, 0.95], method="nearest")
    known = np.isfinite(middle)
    return {
        "value": int(middle) if known else None,
        "interval": [int(low), int(high) if np.isfinite(high) else None] if known else None,
        "limit": limit,
    }


def _curve(probed: Probed, law: Law, forgetting: Forgetting | None) -> list[CurvePoint]:
    """Return the forecast over the tokens, for the charts."""
    tokens, base = probed.longest.tokens, probed.base_losses
    shortest = min(probe.tokens for probe in probed.of("length"))
    rows = []
    for at in np.geomspace(shortest, FACTORS[-1] * tokens, 41):
        domain, _ = loss_and_change(law.forecast(at, probed.text_tokens), base)
        lost = None if forgetting is None else value(forgetting.forecast(at, 0.0, probed.text_tokens))
        rows.append(CurvePoint(tokens=float(at), domain=domain, forgetting=lost))
    return rows


def _rates(probed: Probed) -> list[dict[str, Any]]:
    """Compare runs at other learning rates with the one of the same length, paired over documents."""
    rows = []
    for probe in probed.of("rate"):
        same = [other for other in probed.of("length") if other.run.steps == probe.run.steps]
        if not same:
            continue
        row: dict[str, Any] = {"factor": probe.run.rate, "tokens": probe.tokens}
        for text in probe.sums:
            losses = probed.losses([same[0], probe], text)[1]
            change = value(losses[:, 1] / losses[:, 0] - 1)
            change["value"] = float(losses[0, 1] / losses[0, 0] - 1)
            row[text] = change
        rows.append(row)
    return rows
