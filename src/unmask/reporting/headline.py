"""The headline of a report and a model card: the main result in a sentence, and how it stands to the baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping

from unmask.errors import plural
from unmask.reporting import adaptation
from unmask.reporting.format import (
    as_float,
    baseline_name,
    compared_with,
    count,
    interval,
    loss,
    masks,
    no_gain_over_frequency,
    no_interval,
    percent,
    points,
    same_sight,
)
from unmask.reporting.record import RunRecord
from unmask.storage import JsonDict


def accuracy_levels(record: RunRecord) -> dict[str, JsonDict]:
    """What the model is compared with, by name: the baselines, then the starting checkpoint if there is one."""
    evaluation = record.evaluation or {}
    baselines = evaluation.get("baselines") or {}
    levels = {baseline_name(key): row for key, row in baselines.items() if row}
    if evaluation.get("before"):
        levels["before training"] = evaluation["before"]
    return levels


def verdict(record: RunRecord) -> str:
    """The main result in one sentence."""
    if record.adaptation:
        return adaptation.headline(record.adaptation, no_gain(record))
    if record.evaluation:
        return " ".join(filter(None, [_final_verdict(record, record.evaluation), no_gain(record)]))
    if record.heldout:
        row = record.heldout[-1]
        step, accuracy = count(row["step"]), row.get("eval_accuracy")
        if math.isnan(as_float(accuracy)):
            return f"At step {step} the model's accuracy on held-out text is NaN or infinite."
        value = loss(row["eval_loss"])
        return (
            f"At step {step} the model predicts {percent(accuracy)} of the masked tokens in held-out text correctly "
            f"({masks(record.info)}), with a loss of {value}."
        )
    if record.training:
        row = record.training[-1]
        return f"At step {count(row['step'])} the training loss is {loss(row['loss'])}; there is no evaluation yet."
    return "Nothing is recorded yet."


def _final_verdict(record: RunRecord, found: JsonDict) -> str:
    who = "The generator" if record.detects else "The model"
    masked = f"{plural(found['masked_tokens'], 'masked token')} in held-out text ({masks(found)})"
    others = compared_with(accuracy_levels(record))
    if math.isnan(as_float(found["accuracy"])):
        return f"{who}'s accuracy on {masked} is NaN or infinite.{others}"
    return (
        f"{who} predicts {percent(found['accuracy'])} of {masked} correctly{_between(found)}, with a loss of "
        f"{loss(found['loss'])}.{others}"
    )


def standing(record: RunRecord) -> str | None:
    """Accuracy and loss compared with the best of :func:`accuracy_levels` that see no more than the model."""
    evaluation = record.evaluation
    if evaluation is None or no_gain(record):
        return None
    levels = same_sight(accuracy_levels(record))
    behind = _closest(evaluation, levels, "accuracy", 1)
    if behind is None:
        return None
    name, gap = behind
    error = _sampling_error(evaluation)
    if math.isnan(error):
        said = f"It cannot be told from the best of these ({name}): {no_interval(evaluation.get('texts'))}"
    elif abs(gap) <= error:
        said = f"That is level with the best of these ({name}): the difference is within the sampling error"
    else:
        said = f"{points(abs(gap))} {'above' if gap > 0 else 'below'} the best of these ({name})"
        lowest = _closest(evaluation, levels, "loss", -1)
        # A higher accuracy with a higher loss, or the reverse, is no result that one of them may stand for.
        mixed = lowest is not None and lowest[1] * gap < 0
        said = f"Accuracy and loss disagree: the accuracy is {said}" if mixed else f"That is {said}"
    return f"{said}{_loss_clause(_closest(evaluation, levels, 'loss', -1), gap)}."


def _closest(
    found: JsonDict, levels: Mapping[str, JsonDict], key: str, better: int
) -> tuple[str, float] | None:
    """The level that is best by a metric, and how much better the model is than it; ``better`` is the sign of a gain."""
    gaps = {name: better * (as_float(found[key]) - as_float(row.get(key))) for name, row in levels.items()}
    known = [(name, gap) for name, gap in gaps.items() if not math.isnan(gap)]
    return min(known, key=lambda item: item[1], default=None)


def _loss_clause(found: tuple[str, float] | None, gain: float) -> str:
    """How the loss stands, after what was said of the accuracy."""
    if found is None:
        return ""
    name, gap = found
    joint = "and" if (gap >= 0) == (gain >= 0) else "but"
    return (
        f", {joint} the loss is {loss(abs(gap))} nats {'below' if gap >= 0 else 'above'} the lowest ({name})"
    )


def _sampling_error(found: JsonDict) -> float:
    """Half the 95% interval of the accuracy, NaN without one; in runs of earlier versions as if tokens were independent."""
    if "intervals" in found:
        low, high = found["intervals"]["accuracy"] or (math.nan, math.nan)
        return float(high - low) / 2
    accuracy = as_float(found["accuracy"])
    return 1.96 * math.sqrt(max(0.0, accuracy * (1 - accuracy)) / max(1.0, as_float(found["masked_tokens"])))


def _between(found: JsonDict) -> str:
    """The interval of the accuracy; nothing of a run of an earlier version, which has none."""
    if "intervals" not in found:
        return ""
    span = interval("accuracy", found["intervals"]["accuracy"])
    return f" (95% interval {span})" if span else f" ({no_interval(found.get('texts'))})"


def no_gain(record: RunRecord) -> str | None:
    """Return that the model is worse than knowing the frequency of tokens, if it is: then no accuracy is a gain."""
    return no_gain_over_frequency(record.evaluation or {})
