"""From probing runs to a forecast: the laws that are fitted to them, and what follows where these hold.

Where the law does not hold, there is a reason instead of a number.

Shapes: B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unmask.errors import plural
from unmask.evaluation.bootstrap import Floats
from unmask.forecasting import forgetting as forgetting_law
from unmask.forecasting import law as domain_law
from unmask.forecasting.forgetting import Forgetting
from unmask.forecasting.horizons import FACTORS, curve, horizon, passes
from unmask.forecasting.law import Law, Points, interval, value
from unmask.forecasting.probing import Probe, Probed
from unmask.reporting.format import percent
from unmask.storage import JsonDict

_FEWEST_LENGTHS = 4
_BACK = 4
_MOST_ERROR = 0.15
_FINE = 0.002
"""An error of this share of the loss is small whatever was gained."""


def analyse(probed: Probed, wanted_share: float | None = None) -> dict[str, Any]:
    """Return the forecast as plain values, see :class:`unmask.forecasting.forecast.Forecast`.

    Args:
        probed: the measurements.
        wanted_share: the replay share of the run that is planned; by default the best.
    """
    domain, law = _domain(probed)
    lost, forgetting = _forgetting(probed)
    tokens = probed.longest.tokens if probed.of("length") else 0
    horizons = [horizon(probed, law, forgetting, factor, factor * tokens, wanted_share) for factor in FACTORS]
    reach = max((row["tokens"] for row in horizons if row["domain"]), default=0)
    return {
        "domain": domain,
        "forgetting": lost,
        "horizons": horizons,
        "passes": None if law is None or not reach else passes(law, probed.text_tokens, reach),
        "curve": [] if law is None else curve(probed, law, forgetting),
        "rates": _rates(probed),
    }


def _domain(probed: Probed) -> tuple[dict[str, Any], Law | None]:
    """Return how the law of the domain loss fits, and the law where it holds."""
    lengths = probed.of("length")
    if len(lengths) < _FEWEST_LENGTHS:
        reason = f"only {plural(len(lengths), 'run')} of different length ended in time, and the law takes {_FEWEST_LENGTHS}"
        return {"decision": "cannot tell", "reasons": [reason]}, None
    probes = probed.of("length", "repeats", "replay")
    base, points = probed.points(probes, "domain")
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
    base, points = probed.points(probes, "general")
    rises = points.losses - base[:, None]
    law = forgetting_law.fit(points.tokens, points.general, points.text, rises, float(base[0]), probed.seed)
    error = float(np.median(law.error))
    spread = float(np.ptp(np.append(rises[0], 0.0)))
    names = {"jump": law.jump, "rise": law.rise, "beta": law.beta, "offset": law.offset}
    if points.general.any():
        names |= {"shield": law.shield, "learned": law.learned}
    if (points.text < points.text.max()).any():
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
