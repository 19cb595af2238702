"""What models make of a text: figures with intervals, tables, calibration, and the baselines beside them.

Every model is asked for the same share of the text on masks that never change; models with one tokenizer are asked
for the very same positions. ``Evaluation.positions`` is a hash of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.data.batches import TextSource
from unmask.data.corpus import token_counts
from unmask.data.tokenizer import tokenizer_hash
from unmask.errors import ConfigError
from unmask.evaluation.baseline_sums import BaselineSums, NoBaselines, tally_baselines
from unmask.evaluation.bootstrap import FEWEST_UNITS, LEVEL, RESAMPLES, SEED, Figure, calibration, ratios
from unmask.evaluation.heldout import COLUMNS, Tally, perplexity, tally
from unmask.evaluation.strata import Strata, Table
from unmask.evaluation.text_cache import Texts, sequence_length
from unmask.model.load import load_for_inference, pick_device
from unmask.model.masked_lm import MaskedLM
from unmask.model.precision import pick_precision
from unmask.progress import Progress

if TYPE_CHECKING:
    from unmask.data.corpus import Corpus

INTERVAL = f"{LEVEL:.0%}, percentiles of the bootstrap over documents, {RESAMPLES:,} resamples, seed {SEED}"


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are asked.

    Attributes:
        documents: how files become documents.
        masking: strategy and rate; the masks themselves never change.
        max_length: tokens of a sequence; by default 512, or what the models take if that is less.
        tokens: tokens to read at most; which documents these are is decided by their hash. By default all.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        offline: make no network call.
    """

    documents: DocumentSettings = DocumentSettings()
    masking: MaskingSettings = MaskingSettings()
    max_length: int | None = None
    tokens: int | None = None
    device: str = "auto"
    precision: str = "fp32"
    offline: bool = False


DEFAULTS = EvaluationSettings()


@dataclass(frozen=True)
class Evaluation:
    """What one model makes of a text.

    Attributes:
        model: its name.
        label: a shorter one, which tells it from those evaluated with it.
        tally: the sums behind all figures.
        tables: the tables, and where their rows lie among the groups of the sums.
        baselines: the same for the baselines.
        facts: what was asked and how, ready for JSON.
        notes: what a reader has to know.
    """

    model: str
    label: str
    tally: Tally
    tables: list[tuple[Table, slice]]
    baselines: BaselineSums | NoBaselines
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Loss (nats), perplexity, accuracy at 1, 5 and 10 and mean reciprocal rank, over all targets."""
        found = dict(zip(COLUMNS[1:], _figures(self.tally.sums[:, 0]), strict=True))
        return {"loss": found["loss"], "perplexity": found["loss"].map(perplexity), **found}

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a masked token, in nats."""
        return self.figures["loss"].value

    @property
    def accuracy(self) -> float:
        """Share of the masked tokens whose most probable filling is the token that stood there."""
        return self.figures["accuracy"].value

    @property
    def masked_tokens(self) -> int:
        return self.tally.masked_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "model": self.model,
            "label": self.label,
            **_flat(self.figures),
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

    def _table(self, table: Table, span: slice) -> dict[str, Any]:
        groups = self.tally.sums[:, 1:][:, span]
        asked = groups[:, :, 0].sum(axis=0)
        rows = [
            {"label": label, "masked_tokens": int(count)}
            | _flat(dict(zip(COLUMNS[1:], figures, strict=True)))
            for label, count, figures in zip(table.labels, asked, group_figures(groups), strict=True)
            if count
        ]
        return {"title": table.title, "note": table.note, "labels": list(table.labels), "rows": rows}

    def _calibration(self) -> dict[str, Any]:
        found = calibration(self.tally.bins)
        columns = (found.low, found.high, found.targets, found.confidence, found.accuracy)
        rows = [
            {
                "low": low,
                "high": high,
                "masked_tokens": int(count),
                "confidence": confidence,
                "accuracy": accuracy,
            }
            for low, high, count, confidence, accuracy in np.stack(columns, axis=1).tolist()
            if count
        ]
        return {"expected_calibration_error": found.error, "bins": rows}

    def _baselines(self) -> dict[str, Any]:
        if isinstance(self.baselines, NoBaselines):
            return {"baselines": None, "baselines_fitted_on": None}
        names = ("loss", "accuracy")
        rows = {
            name: _flat(dict(zip(names, _figures(sums), strict=True))) | {"what": self.baselines.what[name]}
            for name, sums in self.baselines.sums.items()
        }
        return {"baselines": rows, "baselines_fitted_on": self.baselines.fitted_on}


def _figures(sums: np.ndarray) -> list[Figure]:
    """Return the figures of ``[U, C]`` sums whose first column counts."""
    return ratios(sums[:, 1:], sums[:, :1])


def group_figures(groups: np.ndarray) -> list[list[Figure]]:
    """Return, for each of G groups, the figures of ``[U, G, C]`` sums."""
    units, _, columns = groups.shape
    flat = ratios(
        groups[:, :, 1:].reshape(units, -1),
        np.repeat(groups[:, :, :1], columns - 1, axis=2).reshape(units, -1),
    )
    return [flat[begin : begin + columns - 1] for begin in range(0, len(flat), columns - 1)]


def _flat(figures: dict[str, Figure]) -> dict[str, Any]:
    """Values by name, and their intervals under one name."""
    values: dict[str, Any] = {name: found.value for name, found in figures.items()}
    return values | {"intervals": {name: found.interval for name, found in figures.items()}}


def evaluate_models(
    models: Sequence[str],
    data: Sequence[str],
    settings: EvaluationSettings = DEFAULTS,
    *,
    train_data: Sequence[str] = (),
    progress: Progress = Progress(),
) -> list[Evaluation]:
    """Ask models for the masked tokens of a text. One model at a time is in memory.

    Args:
        models: Hub names or folders.
        data: whatever the readers take, or one folder of prepared shards.
        settings: how they are asked.
        train_data: text that the frequency of tokens and the baselines are counted on; by default frequency is
            counted on the evaluated text, and each document is scored by baselines counted on others.
        progress: is told what goes on.

    Raises:
        ConfigError: a model cannot be loaded, or settings do not fit it.
        DataError: the text cannot be read, is empty, or has no masked token.
        DivergedError: a model gives no finite probabilities.
    """
    if not models:
        raise ConfigError("no model to evaluate; name a checkpoint: a Hub name or a folder")
    loader = Loader(settings, progress)
    with (
        Texts(data, settings.documents, progress) as texts,
        Texts(train_data, settings.documents, progress) as train,
    ):
        session = Session(texts, train if train_data else None, settings, progress)
        length = sequence_length(settings.max_length, [loader(name).max_length for name in models])
        names = zip(models, labels(models), strict=True)
        found = [session.evaluate(name, label, loader(name), length) for name, label in names]
    for note in dict.fromkeys(note for evaluation in found for note in evaluation.notes):
        progress.log(note)
    return found


def labels(models: Sequence[str]) -> list[str]:
    """Return short names that tell models apart: as much of the end of a path as that takes."""
    parts = [Path(name).parts or (name,) for name in models]
    # The result of every run is in a folder "model".
    least = 2 if any(part[-1] == "model" for part in parts) else 1
    for count in range(least, max(least, *map(len, parts)) + 1):
        short = ["/".join(part[-count:]).replace("//", "/") for part in parts]
        if len(set(short)) == len(set(models)):
            break
    return [f"{name} ({place})" if short.count(name) > 1 else name for place, name in enumerate(short, 1)]


class Loader:
    """Loads models by name and keeps the last one."""

    def __init__(self, settings: EvaluationSettings, progress: Progress) -> None:
        self.settings, self.progress = settings, progress
        self._loaded: set[str] = set()  # nothing is logged twice for a model that is loaded again
        self._last: tuple[str, MaskedLM] | None = None
        device = pick_device(settings.device)
        self.precision, why = pick_precision(settings.precision, device)
        if settings.precision == "auto":
            progress.log(why)

    def __call__(self, name: str) -> MaskedLM:
        if self._last is None or self._last[0] != name:
            self._last = None
            self._last = name, self.load(name)
        return self._last[1]

    def load(self, name: str) -> MaskedLM:
        """Load a model anew.

        Raises:
            ConfigError: it cannot be loaded.
        """
        settings = self.settings
        progress = Progress() if name in self._loaded else self.progress
        self._loaded.add(name)
        return load_for_inference(
            name,
            device=settings.device,
            precision=self.precision,
            offline=settings.offline,
            progress=progress,
        )


class Session:
    """Evaluates models one after the other; what depends on the tokenizer alone is done once for each."""

    def __init__(
        self, texts: Texts, train: Texts | None, settings: EvaluationSettings, progress: Progress
    ) -> None:
        self.texts, self.train, self.settings, self.progress = texts, train, settings, progress
        self._baselines: dict[tuple[str, int], BaselineSums | NoBaselines] = {}

    def evaluate(self, name: str, label: str, model: MaskedLM, length: int) -> Evaluation:
        """Ask one model, in sequences of ``length`` tokens.

        Raises:
            DataError: the text cannot be used.
            DivergedError: the model gives no finite probabilities.
        """
        corpus = self.texts.corpus(model.tokenizer)
        source = self._source(corpus, model, length)
        counted = None if self.train is None else self.train.corpus(model.tokenizer)
        strata = _strata(corpus, counted, model)
        self.progress.begin("evaluate")
        found = tally(model, source, strata, most=self.settings.tokens, progress=self.progress)
        self.progress.end()
        baselines = self._ask_baselines(source, counted, model, length)
        facts, notes = self._facts(model, length), _notes(found, strata, baselines)
        if counted is not None:
            seen = int(np.isin(corpus.keys, counted.keys).sum())
            facts |= {"train_data": self.train.inputs if self.train else [], "documents_in_train_data": seen}
            if seen:
                notes.append(
                    f"{seen:,} of {len(corpus):,} documents stand word for word in the training text"
                )
        return Evaluation(name, label, found, strata.spans(), baselines, facts, notes)

    def _source(self, corpus: Corpus, model: MaskedLM, length: int) -> TextSource:
        return TextSource(corpus, np.arange(len(corpus)), model.vocabulary, self.settings.masking, length)

    def _ask_baselines(
        self, source: TextSource, counted: Corpus | None, model: MaskedLM, length: int
    ) -> BaselineSums | NoBaselines:
        key = tokenizer_hash(model.tokenizer), length
        if key not in self._baselines:
            self.progress.begin("baselines")
            train = None if counted is None else self._source(counted, model, length)
            self._baselines[key] = tally_baselines(source, train, self.settings.tokens)
            self.progress.end()
        return self._baselines[key]

    def _facts(self, model: MaskedLM, length: int) -> dict[str, Any]:
        masking = self.settings.masking
        return {
            "data": self.texts.inputs,
            "mask_rate": masking.rate,
            "strategy": masking.strategy,
            "mask_share": masking.mask_share,
            "random_share": masking.random_share,
            "max_length": length,
            "precision": "bf16" if model.autocast else "fp32",
            "parameters": model.parameters,
            "vocabulary": model.vocabulary.size,
            "tokenizer": tokenizer_hash(model.tokenizer)[:16],
        }


def _strata(corpus: Corpus, counted: Corpus | None, model: MaskedLM) -> Strata:
    base = corpus if counted is None else counted
    counts = token_counts(base, np.arange(len(base)), model.vocabulary.size)
    where = "the evaluated text itself" if counted is None else "the training text given"
    return Strata(counts, where, words=model.vocabulary.words is not None)


def _notes(found: Tally, strata: Strata, baselines: BaselineSums | NoBaselines) -> list[str]:
    notes = [f"frequency of tokens: {strata.tables[0].note}"]
    if isinstance(baselines, NoBaselines):
        notes.append(f"no baselines: {baselines.why}")
    else:
        notes.append(f"baselines counted on {baselines.fitted_on}")
    if len(strata.tables) < 3:
        notes.append("no table by place in the word: this tokenizer does not say where words begin")
    if found.documents < FEWEST_UNITS:
        notes.append(
            f"no intervals: the text has {found.documents} document(s) with a masked token, and intervals over documents "
            f"need {FEWEST_UNITS}"
        )
    elif found.documents < 20:
        notes.append(f"intervals rest on {found.documents} documents only: take them as rough")
    if math.isinf(perplexity(found.sums[:, 0, 1].sum() / max(found.masked_tokens, 1))):
        notes.append("the perplexity is too large for a number")
    return notes
