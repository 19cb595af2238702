"""What follows from the laws at a number of tokens: losses, replay, passes that help, and what more text is worth.

Shapes: B draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unmask.evaluation.bootstrap import Floats
from unmask.evaluation.verdict import NO_GAIN
from unmask.forecasting.forgetting import Forgetting
from unmask.forecasting.law import Law, value
from unmask.forecasting.probing import Probed, mean_loss
from unmask.reporting.json_documents import CurvePoint, Expected, ForecastReplay, MoreText, Passes

FACTORS = (10, 100)
"""A forecast is of so many times the tokens of the longest probing run."""
LEAST_PASS = 0.001
"""A pass over the text helps while it lowers the expected loss by this share."""
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Replay shares that are compared."""
EQUAL = 0.05
"""Shares whose net gain is lower than the best by at most this part of it are as good."""

_WIDEST = 0.25
_MOST_PASSES = 1_000
_MORE_TEXT = (2, 10)
_ENOUGH = 64


def horizon(
    probed: Probed,
    law: Law | None,
    forgetting: Forgetting | None,
    factor: float,
    tokens: float,
    wanted: float | None,
) -> dict[str, Any]:
    """Return the forecast for so many tokens in all."""
    text, base = float(probed.text_tokens), probed.base_losses
    found: dict[str, Any] = {"factor": factor, "tokens": int(tokens), "passes": tokens / text}
    found |= dict.fromkeys(("domain", "change", "forgetting", "replay", "more_text", "reason"))
    wide = []
    if law is not None:
        domain, change = loss_and_change(law.forecast(tokens, text), base)
        if _too_wide(domain, domain["value"]):
            wide.append("every loss from {:.2f} to {:.2f}".format(*domain["interval"]))
            law = None
        else:
            found |= {"domain": domain, "change": change, "more_text": _more_text(law, tokens, text)}
    if forgetting is not None:
        lost = value(forgetting.forecast(tokens, 0.0, text))
        if _too_wide(lost, mean_loss(probed.base["general"])):
            wide.append("every change of the general loss from {:+.2f} to {:+.2f}".format(*lost["interval"]))
        else:
            found["forgetting"] = lost
    if wide:
        found["reason"] = (
            f"for {factor:g} times the tokens {' and '.join(wide)} agrees with the runs; longer runs (--minutes) would narrow that"
        )
    if law is not None and forgetting is not None and probed.of("replay"):
        found["replay"] = _replay(law, forgetting, tokens, text, base, wanted)
    return found


def loss_and_change(draws: Floats, base: Floats) -> tuple[Expected, Expected]:
    """Return a forecast of the loss and its change relative to the base, from ``[B]`` each.

    The change is paired over the resampled documents; the loss is that change of the base as it was measured, and its interval
    has the noise of the documents too.
    """
    change = value(draws / base - 1)
    middle = float(base[0]) * (1 + change["value"])
    loss = value(draws * (middle / float(np.median(draws))))
    loss["value"] = middle
    return loss, change


def _too_wide(found: Expected, loss: float) -> bool:
    """Tell whether the interval of a forecast is so wide, compared with the loss, that it says too little."""
    low, high = found["interval"]
    return high - low > _WIDEST * loss


def _more_text(law: Law, tokens: float, text: float) -> MoreText:
    """Return what more text would change at the same number of tokens trained on, and how much would be enough."""
    now = law.expected(tokens, text)
    if tokens <= text:
        return {"used_up": False, "rows": [], "enough": None}
    rows = []
    for factor in _MORE_TEXT:
        change = value(law.expected(tokens, factor * text) / now - 1)
        worth = change["value"] <= -NO_GAIN
        rows.append({"factor": factor, "tokens": int(factor * text), "change": change, "worth": worth})
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


def passes(law: Law, text: float, most: float) -> Passes:
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


def curve(probed: Probed, law: Law, forgetting: Forgetting | None) -> list[CurvePoint]:
    """Return the forecast over the tokens, for the charts."""
    tokens, base = probed.longest.tokens, probed.base_losses
    shortest = min(probe.tokens for probe in probed.of("length"))
    rows = []
    for at in np.geomspace(shortest, FACTORS[-1] * tokens, 41):
        domain, _ = loss_and_change(law.forecast(at, probed.text_tokens), base)
        lost = None if forgetting is None else value(forgetting.forecast(at, 0.0, probed.text_tokens))
        rows.append(CurvePoint(tokens=float(at), domain=domain, forgetting=lost))
    return rows
