"""What adapting a checkpoint changed, in words and tables: the section of the page and of the model card about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unmask.reporting import plots
from unmask.reporting.cells import Cell, change_cell, metric_cell
from unmask.reporting.format import METRICS, as_float, count, loss, percent, plural, points
from unmask.reporting.plots import Row
from unmask.reporting.record import RunRecord

Found = Mapping[str, Any]

_GAIN = 0.99
"""After this share of the whole fall in held-out loss, what came is called no further gain."""


@dataclass(frozen=True)
class Line:
    """A row of a table: what it is about, both models, their difference."""

    name: str
    before: Cell
    after: Cell
    change: Cell


@dataclass(frozen=True)
class Group:
    """Targets of one kind with the share that each model fills in exactly."""

    label: str
    masked_tokens: int
    before: float
    after: float
    change: Cell


# ---- sentences


def headline(found: Found) -> str:
    """The verdict: one sentence with its figures."""
    domain = found["domain"]
    change, (before, after) = domain["change"], (domain[side]["accuracy"] for side in ("before", "after"))
    gap = as_float(change["accuracy"]["value"])
    sign = _sign(change["accuracy"])
    if math.isnan(gap) or math.isnan(as_float(domain["after"]["loss"])):
        return "On held-out text of the domain the figures of base or adapted model are not finite numbers."
    figures = f"{percent(before)} → {percent(after)}, {_signed(change['accuracy'])}"
    if sign == 0 and change["accuracy"]["interval"] is not None:
        said = f"base and adapted model cannot be told apart by the masked tokens they fill in exactly: {figures}"
        return f"On held-out text of the domain {said}{_loss_clause(change)}{_general_clause(found)}."
    more = "as many" if gap == 0 else "more" if gap > 0 else "fewer"
    share = f"{_share(change['relative_accuracy'])}{more} masked tokens exactly {'as' if gap == 0 else 'than'} the base"
    return f"On held-out text of the domain the adapted model fills in {share}: {figures}{_general_clause(found)}."


def _share(relative: Found | None) -> str:
    """How many percent more or fewer."""
    size = abs(100 * as_float(relative["value"])) if relative else math.nan
    return "" if math.isnan(size) or size == 0 else f"{size:.0f}% " if size >= 9.5 else f"{size:.1f}% "


def _loss_clause(change: Found) -> str:
    if _sign(change["loss"]) == 0:
        return ""
    gap = as_float(change["loss"]["value"])
    return f"; its loss {'fell' if gap < 0 else 'rose'} by {loss(abs(gap))} nats"


def _general_clause(found: Found) -> str:
    if found["forgetting"] is None:
        return "; what it forgot is not known, since no general text was measured"
    lost = found["forgetting"]["accuracy"]
    value = as_float(lost["value"])
    if math.isnan(value):
        return "; on general text the figures are not finite numbers"
    if lost["interval"] is not None and _sign(lost) == 0:
        return (
            f"; on general text no difference can be told: {_signed(found['general']['change']['accuracy'])}"
        )
    return f"; on general text it {'lost' if value > 0 else 'gained'} {points(abs(value))}{_between(lost)}"


def _signed(change: Found) -> str:
    return points(as_float(change["value"]), signed=True) + _between(change, brackets=False)


def _between(change: Found, brackets: bool = True) -> str:
    """The interval of a difference of shares, in points and without a sign that the words already say."""
    if change["interval"] is None:
        return " (too few documents for an interval)" if brackets else "; too few documents for an interval"
    ends = [100 * as_float(end) for end in change["interval"]]
    if brackets and as_float(change["value"]) < 0:
        ends = [-end for end in reversed(ends)]
    text = f"95% interval {ends[0]:.1f} to {ends[1]:.1f}".replace("-", "−")
    return f" ({text})" if brackets else f" (95% interval {ends[0]:+.1f} to {ends[1]:+.1f})".replace("-", "−")


def _sign(change: Found) -> int:
    """Return 1 or -1 for a difference whose interval leaves zero out, otherwise 0."""
    if change["interval"] is None:
        return 0
    low, high = (as_float(end) for end in change["interval"])
    return 1 if low > 0 else -1 if high < 0 else 0


@dataclass(frozen=True)
class Course:
    """How the held-out loss went.

    Attributes:
        said: it in a sentence.
        reached: the evaluation by which nearly all of the gain had come, or ``None`` where there was none.
        exported: the evaluation whose weights are exported, or ``None`` where none is known.
    """

    said: str
    reached: Row | None
    exported: Row | None


def course(record: RunRecord) -> Course | None:
    """Find the point of no further gain; ``None`` where the curve does not say."""
    evaluation = record.evaluation or {}
    rows = [row for row in record.heldout if not math.isnan(as_float(row["eval_loss"]))]
    start = as_float((evaluation.get("before") or {}).get("loss"))
    if not rows or math.isnan(start):
        return None
    lowest, last = min(rows, key=lambda row: row["eval_loss"]), rows[-1]
    exported = next((row for row in rows if row["step"] == evaluation.get("step")), None)
    taken = f" The weights of step {count(exported['step'])} are exported." if exported else ""
    gain = start - lowest["eval_loss"]
    if gain <= 0:
        return Course(f"The held-out loss never fell below that of the base.{taken}", None, exported)
    reached = next(row for row in rows if start - row["eval_loss"] >= _GAIN * gain)
    share = f"{_GAIN:.0%} of the whole fall in held-out loss had come by step {count(reached['step'])}"
    if reached is last:
        said = (
            f"The held-out loss was still falling when training ended (step {count(last['step'])}); "
            f"longer training may gain more."
        )
    elif lowest is last:
        said = f"{share} of {count(last['step'])}; what came after was hardly a gain."
    else:
        said = f"No further gain came after step {count(lowest['step'])} of {count(last['step'])}; {share}."
    return Course(said + taken, reached, exported)


# ---- tables


def lines(part: Found) -> list[Line]:
    """The table of one text: accuracy, loss and perplexity of both models."""
    return [
        Line(
            METRICS[key],
            metric_cell(part["before"], key),
            metric_cell(part["after"], key),
            _change(part, key),
        )
        for key in ("accuracy", "loss", "perplexity")
    ]


def _change(part: Found, key: str) -> Cell:
    if key != "perplexity":
        return change_cell(part["change"][key], key)
    before, after = (as_float(part[side]["perplexity"]) for side in ("before", "after"))
    ratio = after / before - 1 if before else math.nan
    return Cell("–" if math.isnan(ratio) else f"{100 * ratio:+.1f}%".replace("-", "−"))


def groups(found: Found) -> list[Group]:
    """By frequency of the token, then the words that were added to the vocabulary."""
    return list(_groups(found))


def _groups(found: Found) -> Iterator[Group]:
    rows = [(row["label"], row) for row in found["by_frequency"]["rows"]]
    added = found.get("added_words")
    if added and added["masked_tokens"]:
        rows.append(("added words", added))
    for label, row in rows:
        before, after = (as_float(row[side]["accuracy"]) for side in ("before", "after"))
        change = change_cell(row["change"]["accuracy"], "accuracy")
        yield Group(label, int(row["masked_tokens"]), before, after, change)


def forgetting(found: Found) -> str | None:
    """What the general text lost or gained, as a loss."""
    if found["forgetting"] is None:
        return None
    rise = found["forgetting"]["loss"]
    value = as_float(rise["value"])
    if _sign(rise) == 0 and rise["interval"] is not None:
        return f"Forgetting: the loss on general text changed by {loss(value, signed=True)} nats, which may be chance."
    if value < 0:
        return f"Nothing was forgotten: the loss on general text fell by {loss(-value)} nats."
    return f"Forgetting: the loss on general text rose by {loss(value)} nats."


def added_note(found: Found) -> str | None:
    """What to know of words that were added to the vocabulary."""
    added = found.get("added_words")
    if not added:
        return None
    said = f"The vocabulary of the base was extended by {plural(added['words'], 'word')} before this run"
    if not added["masked_tokens"]:
        return f"{said}; none of them is among the masked tokens."
    return f"{said}; in the base their embeddings are the mean of the pieces they replace."


def section(record: RunRecord) -> dict[str, Any] | None:
    """What the template of the section takes, or ``None`` for a run without ``adaptation.json``."""
    found = record.adaptation
    if found is None:
        return None
    texts = [("Text of the domain", found["domain"]), ("General text", found["general"])]
    return {
        "found": found,
        "texts": [(name, part, lines(part)) for name, part in texts if part is not None],
        "forgetting": forgetting(found),
        "groups": groups(found),
        "counted_on": found["by_frequency"]["counted_on"],
        "added": added_note(found),
        "chart": _chart(record),
        "examples": found["examples"],
    }


def _chart(record: RunRecord) -> plots.Chart | None:
    evaluation, at = record.evaluation or {}, course(record)
    if at is None:
        return None
    start = {"eval_loss": evaluation["before"]["loss"]}
    if general := (evaluation.get("general") or {}).get("before"):
        start["general_loss"] = general["loss"]
    marks: list[tuple[str, plots.Role, Row]] = []
    if at.reached is not None:
        marks.append((f"{_GAIN:.0%} of the gain, step {count(at.reached['step'])}", "quiet", at.reached))
    if at.exported is not None:
        marks.append((f"exported, step {count(at.exported['step'])}", "train", at.exported))
    return plots.course_chart(record.heldout, start, marks)
