"""A forecast in sentences, from what ``unmask forecast`` prints with ``--json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from unmask.errors import plural
from unmask.reporting.format import as_float, count, loss, percent
from unmask.storage import JsonDict

CANNOT_TELL = "It cannot be told from these runs what more training brings."


def interval_text(found: JsonDict, text: Callable[[Any], str]) -> str:
    """Return a value with its interval: ``3.512 (3.401 to 3.598)``."""
    low, high = (text(end).replace("-", "−") for end in found["interval"])
    return f"{text(found['value'])} ({low} to {high})".replace("-", "−")


def absent(found: JsonDict) -> str:
    """Return why a forecast has no value for forgetting, or for replay, which rests on it."""
    return "not measured" if found["forgetting"]["decision"] == "unknown" else "cannot tell"


def change_text(found: JsonDict) -> str:
    """Return a relative change with its interval, in percent."""
    return interval_text(found, lambda share: f"{100 * as_float(share):+z.1f}%")


def conclusions(found: JsonDict) -> Iterator[str]:
    """Yield what follows from a forecast: passes, replay and more text."""
    if found["domain"]["decision"] != "forecast":
        yield CANNOT_TELL
    else:
        yield passes_sentence(found["passes"])
    for row in found["horizons"]:
        if row["replay"]:
            yield replay_sentence(row)
    for row in found["horizons"]:
        if row["more_text"]:
            yield more_text_sentence(row)


def passes_sentence(found: JsonDict | None) -> str:
    """After how many passes over the text another one no longer helps."""
    limit = as_float((found or {}).get("limit"))
    if found is None or limit < 1:
        return (
            f"Passes over the text: cannot tell, one is longer than the forecast reaches ({limit:.2g} of it)."
        )
    if found["value"] is None:
        return f"Another pass over the text still helps after {plural(found['limit'], 'pass', 'passes')}, as far as the forecast reaches."
    low, high = found["interval"]
    upper = f"more than {found['limit']:,}" if high is None else f"{high:,}"
    return (
        f"After {plural(found['value'], 'pass', 'passes')} over the text ({low:,} to {upper}) another one lowers the loss by less "
        f"than 0.1%."
    )


def replay_sentence(row: JsonDict) -> str:
    """The best replay share, what it costs and what it keeps."""
    replay = row["replay"]
    low, high = replay["as_good"]
    range_ = "" if low == high else f"; from {percent(low, 0)} to {percent(high, 0)} it is about as high"
    share = "no replay has" if replay["best"] == 0 else f"a replay share of {percent(replay['best'], 0)} has"
    return (
        f"With {row['factor']} x the tokens {share} the highest net gain (fall of the domain loss less rise of the general loss){range_}. "
        f"At {percent(replay['share'], 0)}: domain loss {interval_text(replay['domain'], loss)}, general loss "
        f"{interval_text(replay['forgetting'], lambda value: loss(value, signed=True))}."
    )


def more_text_sentence(row: JsonDict) -> str:
    """Whether more text is worth collecting for so many tokens."""
    found = row["more_text"]
    if not found["used_up"]:
        return f"{row['factor']} x the tokens are less than one pass over the text, so more text would change nothing."
    worth = [each for each in found["rows"] if each["worth"]]
    changes = ", ".join(
        f"{each['factor']} x the text {change_text(each['change'])}" for each in found["rows"]
    )
    if not worth:
        return f"With {row['factor']} x the tokens more text is not worth collecting: it changes the loss by less than 0.5% ({changes})."
    enough = found["enough"]
    return (
        f"With {row['factor']} x the tokens more text is worth collecting ({changes}); {count(_round(enough['value']))} tokens "
        f"({count(_round(enough['interval'][0]))} to {count(_round(enough['interval'][1]))}) are enough, within 0.5% of the loss."
    )


def _round(value: float) -> float:
    return float(f"{value:.2g}")


def headline(found: JsonDict) -> str:
    """The main result in one sentence."""
    row = found["horizons"][0]
    if row["domain"] is None:
        return CANNOT_TELL
    lost = (
        "forgetting was not measured, which takes general text"
        if row["forgetting"] is None and found["forgetting"]["decision"] == "unknown"
        else "forgetting cannot be told"
        if row["forgetting"] is None
        else f"the loss on general text changes by {interval_text(row['forgetting'], lambda value: loss(value, signed=True))} nats without replay"
    )
    return (
        f"With {count(row['tokens'])} tokens ({row['factor']} x the longest probing run) the domain loss is expected at "
        f"{interval_text(row['domain'], loss)}, {change_text(row['change'])} from {loss(found['base']['domain']['value'])}; {lost}."
    )
