"""Two models with different tokenizers on one scale: the same whole words, and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from unmask.errors import DataError, plural
from unmask.evaluation.bootstrap import LEVEL, Floats, flat, ratios, resampling_units
from unmask.evaluation.evaluate import EvaluationSettings
from unmask.evaluation.heldout import batch_budget
from unmask.evaluation.metrics import metrics_of, paired_sums
from unmask.evaluation.sampling import Sampled, sample_documents, sample_passages
from unmask.evaluation.text_cache import EvaluationText
from unmask.evaluation.word_units import (
    Passage,
    UnitTokenizer,
    WordScores,
    WordSplitter,
    batched,
    score_words,
)
from unmask.model.base import LanguageModel
from unmask.progress import PartOf, Progress
from unmask.scoring.scorer import Scorer

ModelPair = tuple[LanguageModel, LanguageModel]

METHOD = "within_word_l2r"
"""The later subwords of a word are hidden while an earlier one is scored, so that finer subwords gain nothing."""
DIFFERENCE_LEVEL = 1 - (1 - LEVEL) / 2
"""Coverage of the interval of each difference: one verdict is made from two of them (Bonferroni)."""
PASSAGE_BYTES = 300
PLL_BYTES = {"cpu": 10_000, "cuda": 200_000}

_METRICS = ("loss_per_word", "accuracy", "subwords_per_word")
_BYTES_PER_TOKEN = 16


def compare_words(
    models: ModelPair,
    text: EvaluationText,
    settings: EvaluationSettings,
    length: int,
    progress: Progress = Progress(),
) -> dict[str, Any]:
    """Score the same whole words by two models.

    Args:
        models: the two.
        text: the text.
        settings: ``masking.rate`` is the share of the words that are masked, ``tokens`` a limit of the tokens read.
        length: tokens of a sequence at most, for both models.
        progress: gets the share done.

    Returns:
        A dictionary for JSON: ``masked_words``, ``documents``, ``texts`` (copies once); ``models``, for each ``loss_per_word`` (nats),
        ``accuracy`` (all subwords right), ``subwords_per_word`` and ``intervals``; ``difference`` (second minus first)
        of loss and accuracy; ``left_out``, words that could not be compared, by reason.

    Raises:
        DataError: the text cannot be read, or no word of it is masked.
        DivergedError: a model's probabilities are NaN or infinite.
    """
    first, second = (UnitTokenizer(model.tokenizer, model.vocabulary, length, model.name) for model in models)
    counter = _WordCounter(WordSplitter((first, second), settings.masking.rate), settings.tokens)
    size = max(model.vocabulary.size for model in models)
    budget = batch_budget(size, min(1.0, 2 * settings.masking.rate))
    limit = None if settings.tokens is None else _BYTES_PER_TOKEN * settings.tokens
    progress.begin("words")
    documents: Iterable[Sampled] = sample_documents(text.documents(), limit)
    total = None
    if limit is not None:  # they are in memory at any rate
        documents = list(documents)
        total = sum(len(document.text) for document in documents)
    for group in batched(counter.passages(documents), budget):
        counter.add(group, [score_words(model, group, which) for which, model in enumerate(models)])
        share = None
        if total and settings.tokens:
            share = max(counter.characters / total, min(1.0, counter.tokens / settings.tokens))
        progress.advance(share, {"documents": len(counter.keys), "words": counter.words})
    progress.advance(1.0, {"documents": len(counter.keys), "words": counter.words})
    progress.end()
    return counter.to_dict()


class _WordCounter:
    """Yields the passages of documents and adds up their scores."""

    def __init__(self, splitter: WordSplitter, most: int | None) -> None:
        self.splitter, self.most = splitter, most
        self.keys: list[int] = []
        self.rows: list[np.ndarray] = []
        self.words = self.tokens = self.characters = 0

    def passages(self, documents: Iterable[Sampled]) -> Iterator[Passage]:
        for document in documents:
            self.keys.append(document.key)
            self.rows.append(np.zeros(7))
            for passage in self.splitter.passages(len(self.keys) - 1, document.text):
                self.tokens += max(len(side.ids) for side in passage.sides)
                yield passage
                if self.most is not None and self.tokens >= self.most:
                    return
            self.characters += len(document.text)

    def add(self, passages: Sequence[Passage], scores: Sequence[WordScores]) -> None:
        columns = [column for found in scores for column in (found.loss, found.right, found.subwords)]
        values = np.stack([np.ones(len(columns[0])), *columns], axis=1)
        self.words += len(values)
        begin = 0
        for passage in passages:
            self.rows[passage.document] += values[begin : begin + passage.chosen].sum(axis=0)
            begin += passage.chosen

    def to_dict(self) -> dict[str, Any]:
        if not self.words:
            left_out = [
                f"{plural(count, 'word')}: {why}" for why, count in self.splitter.left_out.items() if count
            ]
            why = (
                f"left out were {'; '.join(left_out)}. Give other text, or look at each model by itself: unmask eval"
                if left_out
                else "give more text, or a higher --mask-rate"
            )
            raise DataError(f"no word of the text is masked, so there is nothing to compare; {why}")
        sums = _added(resampling_units(np.array(self.keys, dtype=np.uint64)), np.stack(self.rows))
        first, second = sums[:, :4], sums[:, [0, 4, 5, 6]]
        difference = metrics_of(
            paired_sums(first, second), _METRICS[:2], difference=True, level=DIFFERENCE_LEVEL
        )
        predicted = np.stack(self.rows)[:, 0] > 0
        return {
            "masked_words": self.words,
            "documents": int(predicted.sum()),
            "texts": len(np.unique(np.array(self.keys, dtype=np.uint64)[predicted])),
            "rate": self.splitter.rate,
            "models": [flat(metrics_of(side, _METRICS)) for side in (first, second)],
            "difference": {name: metric.to_dict() for name, metric in difference.items()},
            "left_out": {reason: number for reason, number in self.splitter.left_out.items() if number},
        }


def compare_bits(
    models: ModelPair, text: EvaluationText, most_bytes: int, progress: Progress = Progress()
) -> dict[str, Any]:
    """Score short passages by pseudo-log-likelihood, per byte of their text.

    Every token is masked in its turn, which takes as many passes as there are tokens, so a sample is scored: see
    :func:`~unmask.evaluation.sampling.sample_passages`.

    Args:
        models: the two.
        text: the text.
        most_bytes: bytes of passages to score, at most.
        progress: gets the share done.

    Returns:
        A dictionary for JSON: ``bytes``, ``passages``, ``documents``, ``method``; ``models``, for each ``value`` and ``interval``;
        ``difference`` (second minus first); ``left_out``, passages with something a tokenizer cannot spell.

    Raises:
        DataError: the text cannot be read, or no passage can be scored by both.
    """
    passages = sample_passages(text.documents(), most_bytes, PASSAGE_BYTES)
    texts = [found.text for found in passages]
    progress.begin("bits per byte")
    first, second = (
        list(
            Scorer(model, method=METHOD)(
                texts, progress=PartOf(progress, number, len(models), {"model": number + 1})
            )
        )
        for number, model in enumerate(models)
    )
    progress.end()
    rows, kept = [], []
    for passage, left, right in zip(passages, first, second, strict=True):
        if not (left.error or right.error or left.unknown or right.unknown):
            rows.append([left.bytes * math.log(2), -left.pll, -right.pll])
            kept.append(passage.key)
    if not rows:
        found = zip(models, (first, second), strict=True)
        which = [model.name for model, side in found if any(score.error or score.unknown for score in side)]
        raise DataError(
            f"none of {plural(len(passages), 'passage')} can be scored by both models: the tokenizer of {' and that of '.join(which)} "
            f"cannot spell the text. Give text that both can spell, or look at each model by itself: unmask eval"
        )
    _, document = np.unique(np.array(kept, dtype=np.uint64), return_inverse=True)
    sums = _added(document, np.array(rows))
    difference = metrics_of(
        paired_sums(sums[:, :2], sums[:, [0, 2]]), ["bits"], difference=True, level=DIFFERENCE_LEVEL
    )
    return {
        "bytes": round(float(sums[:, 0].sum()) / math.log(2)),
        "passages": len(rows),
        "documents": len(sums),
        "method": METHOD,
        "models": [metric.within(0, math.inf).to_dict() for metric in ratios(sums[:, 1:], sums[:, :1])],
        "difference": difference["bits"].to_dict(),
        "left_out": len(passages) - len(rows),
    }


def _added(place: np.ndarray, rows: np.ndarray) -> Floats:
    """Add up ``[N, C]`` rows to those of their ``int64 [N]`` documents or resampling units."""
    sums = np.zeros((int(place.max()) + 1, rows.shape[1]))
    np.add.at(sums, place, rows)
    return sums
