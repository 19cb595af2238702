"""Base and adapted model compared, in sentences and tables: a section of the report and of the model card."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unmask.errors import plural
from unmask.reporting import plots
from unmask.reporting.cells import Cell, change_cell, metric_cell
from unmask.reporting.drawing import Chart, Role
from unmask.reporting.format import (
    METRICS,
    as_float,
    change_interval,
    count,
    loss,
    masks,
    no_interval,
    percent,
    points,
)
from unmask.reporting.record import RunRecord
from unmask.storage import JsonDict

_GAIN = 0.99
"""Share of the total decrease of the held-out loss after which training hardly gained more."""


@dataclass(frozen=True)
class Line:
    """A row of a table: a metric of both models and its difference."""

    name: str
    before: Cell
    after: Cell
    change: Cell


@dataclass(frozen=True)
class Group:
    """A group of targets with the accuracy of each model."""

    label: str
    masked_tokens: int
    before: float
    after: float
    change: Cell


# ---- sentences


def headline(found: JsonDict, no_gain: str | None = None) -> str:
    """The main result in one sentence: accuracy and loss on domain text before and after, and accuracy on general text.

    Args:
        found: the content of ``adaptation.json``.
        no_gain: why the adapted model is no gain whatever its accuracy, in a sentence.
    """
    domain, where = found["domain"], f"On held-out domain text ({masks(found)})"
    change, (before, after) = domain["change"], (domain[side]["accuracy"] for side in ("before", "after"))
    gap = as_float(change["accuracy"]["value"])
    if math.isnan(gap) or math.isnan(as_float(domain["after"]["loss"])):
        return "On held-out domain text the metrics of the base or the adapted model are NaN or infinite."
    metrics = f"accuracy {percent(before)} → {percent(after)}, {_signed(change['accuracy'], domain)}"
    if no_gain:
        return f"{where}: {metrics}{_general_clause(found)}. {no_gain}"
    if _sign(change["accuracy"]) == 0 and change["accuracy"]["interval"] is not None:
        said = f"the accuracy of base and adapted model does not differ significantly: {metrics}"
        return f"{where} {said}{_loss_clause(change)}{_general_clause(found)}."
    more = "as many" if gap == 0 else "more" if gap > 0 else "fewer"
    share = f"{_share(change['relative_accuracy'])}{more} masked tokens correctly {'as' if gap == 0 else 'than'} the base"
    return f"{where} the adapted model predicts {share}: {metrics}{_loss_clause(change)}{_general_clause(found)}."


def _share(relative: JsonDict | None) -> str:
    """How many percent more or fewer."""
    size = abs(100 * as_float(relative["value"])) if relative else math.nan
    return "" if math.isnan(size) or size == 0 else f"{size:.0f}% " if size >= 9.5 else f"{size:.1f}% "


def _loss_clause(change: JsonDict) -> str:
    gap = as_float(change["loss"]["value"])
    said = f"; its loss {'fell' if gap < 0 else 'rose'} by {loss(abs(gap))} nats"
    return (
        said
        if _sign(change["loss"]) or change["loss"]["interval"] is None
        else f"{said}, which is not significant"
    )


def _general_clause(found: JsonDict) -> str:
    if found["general"] is None or found["forgetting"] is None:
        return "; forgetting was not measured (no general text)"
    general = found["general"]
    change = general["change"]["accuracy"]
    if math.isnan(as_float(change["value"])):
        return "; on general text the metrics are NaN or infinite"
    unclear = change["interval"] is not None and _sign(change) == 0
    return f"; on general text {'no significant difference' if unclear else 'accuracy changed'}: {_signed(change, general)}"


def _signed(change: JsonDict, part: JsonDict) -> str:
    span = change_interval("accuracy", change["interval"])
    after = f" (95% interval {span})" if span else f"; {no_interval(part.get('texts'))}"
    return points(change["value"], signed=True) + after


def _sign(change: JsonDict) -> int:
    """Return 1 or -1 for a difference whose interval leaves zero out, otherwise 0."""
    if change["interval"] is None:
        return 0
    low, high = (as_float(end) for end in change["interval"])
    return 1 if low > 0 else -1 if high < 0 else 0


@dataclass(frozen=True)
class Course:
    """The course of the held-out loss.

    Attributes:
        sentence: it in words.
        reached: the first evaluation with nearly all of the gain, or ``None`` where there was none.
        exported: the evaluation whose weights are exported, or ``None`` where none is known.
    """

    sentence: str
    reached: JsonDict | None
    exported: JsonDict | None


def _start(evaluation: Mapping[str, Any]) -> float:
    """The loss of the base on the text of the curve; earlier versions had one held-out text for all."""
    selection = evaluation.get("selection") or {}
    return as_float((selection.get("before") or evaluation.get("before") or {}).get("loss"))


def chosen_on(evaluation: Mapping[str, Any]) -> str | None:
    """On which documents the weights were chosen."""
    selection = evaluation.get("selection")
    if not selection:
        return None
    documents = plural(selection["documents"], "held-out document")
    return (
        f"{documents}, the same as reported"
        if selection["is_reported"]
        else f"{documents} that are not in the metrics"
    )


def course(record: RunRecord) -> Course | None:
    """Find the evaluation after which the held-out loss hardly improved; ``None`` without a base or a curve."""
    evaluation = record.evaluation or {}
    rows = [row for row in record.heldout if not math.isnan(as_float(row["eval_loss"]))]
    start = _start(evaluation)
    if not rows or math.isnan(start):
        return None
    lowest, last = min(rows, key=lambda row: row["eval_loss"]), rows[-1]
    exported = next((row for row in rows if row["step"] == evaluation.get("step")), None)
    selection = evaluation.get("selection")
    other = f", chosen on {chosen_on(evaluation)}" if selection and not selection["is_reported"] else ""
    taken = f" The weights of step {count(exported['step'])} are exported{other}." if exported else ""
    gain = start - lowest["eval_loss"]
    if gain <= 0:
        return Course(f"The held-out loss was never lower than that of the base.{taken}", None, exported)
    reached = next(row for row in rows if start - row["eval_loss"] >= _GAIN * gain)
    share = f"{_GAIN:.0%} of the decrease of the held-out loss was reached at step {count(reached['step'])}"
    if reached is last:
        said = (
            f"The held-out loss was still falling when training ended (step {count(last['step'])}); "
            f"longer training may gain more."
        )
    elif lowest is last:
        said = f"{share} of {count(last['step'])}; later steps gained little."
    else:
        said = f"The held-out loss did not improve after step {count(lowest['step'])} of {count(last['step'])}; {share}."
    return Course(said + taken, reached, exported)


# ---- tables


def lines(part: JsonDict) -> list[Line]:
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


def _change(part: JsonDict, key: str) -> Cell:
    if key != "perplexity":
        return change_cell(part["change"][key], key)
    before, after = (as_float(part[side]["perplexity"]) for side in ("before", "after"))
    ratio = after / before - 1 if before else math.nan
    return Cell("–" if math.isnan(ratio) else f"{100 * ratio:+.1f}%".replace("-", "−"))


def groups(found: JsonDict) -> Iterator[Group]:
    """Yield the accuracy by frequency of the token, then at words that were added to the vocabulary."""
    rows = [(row["label"], row) for row in found["by_frequency"]["rows"]]
    added = found.get("added_words")
    if added and added["masked_tokens"]:
        rows.append(("added words", added))
    for label, row in rows:
        before, after = (as_float(row[side]["accuracy"]) for side in ("before", "after"))
        change = change_cell(row["change"]["accuracy"], "accuracy")
        yield Group(label, int(row["masked_tokens"]), before, after, change)


def forgetting(found: JsonDict, vocabulary: object = None) -> str | None:
    """The change of the loss on general text; a base that knows nothing of it, by the size of its vocabulary, has none."""
    if found["forgetting"] is None:
        return None
    base, entries = as_float(found["general"]["before"]["loss"]), as_float(vocabulary)
    if entries > 1 and base >= math.log(entries):
        return f"Forgetting cannot be told: the base predicts general text no better than chance (loss {loss(base)})."
    rise = found["forgetting"]["loss"]
    value = as_float(rise["value"])
    if _sign(rise) == 0 and rise["interval"] is not None:
        return f"Forgetting: the loss on general text changed by {loss(value, signed=True)} nats; its 95% interval contains 0."
    if rise["interval"] is None:
        return f"Forgetting: the loss on general text changed by {loss(value, signed=True)} nats; {no_interval(found['general'].get('texts'))}."
    if value < 0:
        return f"Nothing was forgotten: the loss on general text fell by {loss(-value)} nats."
    return f"Forgetting: the loss on general text rose by {loss(value)} nats."


def added_note(found: JsonDict) -> str | None:
    """A note on words that were added to the vocabulary."""
    added = found.get("added_words")
    if not added:
        return None
    said = f"The vocabulary of the base was extended by {plural(added['words'], 'word')} before this run"
    if not added["masked_tokens"]:
        return f"{said}; none of them is among the masked tokens."
    return f"{said}; in the base their embeddings are the mean of the subwords they replace."


_DECISIONS = {
    "use": "Use it",
    "use with alpha": "Use it with alpha {alpha:g}",
    "do not use": "Do not use it",
    "cannot tell": "It cannot be told whether to use it",
}


def verdict_text(found: JsonDict) -> str:
    """The verdict of ``adaptation.json`` in words: the decision and its reason."""
    mixed = (
        f" (weights mixed at alpha {found['alpha']:g})"
        if found["decision"] == "use" and found["alpha"] < 1
        else ""
    )
    return f"{_DECISIONS[found['decision']].format(alpha=found['alpha'])}{mixed}. {found['reason']}"


def section(record: RunRecord) -> dict[str, Any] | None:
    """What the template of the section takes, or ``None`` for a run without ``adaptation.json``."""
    found = record.adaptation
    if found is None:
        return None
    texts = [("Domain text", found["domain"]), ("General text", found["general"])]
    return {
        "found": found,
        "masks": masks(found),
        "texts": [(name, part, lines(part)) for name, part in texts if part is not None],
        "forgetting": forgetting(found, record.info.get("vocabulary")),
        "groups": list(groups(found)),
        "counted_on": found["by_frequency"]["counted_on"],
        "added": added_note(found),
        "chart": _chart(record),
        "trade_off": trade_off(found.get("interpolation")),
        "verdict": verdict_text(found["verdict"]) if found.get("verdict") else None,
        "examples": found["examples"],
    }


@dataclass(frozen=True)
class TradeOff:
    """The mixtures of base and adapted weights: a chart, a row for each alpha, and what was exported."""

    chart: Chart
    rows: list[tuple[str, Cell, str, Cell, str]]
    notes: list[str]


def trade_off(mixed: JsonDict | None) -> TradeOff | None:
    """Gain on the domain against forgetting over alpha; ``None`` without general text."""
    points = (mixed or {}).get("points") or []
    if mixed is None or not points or "general" not in points[0]:
        return None
    rows = [
        (
            f"{each['alpha']:g}",
            _relative(each["domain"]),
            _share_of(points, each, "domain"),
            _relative(each["general"]),
            _share_of(points, each, "general"),
        )
        for each in points
    ]
    return TradeOff(plots.trade_off_chart(points, mixed["alpha"]), rows, list(_mixing_notes(mixed)))


def _relative(part: JsonDict) -> Cell:
    change = part["relative"]
    ends = " to ".join(f"{100 * as_float(end):+.1f}".replace("-", "−") for end in change["interval"] or ())
    return Cell(f"{100 * as_float(change['value']):+.1f}%".replace("-", "−"), ends)


def _share_of(points: list[JsonDict], at: JsonDict, text: str) -> str:
    """A change as a share of that at alpha 1; nothing where that is not a gain, or not a loss on general text."""
    whole, own = (as_float(each[text]["change"]["value"]) for each in (points[-1], at))
    return (
        f"{round(100 * own / whole)}%".replace("-", "−")
        if (whole < 0 if text == "domain" else whole > 0)
        else "–"
    )


def _mixing_notes(mixed: JsonDict) -> Iterator[str]:
    yield f"Exported: alpha {mixed['alpha']:g}."
    limit = (
        "" if mixed["limit"] is None else f" at most {percent(mixed['limit'], 2)} of the loss on general text"
    )
    what = "the given limit" if mixed["limit_given"] else "half of what alpha 1 forgets"
    if chosen := mixed.get("decided_on"):
        sizes = (plural(chosen[f"{name}_documents"], f"{name} document") for name in ("domain", "general"))
        said = " and ".join(sizes)
        yield (
            f"It was chosen on {said}{', the same as reported, so the figures are too good by what the choice gains' if chosen['is_reported'] else ' that are not in these figures'}: "
            f"the lowest loss on the domain whose forgetting is within {what}{',' if limit else ''}{limit}."
        )
        if mixed["suggested"] is None:
            yield "No mixture is within the limit, so the adapted weights are exported unmixed."
    if left := mixed.get("not_mixed"):
        yield f"{plural(len(left), 'weight')} that the base lacks are the same at every alpha: {', '.join(left[:3])}."


def _chart(record: RunRecord) -> Chart | None:
    evaluation, at = record.evaluation or {}, course(record)
    if at is None:
        return None
    start = {"eval_loss": _start(evaluation)}
    if general := (evaluation.get("general") or {}).get("before"):
        start["general_loss"] = general["loss"]
    marks: list[tuple[str, Role, JsonDict]] = []
    if at.reached is not None:
        marks.append((f"{_GAIN:.0%} of the gain, step {count(at.reached['step'])}", "quiet", at.reached))
    if at.exported is not None:
        marks.append((f"exported, step {count(at.exported['step'])}", "train", at.exported))
    return plots.course_chart(record.heldout, start, marks)
