"""``unmask probe``: linear probes and fine-tuning on a labelled task, with several seeds and paired verdicts."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import model_validator

from unmask.config.settings import Settings
from unmask.errors import ConfigError
from unmask.evaluation.bootstrap import Floats
from unmask.evaluation.evaluate import ModelLike, as_models, model_names
from unmask.evaluation.evaluate import labels as short_names
from unmask.model.load import load_for_inference, pick_device
from unmask.model.masked_lm import MaskedLM
from unmask.model.precision import pick_precision
from unmask.probing.features import Pool, encode
from unmask.probing.learn import Codes, FineTuningSettings, Learner, Part, finetune, probe_frozen
from unmask.probing.metrics import (
    MAIN,
    Labels,
    Verdict,
    check_packages,
    classes_of,
    counts_of,
    interval,
    label_metrics,
    main_metric,
    resampled,
    spread,
)
from unmask.probing.tasks import Examples, Task, label_set, read_task, resolve_overlap, sample
from unmask.progress import Progress
from unmask.reporting.format import plural
from unmask.reporting.results import Result

Method = Literal["frozen", "finetune", "both"]

_DEV = 1_000  # most examples that choose the regularisation
INTERVAL = (
    "percentile interval of the mean over seeds; test examples and seeds drawn with replacement, paired"
)
SEEDS = {
    "frozen": "a seed resamples the training examples with replacement, so it sees about 63% of them, and metrics are "
    "slightly below those of training on all",
    "finetune": "a seed changes the new head, the order of examples and dropout",
}


class ProbeSettings(Settings):
    """How models are probed.

    Raises:
        ConfigError: a value that cannot work.
    """

    method: Method = "frozen"
    """``frozen`` (logistic regression on the features of the frozen encoder), ``finetune``, or ``both``."""
    seeds: int = 5
    """Repetitions, with seeds 0 to ``seeds - 1``. A seed resamples the training examples with replacement for the frozen
    probe; in fine-tuning it changes the new head, the order of examples and dropout."""
    limit: int | None = None
    """Training examples at most, the same ones for every seed and model."""
    pool: Pool = "mean"
    """A text as the ``mean`` over its tokens, or the vector of its first one (``cls``)."""
    max_length: int | None = None
    """Tokens of a sequence; by default what the model takes."""
    tuning: FineTuningSettings = FineTuningSettings()
    """Epochs, batch size and learning rate of fine-tuning."""
    allow_overlap: bool = False
    """Report although test texts occur in train."""
    drop_overlap: bool = False
    """Remove such texts from train."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; of a model in memory its own device."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the computation; of a model in memory its own."""
    offline: bool = False
    """Make no network call."""

    @model_validator(mode="before")
    @classmethod
    def _known_choices(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, choices in (("method", get_args(Method)), ("pool", get_args(Pool))):
            if values.get(name, choices[0]) not in choices:
                raise ConfigError(f"{name} is '{values[name]}', expected one of {', '.join(choices)}")
        return values

    @model_validator(mode="after")
    def _enough(self) -> ProbeSettings:
        if self.seeds < 1 or (self.limit is not None and self.limit < 2):
            raise ConfigError("a probe needs at least one seed and two training examples")
        if self.tuning.epochs < 1 or self.tuning.batch < 1:
            raise ConfigError("fine-tuning needs at least one epoch and one example per step")
        return self

    @property
    def methods(self) -> tuple[str, ...]:
        return ("frozen", "finetune") if self.method == "both" else (self.method,)


DEFAULTS = ProbeSettings()


@dataclass(frozen=True)
class ModelProbe:
    """The results of one model by one method.

    Attributes:
        model: its name. label: a shorter one.
        method: ``frozen`` or ``finetune``.
        metrics: S values of each metric, one per seed, 0 to 1.
        interval: 95% interval of the mean of the main metric, or ``None``.
        chosen: regularisation strength, or learning rate, epochs and batch size.
        truncated: number of texts of train and test that were longer than the model takes.
        seconds: how long it took.
    """

    model: str
    label: str
    method: str
    metrics: dict[str, list[float]]
    interval: list[float] | None
    chosen: dict[str, Any]
    truncated: dict[str, int]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        metrics = {
            name: {"mean": float(np.mean(values)), "sd": spread(values), "values": values}
            for name, values in self.metrics.items()
        }
        names = ("model", "label", "method", "interval", "chosen", "seconds")
        return {name: getattr(self, name) for name in names} | {"cut": self.truncated, "figures": metrics}


@dataclass(frozen=True, repr=False)
class ProbeResult(Result):
    """The results of models on a task.

    Attributes:
        task: the task as it was used, after overlap and limit.
        settings: of the probe.
        precision: ``fp32`` or ``bf16``.
        models: one entry for each method and model, in that order.
        verdicts: each later model compared with the first, by method.
        baselines: metrics without a model: of the most frequent label.
        notes: remarks for the reader.
    """

    task: Task
    settings: ProbeSettings
    precision: str
    models: list[ModelProbe]
    verdicts: list[Verdict]
    baselines: dict[str, dict[str, float]]
    notes: list[str] = field(default_factory=list)

    def _title(self) -> str:
        sizes = f"{len(self.task.train):,} training and {len(self.task.test):,} test examples"
        return f"probe of {self.task.name}: {sizes}, {self.settings.seeds} seeds"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; metrics from 0 to 1."""
        task = self.task
        sizes = {"train": len(task.train), "dev": len(task.dev) if task.dev else None, "test": len(task.test)}
        overlap = {"test_texts_in_train": task.shared, "dropped": self.settings.drop_overlap}
        return {
            "task": {
                "name": task.name,
                "kind": task.kind,
                "labels": label_set(task.train),
                "sizes": sizes,
                "overlap": overlap,
            },
            "figure": MAIN[task.kind],
            "seeds": self.settings.seeds,
            "a_seed": {method: SEEDS[method] for method in self.settings.methods},
            "precision": self.precision,
            "pool": self.settings.pool if task.kind == "classification" else None,
            "models": [found.to_dict() for found in self.models],
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "baselines": self.baselines,
            "interval": INTERVAL,
            "notes": self.notes,
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row for each model, method and metric: ``mean`` and ``sd`` over seeds, ``low`` and ``high`` of the main one."""
        rows = []
        for found in self.models:
            for name, values in found.metrics.items():
                span = found.interval if name == MAIN[self.task.kind] and found.interval else [math.nan] * 2
                row: dict[str, Any] = {"model": found.label, "method": found.method, "metric": name}
                row |= {"mean": float(np.mean(values)), "sd": spread(values), "low": span[0], "high": span[1]}
                rows.append(row)
        return rows


def probe(
    models: ModelLike | Sequence[ModelLike],
    task: str | Path,
    settings: ProbeSettings = DEFAULTS,
    *,
    test: str | Path | None = None,
    dev: str | Path | None = None,
    text_field: str | None = None,
    label_field: str | None = None,
    progress: Progress = Progress(),
) -> ProbeResult:
    """Train a probe on each model and test it. Models given by name are in memory one at a time.

    Text classification is JSONL, CSV or TSV with a text and a label, or folders of texts with one subfolder per
    label; token classification is CoNLL. The main metric is macro F1, of entities their F1 as seqeval counts.

    Args:
        models: Hub names, model folders, run folders or models in memory; later ones are compared with the first.
        task: a folder with train, (dev) and test, or the train file.
        settings: method, seeds, limits and device.
        test, dev: files of their own. ``dev``, or else a fifth of train, chooses the regularisation of the frozen
            probe; fine-tuning does not use it.
        text_field, label_field: fields or columns, or numbers of columns of a table without names.
        progress: gets progress and messages.

    Raises:
        DataError: a file is missing, empty or broken, there is only one label, or test texts occur in train.
        ConfigError: a model cannot be loaded, there is no test part, or a package is missing.
        DivergedError: the loss of fine-tuning is NaN or infinite.
    """
    models = as_models(models)
    names = model_names(models)
    read = read_task(
        task, test=test, dev=dev, text_field=text_field, label_field=label_field, progress=progress
    )
    check_packages(read.kind)
    work = _Prober(_prepared(read, settings), settings, progress)
    by_model = [
        work.probe(model, name, label)
        for model, name, label in zip(models, names, short_names(names), strict=True)
    ]
    found = [results[place] for place in range(len(settings.methods)) for results in by_model]
    verdicts = [
        verdict for place in range(len(settings.methods)) for verdict in work.verdicts(place, by_model)
    ]
    return ProbeResult(
        work.task,
        settings,
        work.precision,
        [one for one, _ in found],
        verdicts,
        baselines(work.task),
        list(dict.fromkeys(work.notes)),
    )


def _prepared(task: Task, settings: ProbeSettings) -> Task:
    """Handle the overlap of train and test, then sample the training examples."""
    task = resolve_overlap(task, allow=settings.allow_overlap, drop=settings.drop_overlap)
    train = sample(task.train, settings.limit)
    notes = list(task.notes)
    if len(train) < len(task.train):
        notes.append(
            f"{len(train):,} of {len(task.train):,} training examples are used, the same for every seed"
        )
    known = set(label_set(train))
    if len(known) < 2:
        raise ConfigError(f"all {len(train)} training examples have one label; raise --limit")
    unseen = Counter(label for labels in task.test.labels for label in labels if label not in known)
    if unseen:
        names, count = ", ".join(sorted(unseen)[:5]), sum(unseen.values())
        verb = "occurs" if count == 1 else "occur"
        notes.append(f"{plural(count, 'label')} of test never {verb} in train ({names}); counted as errors")
    return replace(task, train=train, notes=tuple(notes))


def baselines(task: Task) -> dict[str, dict[str, float]]:
    """Return the metrics of two baselines: the most frequent label and, of tokens, the most frequent label of each."""
    most = _most_frequent(task.train)
    found = {"most_frequent_label": [[most] * len(labels) for labels in task.test.labels]}
    if task.train.words is not None and task.test.words is not None:
        seen: dict[str, Counter[str]] = {}
        for words, labels in zip(task.train.words, task.train.labels, strict=True):
            for word, label in zip(words, labels, strict=True):
                seen.setdefault(word, Counter())[label] += 1
        usual = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
        found["most_frequent_label_of_token"] = [
            [usual.get(word, most) for word in words] for words in task.test.words
        ]
    return {name: label_metrics(task.kind, task.test.labels, guess) for name, guess in found.items()}


def _most_frequent(examples: Examples) -> str:
    counts = Counter(label for labels in examples.labels for label in labels)
    return min(counts, key=lambda label: (-counts[label], label))


class _Prober:
    """Probes models on one task, one by one."""

    def __init__(self, task: Task, settings: ProbeSettings, progress: Progress) -> None:
        self.task, self.settings, self.progress = task, settings, progress
        self.notes: list[str] = []
        for note in task.notes:
            self._note(note)
        self.precision = ""
        """Of the last model: ``fp32`` or ``bf16``."""
        self._wanted_precision: str | None = None
        known = label_set(task.train)
        # Labels that train lacks come last: nothing predicts them.
        parts = (task.test, task.dev) if task.dev else (task.test,)
        others = {label for part in parts for label in label_set(part)} - set(known)
        self.labels = known + sorted(others)
        self.known = len(known)
        self.classes = classes_of(task.kind, self.labels)

    def probe(self, model: ModelLike, name: str, label: str) -> list[tuple[ModelProbe, list[Floats]]]:
        """Probe a model by each method; return results and the counts of each seed."""
        lm = self._load(model)
        self.precision = "bf16" if lm.autocast else "fp32"
        train, test = self._part(lm, self.task.train), self._part(lm, self.task.test)
        dev = None if self.task.dev is None else self._part(lm, sample(self.task.dev, _DEV))
        truncated = {"train": train.encoded.truncated, "test": test.encoded.truncated}
        if any(truncated.values()):
            self._note(
                f"{label}: {truncated['train']:,} training and {truncated['test']:,} test texts were truncated to "
                f"{min(self.settings.max_length or lm.max_length, lm.max_length)} tokens"
            )
        tagged, most = self.task.kind != "classification", _most_frequent(self.task.train)
        learner = Learner(
            lm, tagged, self.settings.pool, self.known, self.labels.index(most), self._metric, self.progress
        )
        return [
            self._by(method, learner, (train, dev, test), (name, label, truncated))
            for method in self.settings.methods
        ]

    def _by(
        self,
        method: str,
        learner: Learner,
        parts: tuple[Part, Part | None, Part],
        who: tuple[str, str, dict[str, int]],
    ) -> tuple[ModelProbe, list[Floats]]:
        train, dev, test = parts
        self.progress.log(f"{who[1]}: {method} probe" if method == "frozen" else f"{who[1]}: fine-tuning")
        begin = time.monotonic()
        if method == "frozen":
            coded, chosen = probe_frozen(learner, train, dev, test, self.settings.seeds)
        else:
            coded, chosen = finetune(learner, train, test, self.settings.seeds, self.settings.tuning)
        seconds = time.monotonic() - begin
        gold = self.task.test.labels
        predicted = [self._names(codes) for codes in coded]
        counts = [counts_of(self.task.kind, gold, guess, self.classes) for guess in predicted]
        rows = [label_metrics(self.task.kind, gold, guess) for guess in predicted]
        found = ModelProbe(
            model=who[0],
            label=who[1],
            method=method,
            metrics={name: [row[name] for row in rows] for name in rows[0]},
            interval=interval(resampled(self.task.kind, counts), len(gold)),
            chosen=chosen,
            truncated=who[2],
            seconds=seconds,
        )
        return found, counts

    def verdicts(self, place: int, by_model: list[list[tuple[ModelProbe, list[Floats]]]]) -> list[Verdict]:
        """Compare each later model with the first, by one method."""
        metric, kind = MAIN[self.task.kind], self.task.kind
        first, counts = by_model[0][place]
        base = resampled(kind, counts)
        found = []
        for results in by_model[1:]:
            other, others = results[place]
            pairs = zip(other.metrics[metric], first.metrics[metric], strict=True)
            span = interval(resampled(kind, others) - base, len(self.task.test))
            found.append(
                Verdict(first.method, first.label, other.label, metric, [a - b for a, b in pairs], span)
            )
        return found

    def _load(self, model: ModelLike) -> MaskedLM:
        if isinstance(model, MaskedLM):
            return model
        settings = self.settings
        if self._wanted_precision is None:  # chosen once, so that all models have the same
            self._wanted_precision, why = pick_precision(settings.precision, pick_device(settings.device))
            self.progress.log(why)
        # Only the encoder is used, so a missing LM head is not logged.
        return load_for_inference(
            model, device=settings.device, precision=self._wanted_precision, offline=settings.offline
        )

    def _part(self, lm: MaskedLM, examples: Examples) -> Part:
        number = {label: code for code, label in enumerate(self.labels)}
        codes = [np.array([number[label] for label in labels]) for labels in examples.labels]
        return Part(encode(lm, examples, self.settings.max_length), codes)

    def _metric(self, gold: Codes, predicted: Codes) -> float:
        """Return the main metric of predicted class numbers."""
        counts = counts_of(self.task.kind, self._names(gold), self._names(predicted), self.classes)
        return float(main_metric(self.task.kind, counts.sum(axis=0)))

    def _names(self, codes: Codes) -> Labels:
        return [[self.labels[code] for code in part] for part in codes]

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.log(text)
