"""Whether to use an adapted model: one decision from what it gained, what it forgot, held-out text that was trained on, and a task.

Gain and forgetting are shares of the base's loss, each with a paired 95% interval over documents; of a task, the difference of its metric has one over test examples and seeds. A decision is made only
where the intervals allow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unmask.config.requirements import Requirement
from unmask.errors import plural
from unmask.evaluation.bootstrap import FEW_UNITS
from unmask.reporting.format import (
    PROBE_METRICS,
    as_float,
    behind_ngram,
    no_gain_over_frequency,
    no_interval,
    percent,
    points,
)
from unmask.storage import JsonDict

MOST_LEAKS = 0.01
"""With a larger share of held-out documents that occur in the training text, the metrics decide nothing."""
NO_GAIN = 0.005
"""Where the interval of the gain ends below this, there is no gain worth having."""
KEEPS = 0.8
"""A mixture is recommended instead of the adapted weights if it keeps this share of the gain."""


def verdict(
    found: JsonDict,
    overlap: Mapping[str, JsonDict],
    requirements: Sequence[Requirement] = (),
    evaluation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Decide on an adapted model.

    Args:
        found: the content of ``adaptation.json``: ``domain``, ``general``, ``interpolation`` and ``probes``.
        overlap: of ``run.json``: held-out documents that occur in the training text.
        requirements: what the model must reach.
        evaluation: of the adapted model, with its baselines; one that is worse than the frequency of tokens is no gain, and one
            that is worse than the n-gram model is not to be used.

    Returns:
        ``decision`` (``use``, ``use with alpha``, ``do not use`` or ``cannot tell``), the ``alpha`` that it is about, ``reason`` in a
        sentence, the ``measures`` (value and interval), and the ``requirements``, each with ``holds``.
    """
    measures = _measures(found, overlap)
    mixed = found.get("interpolation") or {}
    required: list[dict[str, Any]] = [
        {
            "text": each.text,
            "measure": each.measure,
            **measures[each.measure],
            "holds": each.holds(as_float(measures[each.measure]["value"])),
        }
        if _is_judged(measures, each)
        else {"text": each.text, "measure": each.measure, "value": None, "interval": None, "holds": False}
        for each in requirements
    ]
    decision, alpha, reason = _decision(found, measures, mixed, requirements)
    worse = no_gain_over_frequency(evaluation or {})
    if decision in ("use", "use with alpha"):  # too few documents tell no more of the n-gram model
        worse = worse or behind_ngram(evaluation or {})
    if worse and not _leaks(measures):
        decision, alpha = "do not use", float(mixed.get("alpha", 1.0))
        reason = f"{_change_of_domain(measures['domain'])} {worse}"
    reason = " ".join([reason, *_few_documents(measures)])
    if probes := found.get("probes"):
        reason = f"{reason} {_task_sentence(probes, exported=float(mixed.get('alpha', 1.0)), advised=alpha)}"
        fell = probes["change"]["interval"] is not None and probes["change"]["interval"][1] < 0
        decision = "do not use" if fell and decision == "use" else decision
    if decision != "use with alpha" and (missed := [each["text"] for each in required if not each["holds"]]):
        unclear = [each["text"] for each in required if each["value"] is None]
        decision = decision if decision == "cannot tell" else "do not use"
        reason = f"{reason} It does not reach what was required: {', '.join(missed)}."
        if unclear:
            reason += f" Too small to judge: {', '.join(unclear)}."
    return {
        "decision": decision,
        "alpha": alpha,
        "reason": reason,
        "measures": measures,
        "requirements": required,
    }


def unmet(found: JsonDict) -> str:
    """Return what of the requirements does not hold, in one line; nothing where all do."""
    parts = []
    for each in found["requirements"]:
        if each["holds"]:
            continue
        if each["value"] is None:
            parts.append(f"{each['text']} cannot be judged, for it was not measured or on too few documents")
        else:
            parts.append(f"{each['text']} was required and it is {_amount(each)}{_between(each)}")
    return "; ".join(parts)


def _measures(found: JsonDict, overlap: Mapping[str, JsonDict]) -> dict[str, JsonDict]:
    """Return the fall of the domain's loss, the rise of the general loss and the share of leaked documents."""
    domain, general = found["domain"]["change"]["relative_loss"], found.get("general")
    ends = domain["interval"] and [-end for end in reversed(domain["interval"])]
    measures: dict[str, JsonDict] = {
        "domain": {"value": -as_float(domain["value"]), "interval": ends, **_texts(found["domain"])}
    }
    measures["forgetting"] = {"value": None, "interval": None}
    if general is not None:
        measures["forgetting"] = {**general["change"]["relative_loss"], **_texts(general)}
    if leaked := overlap.get("heldout"):
        share = (leaked["same"] + leaked["near"]) / max(1, leaked["documents"])
        # It is counted on all held-out documents, so that it has no error of sampling.
        measures["leaks"] = {"value": share, "interval": [share, share]}
    else:
        measures["leaks"] = {"value": None, "interval": None}
    probes = found.get("probes")
    measures["task"] = dict(probes["change"]) if probes else {"value": None, "interval": None}
    return measures


def _texts(part: JsonDict) -> dict[str, int]:
    """How many documents a change rests on; those of earlier versions do not say."""
    return {"texts": part["texts"]} if "texts" in part else {}


def _task_sentence(probes: JsonDict, exported: float, advised: float) -> str:
    """The change of the metric of the task in a sentence, and which weights it is of where there are mixed ones."""
    if probes["failed"]:
        return f"The task {probes['task']} was not probed: {probes['failed']}."
    change = {**probes["change"], "measure": "task"}
    whose = f" with the exported weights (alpha {exported:g})" if exported < 1 or advised != exported else ""
    other = f" The mixture of alpha {advised:g} is probed when it is exported." if advised != exported else ""
    return (
        f"On the task {probes['task']}, {PROBE_METRICS[probes['metric']]} of a linear probe changed by "
        f"{points(change['value'], signed=True)}{_between(change)}{whose}.{other}"
    )


def _amount(measure: JsonDict) -> str:
    return (
        points(measure["value"], signed=True)
        if measure["measure"] == "task"
        else percent(measure["value"], 2)
    )


def _is_judged(measures: Mapping[str, JsonDict], requirement: Requirement) -> bool:
    return measures[requirement.measure]["interval"] is not None


def _decision(
    found: JsonDict, measures: Mapping[str, JsonDict], mixed: JsonDict, requirements: Sequence[Requirement]
) -> tuple[str, float, str]:
    exported = float(mixed.get("alpha", 1.0))
    gain, lost = measures["domain"], measures["forgetting"]
    if _leaks(measures):
        return (
            "cannot tell",
            exported,
            f"{percent(measures['leaks']['value'])} of the held-out documents occur in the training text, so the gain says little.",
        )
    if gain["interval"] is None:
        return "cannot tell", exported, f"Too small to judge: {no_interval(gain.get('texts'))}."
    low, high = gain["interval"]
    said = _change_of_domain(gain).removesuffix(".")
    if high < 0:
        return "do not use", exported, f"{said}: it is worse on the text it was adapted to."
    if high < NO_GAIN:
        what = (
            "No gain"
            if low <= 0
            else f"The gain is below {percent(NO_GAIN, 1)}, too little to be worth another model"
        )
        return "do not use", exported, f"{what}: {_small(said)}."
    if low <= 0:
        return "cannot tell", exported, f"Too small to judge: {_small(said)}, and the interval contains 0."
    return _weigh(exported, said, gain, lost, mixed, requirements)


def _weigh(
    exported: float,
    said: str,
    gain: JsonDict,
    lost: JsonDict,
    mixed: JsonDict,
    requirements: Sequence[Requirement],
) -> tuple[str, float, str]:
    """Decide where there is a gain."""
    if lost["value"] is None:
        return (
            "use",
            exported,
            f"{said}. What was forgotten was not measured: there was no general text.",
        )
    said = f"{said}, the loss on general text {_moved(lost['value'])}{_between(lost)}"
    if lost["interval"] is None:
        return "use", exported, f"{said}; the general text is too small to judge what was forgotten."
    bounds = [each.bound for each in requirements if each.measure == "forgetting"]
    if mixed.get("limit_given") and mixed.get("limit") is not None:
        bounds.append(mixed["limit"])
    most, forgets = min(bounds, default=gain["value"]), lost["interval"][0] > 0
    better = _better_mixture(mixed, most if bounds else None) if exported == 1 and forgets else None
    if lost["value"] > most and lost["interval"][0] > (most if not bounds else 0):
        why = f"more than {percent(most, 2)}" if bounds else "more than the domain gained"
        if better:
            return "use with alpha", better["alpha"], f"{said}, {why}. {_mixture(mixed, better)}"
        return "do not use", exported, f"{said}, {why}."
    if better and _keeps(mixed, better, "domain") >= KEEPS:
        return "use with alpha", better["alpha"], f"{said}. {_mixture(mixed, better)}"
    return "use", exported, f"{said}." if forgets else f"{said}: no forgetting was found."


def _better_mixture(mixed: JsonDict, most: float | None) -> JsonDict | None:
    """Return the point of the lowest domain loss whose forgetting is within ``most``, or half of that of the adapted weights."""
    points = mixed.get("points") or []
    if not points or "general" not in points[0]:
        return None
    if most is None:
        most = as_float(mixed.get("limit"))
    allowed = [
        each
        for each in points
        if 0 < each["alpha"] < 1 and as_float(each["general"]["relative"]["value"]) <= most
    ]
    best = min(allowed, key=lambda each: each["domain"]["loss"], default=None)
    return best if best and as_float(best["domain"]["relative"]["value"]) < 0 else None


def _keeps(mixed: JsonDict, at: JsonDict, text: str) -> float:
    """Return which share of the change of the adapted weights a point has."""
    whole = as_float(mixed["points"][-1][text]["change"]["value"])
    return as_float(at[text]["change"]["value"]) / whole if whole else 0.0


def _mixture(mixed: JsonDict, at: JsonDict) -> str:
    kept, forgot = (_keeps(mixed, at, text) for text in ("domain", "general"))
    return (
        f"Mixed with the base, alpha {at['alpha']:g} keeps {percent(kept, 0)} of the gain at {percent(max(forgot, 0.0), 0)} of the "
        f"forgetting: export it with --resume --export-alpha {at['alpha']:g}."
    )


def _moved(value: float) -> str:
    return f"{'rose' if value > 0 else 'fell'} by {percent(abs(value), 2)}"


def _between(measure: JsonDict) -> str:
    """The interval of a measure in brackets, or that there is none."""
    if measure["interval"] is None:
        what = "test examples" if measure.get("measure") == "task" else "documents"
        return f" ({no_interval(measure.get('texts'), what)})"
    unit = " points" if measure.get("measure") == "task" else "%"
    low, high = (f"{100 * end:z.2f}".replace("-", "−") for end in measure["interval"])
    return "" if low == high else f" (95% interval {low} to {high}{unit})"


def _change_of_domain(gain: JsonDict) -> str:
    return f"The loss on the domain {_moved(-gain['value'])}{_between(gain)}."


def _few_documents(measures: Mapping[str, JsonDict]) -> Iterator[str]:
    """Yield on how few documents the intervals rest, if they do."""
    for measure, where in (("domain", ""), ("forgetting", " of general text")):
        texts = measures[measure].get("texts")
        if measures[measure]["interval"] is not None and texts is not None and texts < FEW_UNITS:
            yield f"The interval is wide: it rests on {plural(texts, 'document')}{where}."


def _leaks(measures: Mapping[str, JsonDict]) -> bool:
    return as_float(measures["leaks"]["value"]) > MOST_LEAKS


def _small(text: str) -> str:
    return text[0].lower() + text[1:]
