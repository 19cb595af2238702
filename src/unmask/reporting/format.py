"""Metrics, counts, durations and sizes as text: one wording for the pages, the model card and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unmask.data.heldout_size import FEWEST_UNITS
from unmask.errors import plural
from unmask.storage import JsonDict

METRICS = {
    "accuracy": "accuracy",
    "loss": "loss",
    "perplexity": "perplexity",
    "accuracy_at_5": "accuracy@5",
    "accuracy_at_10": "accuracy@10",
    "mean_reciprocal_rank": "mean reciprocal rank",
}
"""Names of the metrics at masked tokens, by their keys in JSON."""
WORD_METRICS = {
    "loss_per_word": "nats per masked word",
    "accuracy": "word accuracy",
    "subwords_per_word": "subwords per word",
}
"""Names of the metrics at masked words, which compare models with different tokenizers."""
RETRIEVAL_METRICS = {
    "ndcg_at_10": "nDCG@10",
    "recall_at_10": "recall@10",
    "recall_at_100": "recall@100",
    "mrr": "MRR",
}
"""Names of the metrics of retrieval, by their keys in JSON."""
PROBE_METRICS = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "f1": "F1",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}
"""Names of the metrics of labelled tasks, by their keys in JSON."""
BASELINES = {
    "most_frequent_token": "most frequent token",
    "ngram": "bidirectional n-gram",
    "ngram_true_neighbours": "n-gram with true neighbours",
    "bm25": "BM25",
    "most_frequent_label": "most frequent label",
    "most_frequent_labels": "most frequent set of labels",
    "most_frequent_label_of_token": "most frequent label of the token",
}
"""Names of the baselines, by their keys in JSON."""
_MORE_SIGHT = "ngram_true_neighbours"
"""The baseline that sees masked neighbours, which the model does not: no bar for the model."""
_EARLIER_MASKS = "80% of the targets replaced by the mask token, 10% by a random token, 10% unchanged"
_SHARES = {"accuracy", "accuracy_at_5", "accuracy_at_10", "f1", "macro_f1", "precision", "recall", "share"}
_SHARES |= {"micro_f1", *RETRIEVAL_METRICS}
_MISSING, _NOT_FINITE = "–", "not finite"


def place(found: Mapping[str, Any]) -> str:
    """A ``source`` and its ``line``, if it has one, as ``file:line``."""
    return f"{found['source']}:{found['line']}" if found["line"] else str(found["source"])


def as_float(value: object) -> float:
    """Return ``value`` as a float, with NaN for everything that is not a finite number (``None`` too)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return math.nan
    return float(value)


def baseline_name(key: str) -> str:
    """Return the name of a baseline by its key in JSON."""
    return BASELINES.get(key, key.replace("_", " "))


def same_sight(levels: Mapping[str, JsonDict]) -> dict[str, JsonDict]:
    """Of what a model is compared with, by name, return what sees no more than the model."""
    return {name: row for name, row in levels.items() if name != baseline_name(_MORE_SIGHT)}


def no_gain_over_frequency(evaluation: Mapping[str, Any]) -> str | None:
    """Return that a model is worse than knowing the frequency of tokens, in a sentence, if its evaluation says so."""
    what = "predicting every token by its frequency alone"
    return _worse_than(evaluation, "most_frequent_token", what, "so this is no gain.")


def behind_ngram(evaluation: Mapping[str, Any]) -> str | None:
    """Return that a model predicts worse than the n-gram model that sees what it sees, in a sentence, if its evaluation says so."""
    what = f"the {baseline_name('ngram')}"
    so = "which only counts the training text: train longer, or on more text."
    return _worse_than(evaluation, "ngram", what, so)


def _worse_than(evaluation: Mapping[str, Any], baseline: str, what: str, so: str) -> str | None:
    counted = ((evaluation.get("baselines") or {}).get(baseline) or {}).get("loss")
    if not as_float(evaluation.get("loss")) > as_float(counted):
        return None
    return (
        f"The model's loss ({loss(evaluation['loss'])}) is higher than that of {what} ({loss(counted)}), {so}"
    )


def compared_with(levels: Mapping[str, JsonDict]) -> str:
    """A sentence with the accuracy and loss of :func:`same_sight`, after another; nothing without any."""
    others = ", ".join(
        f"{name} {percent(row.get('accuracy'))} (loss {loss(row.get('loss'))})"
        for name, row in same_sight(levels).items()
    )
    return f" Compared with: {others}." if others else ""


def masks(found: Mapping[str, Any]) -> str:
    """Return how the targets of an evaluation are shown to the model; earlier versions did not record it."""
    return str(found.get("masks") or _EARLIER_MASKS)


def percent(value: object, digits: int = 1) -> str:
    """A share as ``36.4%``; tiny ones as ``<0.1%``."""
    share = as_float(value)
    if math.isnan(share):
        return _absent(value)
    least = 10.0 ** -(2 + digits)
    return f"<{100 * least:g}%" if 0 < share < least / 2 else f"{100 * share:z.{digits}f}%"


def share_done(share: float | None) -> str:
    """How much of a phase is done, rounded down: 100% is its end; nothing where it is unknown."""
    return "" if share is None else f"{int(share * 100)}%"


def points(gap: object, signed: bool = False) -> str:
    """A difference of two shares as ``4.4 points``."""
    return _NOT_FINITE if math.isnan(as_float(gap)) else f"{_point(gap, '+' if signed else '')} points"


def _point(gap: object, sign: str = "+") -> str:
    return f"{100 * as_float(gap):{sign}z.1f}".replace("-", "−")


def count(value: object) -> str:
    """A whole number with separators."""
    number = as_float(value)
    return _absent(value) if math.isnan(number) else f"{round(number):,}"


def number(value: object, signed: bool = False) -> str:
    """A number in about four digits: ``51.47``, ``0.0312``, ``123,456``."""
    found = as_float(value)
    if math.isnan(found):
        return _absent(value)
    size = abs(found)
    if 1000 <= size < 1e6:
        style = ",.0f"
    elif 0.1 <= size < 1000:
        style = ".2f" if size < 100 else ".1f"
    else:
        style = ".3g"
    return format(found, ("+" if signed else "") + style).replace("-", "−")


_SMALLEST = 1e-6  # less is rounding


def loss(value: object, signed: bool = False) -> str:
    """A loss, or another quantity in nats or bits, with three decimals; a difference that they hide has one digit."""
    found = as_float(value)
    if math.isnan(found):
        return _absent(value)
    hidden = signed and _SMALLEST <= abs(found) < 0.0005
    digits = -math.floor(math.log10(abs(found))) if hidden else 3
    return f"{found:{'+' if signed else ''}z.{digits}f}".replace("-", "−")


def _absent(value: object) -> str:
    return _MISSING if value is None else _NOT_FINITE


def metric(key: str, value: object) -> str:
    """A metric by its key: shares such as accuracy as a percentage, perplexity in four digits, losses with three decimals."""
    if key in _SHARES:
        return percent(value)
    return number(value) if key == "perplexity" else loss(value)


def own_name(key: str) -> str:
    """The name of a metric of an objective by its key: ``nsp accuracy``."""
    return key.removeprefix("eval_").replace("_", " ")


def own_metric(key: str, value: object) -> str:
    """A metric of an objective by its key, whose last word is its kind: ``accuracy`` of ``nsp_accuracy``."""
    return metric(key.rpartition("_")[2], value)


def own_metrics(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and 95% interval of the metrics of the objective besides those of masked tokens."""
    found = evaluation.get("objective") or {}
    intervals = found.get("intervals") or {}
    for key, value in found.items():
        if key not in ("intervals", "answers"):
            span = interval(key.rpartition("_")[2], intervals.get(key))
            if intervals and key not in intervals:
                span = "none: not a mean over documents"
            yield own_name(key), own_metric(key, value), span


def metric_change(key: str, value: object) -> str:
    """A difference of a metric, signed: in points for a share."""
    if key in _SHARES:
        return points(value, signed=True)
    return number(value, signed=True) if key == "perplexity" else loss(value, signed=True)


def interval(key: str, ends: Sequence[float] | None) -> str:
    """The interval of a metric as ``44.1–46.2%`` or ``3.310–3.622``; nothing without one."""
    return f"{metric(key, ends[0]).removesuffix('%')}–{metric(key, ends[1])}" if ends else ""


def no_interval(texts: int | None = None, what: str = "documents") -> str:
    """Why a metric has no interval: ``too few documents (6) for an interval``.

    Args:
        texts: how many were evaluated, copies counted once, where that is known.
        what: what they are.
    """
    if texts is not None and texts >= FEWEST_UNITS:
        return f"no interval can be given for these {what}"
    return f"too few {what}{'' if texts is None else f' ({texts})'} for an interval"


def change_interval(key: str, ends: Sequence[float] | None) -> str:
    """The interval of a difference as ``+2.8 to +4.8`` (points) or ``−0.210 to −0.190``; nothing without one."""
    return " to ".join(_point(end) if key in _SHARES else loss(end, signed=True) for end in ends or ())


def round_trip_text(found: Mapping[str, Any]) -> str:
    """What a tokenizer loses of a text, from :meth:`unmask.data.round_trip.RoundTrip.to_dict`."""
    examples = ", ".join(f"{word} → {decoded or 'nothing'}" for word, decoded in found["examples"])
    changed = f"{percent(found['changed_share'])} of the words do not round-trip"
    parts = [
        f"the tokenizer drops {percent(found['dropped_share'])} of the characters",
        f"{changed} ({examples})" if examples else changed,
    ]
    if found["case_only"]:
        parts.append(f"{percent(found['case_only_share'])} differ in case only")
    return "; ".join(parts)


def fertility_text(found: Mapping[str, Any]) -> str | None:
    """Fertility, from :meth:`unmask.checking.fertility.TokenSurvey.found`; ``None`` for text without letters."""
    words, unknown = found["words"], found["words_unknown"]
    if not words:
        return None
    if found["characters_per_token"] is None:
        return f"no fertility: {percent(unknown / words)} of the words and {percent(found['unknown']['share'])} of the tokens are unknown"
    if found["subwords_per_word"] is None:
        text = f"{found['characters_per_token']:.2f} characters per token (the script does not mark words)"
    else:
        text = f"{found['subwords_per_word']:.2f} subwords per word"
    return text + (
        f", without the {percent(unknown / words)} of the words that are unknown" if unknown else ""
    )


def axis_number(value: float) -> str:
    """A value at a tick: ``0.05``, ``1e-5``."""
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")


def axis_percent(value: float) -> str:
    """A share at a tick: ``5%``."""
    return f"{100 * value:g}%"


def axis_thousands(value: float) -> str:
    """A rate at a tick: ``16.5k``."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def axis_change(value: float) -> str:
    """A difference at a tick, signed: ``+0.05``, ``−0.05``, ``0``."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def duration(seconds: float) -> str:
    """Seconds as ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def rough_duration(seconds: float) -> str:
    """An estimated time as ``about 3 minutes`` or ``about 2.5 days``."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:{'.2g' if seconds < 10 * size else ',.0f'}} {unit}s"
    return f"about {plural(max(1, round(seconds)), 'second')}"


def clock(seconds: float) -> str:
    """Seconds as ``1:12``, or ``2:03:04`` from an hour on."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def byte_size(size: float) -> str:
    """Bytes as ``812 MB`` or ``3.4 GB`` (powers of ten)."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.{1 if size < 10 * one else 0}f} {unit}"
    return f"{size:.0f} bytes"


def cell(value: object) -> str:
    """Any value for a table or a log line: text as it is, numbers as ``21,300``, ``3.214`` or ``5e-05``."""
    if value is None:
        return _MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"


def progress_metrics(metrics: Mapping[str, object]) -> list[str]:
    """What a phase of work reports of itself: ``loss 3.214``, ``21,300 tok/s``, ``58,012 documents``."""
    words = []
    for name, value in metrics.items():
        label = name.replace("_", " ")
        if name == "seconds_left" or value is None:
            continue
        if name.endswith("/s") and isinstance(value, int | float):
            words.append(f"{value:{',.0f' if value >= 10 else '.2g'}} {label.replace('tokens', 'tok')}")
        elif name.endswith("s") and isinstance(value, int) and not isinstance(value, bool):
            words.append(plural(value, label.removesuffix("s"), label))
        else:
            words.append(f"{label} {cell(value)}")
    return words
