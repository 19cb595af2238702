"""Two models on one text: which is better, by how much, and how sure that is.

Models with one tokenizer are asked for identical positions. With different tokenizers a loss per token compares
nothing, so they are asked for the same whole words, and scored in bits per byte. Differences are the second model
minus the first, and their intervals are paired: both models are resampled on the same documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmask.data.tokenizer import load_tokenizer, plain_copy
from unmask.errors import UnmaskError
from unmask.evaluation.bootstrap import Figure, ratios
from unmask.evaluation.cross_tokenizer import PLL_BYTES, compare_bits, compare_words
from unmask.evaluation.evaluate import (
    DEFAULTS,
    INTERVAL,
    Evaluation,
    EvaluationSettings,
    Loader,
    Session,
    group_figures,
    labels,
)
from unmask.evaluation.heldout import COLUMNS
from unmask.evaluation.text_cache import Texts, one_tokenizer, sequence_length
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What came of comparing two models.

    Attributes:
        verdict: it in plain words.
        one_tokenizer: whether both were asked for identical tokens.
        content: everything, ready for JSON.
    """

    verdict: str
    one_tokenizer: bool
    content: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return self.content


def compare_models(
    first: str,
    second: str,
    data: Sequence[str],
    settings: EvaluationSettings = DEFAULTS,
    *,
    train_data: Sequence[str] = (),
    pll_bytes: int | None = None,
    progress: Progress = Progress(),
) -> Comparison:
    """Compare two models on a text.

    Args:
        first, second: Hub names or folders.
        data: whatever the readers take; shards only where both have one tokenizer.
        settings: how they are asked.
        train_data: as for :func:`~unmask.evaluation.evaluate.evaluate_models`; of use with one tokenizer.
        pll_bytes: with different tokenizers, bytes of the passages that are scored in bits per byte; by default
            10,000 on a processor and 200,000 on a GPU.
        progress: is told what goes on.

    Raises:
        ConfigError: a model cannot be loaded, or settings do not fit it.
        DataError: the text cannot be read, is empty, or nothing of it is masked.
        DivergedError: a model gives no finite probabilities.
    """
    loader = Loader(settings, progress)
    with (
        Texts(data, settings.documents, progress) as texts,
        Texts(train_data, settings.documents, progress) as train,
    ):
        tokenizers = [load_tokenizer(name, offline=settings.offline) for name in (first, second)]
        same = one_tokenizer(tokenizers[0], tokenizers[1], texts)
        if not same:
            next(iter(texts.documents()))  # shards are refused before a model is loaded
            if train_data:
                progress.log("the tokenizers differ, so nothing is counted on --train-data")
            if (strategy := settings.masking.strategy) not in ("token", "word"):
                progress.log(
                    f"the tokenizers differ, so whole words are masked; strategy '{strategy}' is left aside"
                )
        models = loader.load(first), loader.load(second)
        length = sequence_length(settings.max_length, [model.max_length for model in models])
        if not same:
            return _compare_on_text((first, second), models, texts, settings, length, pll_bytes, progress)
        session = Session(texts, train if train_data else None, settings, progress)
        found = [
            session.evaluate(name, label, model, length)
            for name, label, model in zip((first, second), labels([first, second]), models, strict=True)
        ]
    return compare_evaluations(found[0], found[1])


def _compare_on_text(
    models: Sequence[str],
    loaded: tuple[MaskedLM, MaskedLM],
    texts: Texts,
    settings: EvaluationSettings,
    length: int,
    pll_bytes: int | None,
    progress: Progress,
) -> Comparison:
    """Compare two models with different tokenizers on whole words and in bits per byte."""
    words = compare_words(loaded, texts, settings, length, progress)
    bits = compare_bits(loaded, texts, pll_bytes or PLL_BYTES[loaded[0].device.type], progress)
    names = labels(models)
    verdict = _words_verdict(names, words, bits)
    content = {
        "models": list(models),
        "labels": names,
        "one_tokenizer": False,
        "verdict": verdict,
        "data": texts.inputs,
        "max_length": length,
        "words": words,
        "bits_per_byte": bits,
        "interval": INTERVAL,
        "notes": _tokenizer_notes(loaded, names, words, bits),
    }
    return Comparison(verdict, False, content)


def compare_evaluations(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare what two models with one tokenizer make of the same positions.

    Raises:
        UnmaskError: they were asked for different positions.
    """
    if first.tally.positions != second.tally.positions:
        raise UnmaskError(
            "the two models were asked for different tokens; evaluate both with the same settings"
        )
    left, right = first.tally.sums, second.tally.sums
    names = (first.label, second.label)
    count = left[:, 0, :1]
    found = dict(zip(COLUMNS[1:], ratios((right - left)[:, 0, 1:], count), strict=True))
    verdict = _tokens_verdict(names, found, bool((left == right).all()))
    content = {
        "models": [first.model, second.model],
        "labels": list(names),
        "one_tokenizer": True,
        "verdict": verdict,
        "masked_tokens": first.masked_tokens,
        "documents": first.tally.documents,
        "difference": {name: figure.to_dict() for name, figure in found.items()},
        "tables": _tables(first, second),
        "a": first.to_dict(),
        "b": second.to_dict(),
        "positions": first.tally.positions,
        "interval": INTERVAL,
        "notes": list(dict.fromkeys([*first.notes, *second.notes])),
    }
    return Comparison(verdict, True, content)


def _tables(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """Differences by row of each table."""
    tables = {}
    for table, span in first.tables:
        left, right = (found.tally.sums[:, 1:][:, span] for found in (first, second))
        change = right - left
        change[:, :, 0] = left[:, :, 0]
        asked = left[:, :, 0].sum(axis=0)
        rows = [
            {"label": label, "masked_tokens": int(count)}
            | {name: figure.to_dict() for name, figure in zip(COLUMNS[1:], figures, strict=True)}
            for label, count, figures in zip(table.labels, asked, group_figures(change), strict=True)
            if count
        ]
        tables[table.key] = {"title": table.title, "note": table.note, "rows": rows}
    return tables


def _tokens_verdict(names: Sequence[str], found: Mapping[str, Figure], same: bool) -> str:
    loss, accuracy = found["loss"], found["accuracy"]
    if same:
        return f"{names[0]} and {names[1]} are the same on this text: every masked token gets the same probability."
    if _sign(loss) == 0:
        return _undecided(names, loss, "loss", "nats per masked token") + _beside(names, accuracy)
    better, worse = names if loss.value > 0 else names[::-1]
    share = 1 - math.exp(-abs(loss.value))
    text = (
        f"{better} predicts this text better than {worse}: its loss is {_size(loss, '.3f')} nats lower per masked token, "
        f"so its perplexity is {share:.0%} lower"
    )
    if _sign(accuracy) == 0:
        return f"{text}; how many masked tokens they fill in exactly does not tell them apart."
    points = f"{_size(accuracy, '.1f', 100)} points"
    if (accuracy.value > 0) == (loss.value < 0):
        return f"{text}, and it fills in {points} more of the masked tokens exactly."
    return f"{text}; yet {worse} fills in {points} more of the masked tokens exactly."


def _beside(names: Sequence[str], accuracy: Figure) -> str:
    if _sign(accuracy) == 0:
        return ""
    better = names[1] if accuracy.value > 0 else names[0]
    return f" But {better} fills in {_size(accuracy, '.1f', 100)} points more of the masked tokens exactly."


def _words_verdict(names: Sequence[str], words: Found, bits: Found) -> str:
    byte = _figure(bits["difference"])
    word = _figure(words["difference"]["loss_per_word"])
    signs = _sign(byte), _sign(word)
    if signs == (0, 0):
        return _undecided(names, byte, "cost", "bits per byte")
    if 0 in signs or signs[0] == signs[1]:
        better, worse = names if sum(signs) > 0 else names[::-1]
        parts = [
            f"{_size(figure, '.3f')} {unit}"
            for figure, unit in ((byte, "bits per byte fewer"), (word, "nats fewer per masked word"))
            if _sign(figure)
        ]
        rest = (
            ""
            if all(signs)
            else f"; {'bits per byte do' if signs[0] == 0 else 'whole words do'} not tell them apart"
        )
        return f"{better} predicts this text better than {worse}: it needs {' and '.join(parts)}{rest}."
    one, other = (names[0] if sign > 0 else names[1] for sign in signs)
    return (
        f"The two measures disagree: {one} needs {_size(byte, '.3f')} bits per byte fewer, {other} "
        f"{_size(word, '.3f')} nats fewer per masked word."
    )


def _undecided(names: Sequence[str], figure: Figure, what: str, unit: str) -> str:
    if figure.interval is None:
        return (
            f"There are too few documents to tell {names[0]} from {names[1]}; on these the {what} of {names[1]} is "
            f"{abs(figure.value):.3f} {unit} {'higher' if figure.value > 0 else 'lower'}."
        )
    return (
        f"No difference between {names[0]} and {names[1]} can be told from this text: the {what} of {names[1]} minus that "
        f"of {names[0]} is {figure.value:+.3f} {unit} (95% interval {figure.low:+.3f} to {figure.high:+.3f})."
    ).replace("-0.", "−0.")


def _sign(figure: Figure) -> int:
    """Return 1 or -1 for a difference whose interval leaves zero out, otherwise 0."""
    return 1 if figure.low > 0 else -1 if figure.high < 0 else 0


def _size(figure: Figure, style: str, scale: float = 1.0) -> str:
    """A difference without its sign, with its interval."""
    low, high = sorted(abs(scale * end) for end in (figure.low, figure.high))
    return f"{abs(scale * figure.value):{style}} ({low:{style}} to {high:{style}})"


def _figure(found: Found) -> Figure:
    low, high = found["interval"] or (math.nan, math.nan)
    return Figure(found["value"], low, high)


def _tokenizer_notes(
    models: tuple[MaskedLM, MaskedLM], names: Sequence[str], words: Found, bits: Found
) -> list[str]:
    notes = [
        "the tokenizers differ, so the models are compared on whole words and in bits per byte; a loss per token would "
        "compare nothing"
    ]
    simpler = [_simplifies(model) for model in models]
    if simpler[0] != simpler[1]:
        name = names[0] if simpler[0] else names[1]
        notes.append(
            f"the tokenizer of {name} drops capitals or accents, so it has less to predict than the other"
        )
    notes += [f"left out {number:,} masked words: {reason}" for reason, number in words["left_out"].items()]
    if bits["left_out"]:
        notes.append(f"left out {bits['left_out']:,} passages: a tokenizer cannot spell something in them")
    return notes


def _simplifies(model: MaskedLM) -> bool:
    normalizer = plain_copy(model.tokenizer).normalizer
    return normalizer is not None and normalizer.normalize_str("Aé") not in ("Aé", "Ae\u0301")
