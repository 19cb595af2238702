"""``unmask compare``: two models on one text, which is better, by how much, and how certain that is.

Models with one tokenizer are evaluated at identical positions. With different tokenizers a loss per token means
nothing, so both predict the same whole words, and are scored in bits per byte. Differences are the second model minus
the first, with paired intervals: both models are resampled on the same documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmask.data.hub import offline_mode
from unmask.data.tokenizer import load_tokenizer, plain_copy
from unmask.errors import UnmaskError, plural
from unmask.evaluation.bootstrap import INTERVAL, LEVEL, Estimate, interval_notes
from unmask.evaluation.cross_tokenizer import DIFFERENCE_LEVEL, PLL_BYTES, compare_bits, compare_words
from unmask.evaluation.evaluate import (
    DEFAULTS,
    Evaluation,
    EvaluationSettings,
    Evaluator,
    Loader,
    ModelLike,
    labels,
    model_names,
)
from unmask.evaluation.metrics import group_metrics, metrics_of, paired_sums
from unmask.evaluation.text_cache import (
    EvaluationText,
    TextInputs,
    one_tokenizer,
    sequence_length,
    split_as_in_training,
    warn_of_training_text,
)
from unmask.model.base import LanguageModel
from unmask.progress import Progress
from unmask.reporting.format import METRICS, change_interval, metric_change, no_interval
from unmask.reporting.format import loss as loss_text
from unmask.reporting.format import metric as metric_text
from unmask.reporting.results import Result, Rows
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_LEAST = 0.0005
"""Smaller differences are 0.000 as they are written, and no model is called better for them."""
_FEW_PASSAGES = 100
_WHY_LEVEL = f"{DIFFERENCE_LEVEL:.1%} intervals, since two measures decide"


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """The comparison of two models.

    Attributes:
        verdict: the result in a sentence.
        one_tokenizer: whether both models predict identical tokens.
        content: everything, ready for JSON.
    """

    verdict: str
    one_tokenizer: bool
    content: dict[str, Any]

    def _title(self) -> str:
        return self.verdict

    def _shown_rows(self) -> Rows:
        rows: list[dict[str, object]] = []
        for row in self.to_rows():
            name = str(row["metric"])
            shown = {label: metric_text(name, row[label]) for label in self.content["labels"]}
            ends = None if math.isnan(row["low"]) else [row["low"], row["high"]]
            change = {
                "difference": metric_change(name, row["difference"]),
                f"{100 * self.content['level']:g}% interval": change_interval(name, ends),
            }
            rows.append({"metric": METRICS.get(name, name)} | shown | change)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return self.content

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row for each metric: ``metric``, the value of each model by its label, ``difference``, ``low``, ``high``."""
        content = self.content
        if self.one_tokenizer:
            parts = [(content["a"], content["b"], content["difference"])]
        else:
            bits = content["bits_per_byte"]
            left, right = ({"bits_per_byte": side["value"]} for side in bits["models"])
            words = content["words"]
            parts = [
                (*words["models"], words["difference"]),
                (left, right, {"bits_per_byte": bits["difference"]}),
            ]
        rows = []
        for first, second, differences in parts:
            for metric, difference in differences.items():
                low, high = difference["interval"] or (math.nan, math.nan)
                values = dict(zip(content["labels"], (first[metric], second[metric]), strict=True))
                ends = {"difference": difference["value"], "low": low, "high": high}
                rows.append({"metric": metric} | values | ends)
        return rows


def compare(
    first: ModelLike,
    second: ModelLike,
    data: TextInputs,
    settings: EvaluationSettings = DEFAULTS,
    *,
    train_data: TextInputs = (),
    pll_bytes: int | None = None,
    progress: Progress = Progress(),
) -> Comparison:
    """Compare two models on a text.

    Args:
        first, second: Hub names, model folders, run folders or models in memory.
        data: text as the readers take it; shards only where both models have one tokenizer.
        settings: masking, limits, device and precision.
        train_data: as for :func:`~unmask.evaluation.evaluate.evaluate`; only used with one tokenizer.
        pll_bytes: with different tokenizers, bytes of the passages that are scored in bits per byte; by default
            10,000 on a CPU and 200,000 on a GPU.
        progress: gets progress and messages.

    Raises:
        ConfigError: a model cannot be loaded, or settings do not fit it.
        DataError: the text cannot be read, is empty, or nothing of it is masked.
        DivergedError: a model's probabilities are NaN or infinite.
    """
    load = Loader(settings, progress)
    names = model_names([first, second])
    documents = split_as_in_training([first, second], settings.documents, progress)
    with (
        offline_mode(settings.offline),
        EvaluationText(data, documents, progress) as text,
        EvaluationText(train_data, documents, progress) as train,
    ):
        warn_of_training_text([first, second], text.inputs, progress)
        left, right = (_tokenizer(model, settings) for model in (first, second))
        same = one_tokenizer(left, right, text)
        if not same:
            next(iter(text.documents()))  # shards are refused before a model is loaded
            _log_unused(settings, bool(train.inputs), progress)
        models = load.load(first), load.load(second)
        length = sequence_length(settings.max_length, [model.max_length for model in models])
        if not same:
            return _compare_on_text(names, models, text, settings, length, pll_bytes, progress)
        evaluator = Evaluator(text, train if train.inputs else None, settings, progress)
        found = [
            evaluator.evaluate(name, label, model, length)
            for name, label, model in zip(names, labels(names), models, strict=True)
        ]
    return compare_evaluations(found[0], found[1])


def _tokenizer(model: ModelLike, settings: EvaluationSettings) -> PreTrainedTokenizerBase:
    if isinstance(model, LanguageModel):
        return model.tokenizer
    return load_tokenizer(str(model), offline=settings.offline)


def _log_unused(settings: EvaluationSettings, train_data: bool, progress: Progress) -> None:
    if train_data:
        progress.log("the tokenizers differ, so nothing is counted on --train-data")
    if (strategy := settings.masking.strategy) not in ("token", "word"):
        progress.log(f"the tokenizers differ, so whole words are masked; strategy '{strategy}' is ignored")


def _compare_on_text(
    names: Sequence[str],
    models: tuple[LanguageModel, LanguageModel],
    text: EvaluationText,
    settings: EvaluationSettings,
    length: int,
    pll_bytes: int | None,
    progress: Progress,
) -> Comparison:
    """Compare two models with different tokenizers on whole words and in bits per byte."""
    words = compare_words(models, text, settings, length, progress)
    most = pll_bytes or PLL_BYTES["cuda" if models[0].device.type == "cuda" else "cpu"]
    bits = compare_bits(models, text, most, progress)
    short = labels(names)
    verdict = _words_verdict(short, words, bits)
    content = {
        "models": list(names),
        "labels": short,
        "one_tokenizer": False,
        "verdict": verdict,
        "data": text.inputs,
        "max_length": length,
        "words": words,
        "bits_per_byte": bits,
        "level": DIFFERENCE_LEVEL,
        "interval": f"{INTERVAL}; of differences {DIFFERENCE_LEVEL:.1%}, so that the verdict from two of them has {LEVEL:.0%}",
        "notes": [*_tokenizer_notes(models, short, words, bits), *_sample_notes(words, bits, most)],
    }
    return Comparison(verdict, False, content)


def compare_evaluations(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare two models with one tokenizer by their evaluations at the same positions.

    Raises:
        UnmaskError: the positions differ.
    """
    if first.tally.positions != second.tally.positions:
        raise UnmaskError("the two models were evaluated on different tokens; use the same settings for both")
    left, right = first.tally.sums, second.tally.sums
    change = paired_sums(left, right)
    difference = metrics_of(change[:, 0], difference=True)
    tables = {
        table.key: {
            "title": table.title,
            "note": table.note,
            "rows": [
                row | {name: metric.to_dict() for name, metric in metrics.items()}
                for row, metrics in group_metrics(table.labels, change[:, 1:][:, span], difference=True)
            ],
        }
        for table, span in first.tables
    }
    names = (first.label, second.label)
    verdict = _tokens_verdict(names, difference, first.tally.texts, bool((left == right).all()))
    content = {
        "models": [first.model, second.model],
        "labels": list(names),
        "one_tokenizer": True,
        "verdict": verdict,
        "masked_tokens": first.masked_tokens,
        "documents": first.tally.documents,
        "difference": {name: metric.to_dict() for name, metric in difference.items()},
        "tables": tables,
        "a": first.to_dict(),
        "b": second.to_dict(),
        "positions": first.tally.positions,
        "level": LEVEL,
        "interval": INTERVAL,
        "notes": [
            note
            for note in dict.fromkeys([*first.notes, *second.notes])
            if note not in (*first.captions, *second.captions)
        ],
    }
    return Comparison(verdict, True, content)


def _tokens_verdict(names: Sequence[str], found: Mapping[str, Estimate], texts: int, same: bool) -> str:
    loss, accuracy = found["loss"], found["accuracy"]
    if same:
        return f"{names[0]} and {names[1]} are the same on this text: every masked token gets the same probability."
    if not _shows(loss):
        return _undecided(names, loss, texts, "loss", "nats per masked token")
    better, worse = names if loss.value > 0 else names[::-1]
    share = 1 - math.exp(-abs(loss.value))
    text = (
        f"{better} predicts this text better than {worse}: its loss is {_size(loss, '.3f')} nats lower per masked token, "
        f"so its perplexity is {share:{'.0%' if share >= 0.01 else '.2%'}} lower"
    )
    if not _shows(accuracy):
        return f"{text}; how many masked tokens they fill in exactly does not tell them apart."
    points = f"{_size(accuracy, '.1f', 100)} points"
    if (accuracy.value > 0) == (loss.value < 0):
        return f"{text}, and it fills in {points} more of the masked tokens exactly."
    return f"{text}; yet {worse} fills in {points} more of the masked tokens exactly."


def _shows(metric: Estimate) -> int:
    """Return the sign of a difference that is certain and not 0.000 as it is written, otherwise 0."""
    return metric.sign if abs(metric.value) >= _LEAST else 0


def _words_verdict(names: Sequence[str], words: JsonDict, bits: JsonDict) -> str:
    byte = _estimate(bits["difference"])
    word = _estimate(words["difference"]["loss_per_word"])
    signs = _shows(byte), _shows(word)
    if signs == (0, 0):
        if byte.interval is None:
            return _undecided(names, word, words["texts"], "cost", "nats per masked word", DIFFERENCE_LEVEL)
        return _undecided(names, byte, bits["documents"], "cost", "bits per byte", DIFFERENCE_LEVEL)
    if 0 in signs or signs[0] == signs[1]:
        better, worse = names if sum(signs) > 0 else names[::-1]
        parts = [
            f"{_size(metric, '.3f')} {unit}"
            for metric, unit in ((byte, "bits per byte fewer"), (word, "nats fewer per masked word"))
            if _shows(metric)
        ]
        rest = "" if signs[0] else f"; {_silent('bits per byte', byte, bits['documents'])}"
        rest += "" if signs[1] else f"; {_silent('whole words', word, words['texts'])}"
        return f"{better} predicts this text better than {worse}: it needs {' and '.join(parts)}{rest} ({_WHY_LEVEL})."
    one, other = (names[0] if sign > 0 else names[1] for sign in signs)
    return (
        f"The two measures disagree: {one} needs {_size(byte, '.3f')} bits per byte fewer, {other} "
        f"{_size(word, '.3f')} nats fewer per masked word ({_WHY_LEVEL})."
    )


def _silent(measure: str, metric: Estimate, texts: int) -> str:
    """Why a measure prefers no model: its interval contains 0, or it has none."""
    if metric.interval is None:
        return f"of {measure} nothing can be said: {no_interval(texts)}"
    return f"{measure} do not tell them apart"


def _undecided(
    names: Sequence[str], metric: Estimate, texts: int, what: str, unit: str, level: float = LEVEL
) -> str:
    if metric.interval is None:
        return (
            f"{names[0]} and {names[1]} cannot be told apart: {no_interval(texts)}; on these the {what} of {names[1]} is "
            f"{abs(metric.value):.3f} {unit} {'higher' if metric.value > 0 else 'lower'}."
        )
    if metric.sign:
        return (
            f"{names[0]} and {names[1]} predict this text equally well: the {what} differs by less than {2 * _LEAST:g} "
            f"{unit}."
        )
    return (
        f"No difference between {names[0]} and {names[1]} can be told from this text: the {what} of {names[1]} minus that "
        f"of {names[0]} is {loss_text(metric.value, signed=True)} {unit} ({100 * level:g}% interval {change_interval('loss', metric.interval)})."
    )


def _size(metric: Estimate, style: str, scale: float = 1.0) -> str:
    """A difference without its sign, with its interval."""
    low, high = sorted(abs(scale * end) for end in (metric.low, metric.high))
    return f"{abs(scale * metric.value):{style}} ({low:{style}} to {high:{style}})"


def _estimate(found: JsonDict) -> Estimate:
    low, high = found["interval"] or (math.nan, math.nan)
    return Estimate(found["value"], low, high)


def _tokenizer_notes(
    models: tuple[LanguageModel, LanguageModel], names: Sequence[str], words: JsonDict, bits: JsonDict
) -> list[str]:
    notes = [
        "the tokenizers differ, so the models are compared on whole words and in bits per byte; a loss per token would "
        "mean nothing"
    ]
    simpler = [_simplifies(model) for model in models]
    if simpler[0] != simpler[1]:
        name = names[0] if simpler[0] else names[1]
        notes.append(
            f"the tokenizer of {name} drops capitals or accents, so it has less to predict than the other"
        )
    notes += [
        f"left out {plural(number, 'masked word')}: {reason}" for reason, number in words["left_out"].items()
    ]
    if bits["left_out"]:
        notes.append(
            f"left out {plural(bits['left_out'], 'passage')}: a tokenizer cannot spell something in them"
        )
    return notes


def _sample_notes(words: JsonDict, bits: JsonDict, most: int) -> Iterator[str]:
    """Yield what the two measures rest on, where that is little."""
    yield from interval_notes(words["documents"], words["texts"])
    if bits["passages"] < _FEW_PASSAGES:
        said = f"bits per byte rest on {plural(bits['passages'], 'passage')} of {plural(bits['documents'], 'document')}"
        sampled = bits["bytes"] * (1 + bits["left_out"] / bits["passages"])
        more = f"; --pll-bytes {_FEW_PASSAGES * most // bits['passages']} scores more"
        whole = "that both tokenizers can spell" if bits["left_out"] else "that the text has"
        yield said + (f", all {whole}" if sampled < 0.9 * most else more)


def _simplifies(model: LanguageModel) -> bool:
    normalizer = plain_copy(model.tokenizer).normalizer
    return normalizer is not None and normalizer.normalize_str("Aé") not in ("Aé", "Ae\u0301")
