"""``unmask eval``: metrics of models on frozen masks of a text, with intervals, strata, calibration and baselines.

All models are evaluated on the same share of the text; models with one tokenizer on the very same positions, of which
``Evaluation.positions`` is a hash.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unmask.config.settings import DocumentSettings, MaskingSettings, Settings
from unmask.data.batches import TextSource
from unmask.data.corpus import token_counts
from unmask.data.hub import offline_mode
from unmask.data.tokenizer import tokenizer_hash
from unmask.data.unknown import require_measurable
from unmask.errors import ConfigError, plural
from unmask.evaluation.baselines import BaselineSums, NoBaselines, tally_baselines
from unmask.evaluation.bootstrap import INTERVAL, Estimate, calibration, flat, interval_notes
from unmask.evaluation.heldout import MASKS, Tally, tally
from unmask.evaluation.metrics import group_metrics, metrics_of, perplexity, with_perplexity
from unmask.evaluation.strata import Strata, Table
from unmask.evaluation.text_cache import (
    EvaluationText,
    LogOnce,
    TextInputs,
    lines_of_few_files,
    sequence_length,
    split_as_in_training,
    warn_of_training_text,
)
from unmask.model.base import LanguageModel
from unmask.model.load import load_for_inference
from unmask.progress import Progress
from unmask.reporting.format import METRICS, interval, metric
from unmask.reporting.reading import left_out
from unmask.reporting.results import Result, Rows

if TYPE_CHECKING:
    from unmask.data.corpus import Corpus

ModelLike = str | Path | LanguageModel
"""A Hub name, a model folder, a run folder, or a model in memory."""


class EvaluationSettings(Settings):
    """How models are evaluated."""

    documents: DocumentSettings = DocumentSettings()
    """How files become documents."""
    masking: MaskingSettings = MaskingSettings()
    """Strategy and rate; the targets never change, and are replaced by the mask token. ``mask_share`` and
    ``random_share`` are those of the table by replacement."""
    max_length: int | None = None
    """Tokens of a sequence; by default 512, or what the models take if that is less."""
    tokens: int | None = None
    """Tokens to read at most, of documents chosen by their hash; by default all."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; of a model in memory its own device."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Precision of the computation; of a model in memory its own."""
    offline: bool = False
    """Make no network call."""


DEFAULTS = EvaluationSettings()


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """The evaluation of one model on a text.

    Attributes:
        model: its name.
        label: a short name that is unique among the models evaluated together.
        tally: the sums that all metrics are computed from.
        tables: the tables, and where their rows lie among the groups of the sums.
        baselines: the same sums for the baselines.
        facts: text, masking and model, ready for JSON.
        notes: remarks for the reader.
        captions: those of them that belong to the tables and baselines.
    """

    model: str
    label: str
    tally: Tally
    tables: list[tuple[Table, slice]]
    baselines: BaselineSums | NoBaselines
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)

    @cached_property
    def metrics(self) -> dict[str, Estimate]:
        """Loss (nats), perplexity, accuracy at 1, 5 and 10 and mean reciprocal rank, over all targets, hidden by the mask token."""
        return with_perplexity(metrics_of(self.tally.sums[:, 0]))

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a masked token, in nats."""
        return self.metrics["loss"].value

    @property
    def accuracy(self) -> float:
        """Share of the masked tokens whose most probable token is the true one."""
        return self.metrics["accuracy"].value

    @property
    def masked_tokens(self) -> int:
        return self.tally.masked_tokens

    def _title(self) -> str:
        return (
            f"evaluation of {self.label} at {plural(self.masked_tokens, 'masked token')} of "
            f"{plural(self.tally.documents, 'document')}, {MASKS}"
        )

    def _shown_rows(self) -> Rows:
        return [
            {
                "metric": METRICS.get(name, name),
                "value": metric(name, found.value),
                "95% interval": interval(name, found.interval),
            }
            for name, found in self.metrics.items()
        ]

    def _listed_rows(self) -> Rows:
        return [{"model": self.label, **row} for row in self._shown_rows()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "model": self.model,
            "label": self.label,
            **flat(self.metrics),
            "masked_tokens": self.masked_tokens,
            "tokens": self.tally.tokens,
            "documents": self.tally.documents,
            **self.facts,
            "positions": self.tally.positions,
            "tables": {table.key: self._table(table, span) for table, span in self.tables},
            "calibration": self._calibration(),
            **self._baselines(),
            "interval": INTERVAL,
            "notes": self.notes,
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row for each metric: ``model``, ``metric``, ``value``, ``low`` and ``high`` (of the interval)."""
        return [
            {"model": self.label, "metric": name, **metric._asdict()} for name, metric in self.metrics.items()
        ]

    def _table(self, table: Table, span: slice) -> dict[str, Any]:
        groups = group_metrics(table.labels, self.tally.sums[:, 1:][:, span])
        rows = [row | flat(metrics) for row, metrics in groups]
        return {"title": table.title, "note": table.note, "labels": list(table.labels), "rows": rows}

    def _calibration(self) -> dict[str, Any]:
        found = calibration(self.tally.bins)
        columns = (found.low, found.high, found.targets, found.confidence, found.accuracy)
        names = ("low", "high", "masked_tokens", "confidence", "accuracy")
        rows = [dict(zip(names, row, strict=True)) for row in np.stack(columns, axis=1).tolist()]
        bins = [row | {"masked_tokens": int(row["masked_tokens"])} for row in rows if row["masked_tokens"]]
        return {"expected_calibration_error": found.error, "bins": bins}

    def _baselines(self) -> dict[str, Any]:
        if isinstance(self.baselines, NoBaselines):
            return {"baselines": None, "baselines_fitted_on": None}
        rows = {
            name: flat(metrics_of(sums)) | {"what": self.baselines.what[name]}
            for name, sums in self.baselines.sums.items()
        }
        return {"baselines": rows, "baselines_fitted_on": self.baselines.fitted_on}


def evaluate(
    models: ModelLike | Sequence[ModelLike],
    data: TextInputs,
    settings: EvaluationSettings = DEFAULTS,
    *,
    train_data: TextInputs = (),
    progress: Progress = Progress(),
) -> list[Evaluation]:
    """Evaluate models on the masked tokens of a text. Models given by name are in memory one at a time.

    Args:
        models: Hub names, model folders, run folders or models in memory; one or several.
        data: text as the readers take it, or one folder of prepared shards.
        settings: masking, limits, device and precision.
        train_data: text on which token frequencies and the baselines are counted; by default frequencies are counted
            on the evaluated text, and each document is predicted by baselines counted on the others.
        progress: gets progress and messages.

    Raises:
        ConfigError: a model cannot be loaded, or settings do not fit it.
        DataError: the text cannot be read, is empty, or has no masked token.
        DivergedError: a model's probabilities are NaN or infinite.
    """
    models = as_models(models)
    load = Loader(settings, progress)
    names = model_names(models)
    documents = split_as_in_training(models, settings.documents, progress)
    with (
        offline_mode(settings.offline),
        EvaluationText(data, documents, progress) as text,
        EvaluationText(train_data, documents, progress) as train,
    ):
        warn_of_training_text(models, text.inputs, progress)
        evaluator = Evaluator(text, train if train.inputs else None, settings, progress)
        length = sequence_length(settings.max_length, [load(model).max_length for model in models])
        found = [
            evaluator.evaluate(name, label, load(model), length)
            for name, label, model in zip(names, labels(names), models, strict=True)
        ]
    for note in dict.fromkeys(note for evaluation in found for note in evaluation.notes):
        progress.log(note)
    return found


def as_models(models: ModelLike | Sequence[ModelLike]) -> list[ModelLike]:
    """Return one model or several as a list.

    Raises:
        ConfigError: there is none.
    """
    found = [models] if isinstance(models, ModelLike) else list(models)
    if not found:
        raise ConfigError("no model given; name a checkpoint: a Hub name, a model folder or a run folder")
    return found


def model_names(models: Sequence[ModelLike]) -> list[str]:
    """Return the names of models; one in memory has that of its configuration, or else its class."""
    return [model.name if isinstance(model, LanguageModel) else str(model) for model in models]


def labels(names: Sequence[str]) -> list[str]:
    """Return unique short names of models: the last parts of a path, as many as that takes."""
    parts = [Path(name).parts or (name,) for name in names]
    # The result of every run is in a folder "model".
    least = 2 if any(part[-1] == "model" for part in parts) else 1
    for count in range(least, max(least, *map(len, parts)) + 1):
        short = ["/".join(part[-count:]).replace("//", "/") for part in parts]
        if len(set(short)) == len(set(names)):
            break
    return [f"{name} ({place})" if short.count(name) > 1 else name for place, name in enumerate(short, 1)]


class Loader:
    """Loads models for inference, all in one precision, and keeps the last one."""

    def __init__(self, settings: EvaluationSettings, progress: Progress) -> None:
        self.settings, self.progress = settings, LogOnce(progress)
        self._last: tuple[ModelLike, LanguageModel] | None = None

    def __call__(self, model: ModelLike) -> LanguageModel:
        if isinstance(model, LanguageModel):
            model.require_head()
            return model
        if self._last is None or self._last[0] != model:
            self._last = None
            self._last = model, self.load(model)
        return self._last[1]

    def load(self, model: ModelLike) -> LanguageModel:
        """Load a model anew.

        Raises:
            ConfigError: it cannot be loaded, or has no trained LM head.
        """
        loaded = load_for_inference(
            model,
            device=self.settings.device,
            precision=self.settings.precision,
            offline=self.settings.offline,
            progress=self.progress,
        )
        loaded.require_head()
        return loaded


class Evaluator:
    """Evaluates models one after the other; what depends on the tokenizer alone is computed once for each."""

    def __init__(
        self,
        text: EvaluationText,
        train: EvaluationText | None,
        settings: EvaluationSettings,
        progress: Progress,
    ) -> None:
        self.text, self.train, self.settings, self.progress = text, train, settings, progress
        self._baselines: dict[tuple[str, int], BaselineSums | NoBaselines] = {}

    def evaluate(self, name: str, label: str, model: LanguageModel, length: int) -> Evaluation:
        """Evaluate one model, in sequences of ``length`` tokens.

        Raises:
            DataError: the text cannot be used.
            DivergedError: the model's probabilities are NaN or infinite.
        """
        corpus = self.text.corpus(model.tokenizer)
        unknown = corpus.unknown(model.tokenizer)
        require_measurable(unknown)
        source = self._source(corpus, model, length)
        counted = None if self.train is None else self.train.corpus(model.tokenizer)
        strata = _strata(corpus, counted, model, self.settings.masking)
        self.progress.begin("evaluate")
        found = tally(model, source, strata, most=self.settings.tokens, progress=self.progress)
        self.progress.end()
        baselines = self._score_baselines(source, counted, model, length)
        facts, captions = self._facts(model, length), list(_captions(strata, baselines))
        notes = [*captions, *_notes(found)]
        facts |= {"unknown_tokens": unknown.unknown, "read": corpus.manifest["read"]}
        notes += [f"left out: {part}" for part in left_out(corpus.manifest["read"])]
        if message := lines_of_few_files(corpus.manifest["read"], self.text.settings):
            notes.append(message)
        if message := unknown.message():
            notes.append(f"unknown tokens are never targets: {message}")
        if counted is not None:
            seen = int(np.isin(corpus.keys, counted.keys).sum())
            facts |= {"train_data": self.train.inputs if self.train else [], "documents_in_train_data": seen}
            if seen:
                notes.append(
                    f"{seen:,} of {plural(len(corpus), 'document')} also in the training text, word for word"
                )
        return Evaluation(name, label, found, strata.spans(), baselines, facts, notes, captions)

    def _source(self, corpus: Corpus, model: LanguageModel, length: int) -> TextSource:
        return TextSource(corpus, np.arange(len(corpus)), model.vocabulary, self.settings.masking, length)

    def _score_baselines(
        self, source: TextSource, counted: Corpus | None, model: LanguageModel, length: int
    ) -> BaselineSums | NoBaselines:
        key = tokenizer_hash(model.tokenizer), length
        if key not in self._baselines:
            self.progress.begin("baselines")
            train = None if counted is None else self._source(counted, model, length)
            self._baselines[key] = tally_baselines(source, train, self.settings.tokens)
            self.progress.end()
        return self._baselines[key]

    def _facts(self, model: LanguageModel, length: int) -> dict[str, Any]:
        masking = self.settings.masking
        return {
            "data": self.text.inputs,
            "masks": MASKS,
            "mask_rate": masking.rate,
            "strategy": masking.strategy,
            "mask_share": masking.mask_share,
            "random_share": masking.random_share,
            "max_length": length,
            "precision": model.precision_name,
            "parameters": model.parameters,
            "vocabulary": model.vocabulary.size,
            "tokenizer": tokenizer_hash(model.tokenizer)[:16],
        }


def _strata(corpus: Corpus, counted: Corpus | None, model: LanguageModel, masking: MaskingSettings) -> Strata:
    base = corpus if counted is None else counted
    counts = token_counts(base, np.arange(len(base)), model.vocabulary.size)
    where = "the evaluated text itself" if counted is None else "the training text given"
    return Strata(counts, where, words=model.vocabulary.words is not None, masking=masking)


def _captions(strata: Strata, baselines: BaselineSums | NoBaselines) -> Iterator[str]:
    yield f"frequency of tokens: {strata.tables[0].note}"
    if isinstance(baselines, NoBaselines):
        yield f"no baselines: {baselines.why}"
    else:
        yield f"baselines counted on {baselines.fitted_on}"
    if all(table.key != "by_piece" for table in strata.tables):
        yield "no table by place in the word: this tokenizer does not mark where words begin"


def _notes(found: Tally) -> Iterator[str]:
    yield from interval_notes(found.documents, found.texts)
    if math.isinf(perplexity(found.sums[:, 0, 1].sum() / max(found.masked_tokens, 1))):
        yield "the perplexity is too large for a number"
