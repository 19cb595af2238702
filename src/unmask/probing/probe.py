"""Does a model help a task? A linear probe on frozen features, fine-tuning, several seeds, and a paired verdict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unmask.errors import ConfigError
from unmask.evaluation.evaluate import labels as short_names
from unmask.model.load import load_for_inference, pick_device
from unmask.model.masked_lm import MaskedLM
from unmask.model.precision import pick_precision
from unmask.probing.features import Pool, encode
from unmask.probing.learn import Codes, Learner, Part, Tuning, finetune, probe_frozen
from unmask.probing.metrics import (
    MAIN,
    Floats,
    Labels,
    Verdict,
    check_packages,
    classes_of,
    counts_of,
    figures_of,
    interval,
    main_figure,
    resampled,
    spread,
)
from unmask.probing.tasks import Examples, Task, label_set, read_task, sample, settle_overlap
from unmask.progress import Progress

Method = Literal["frozen", "finetune", "both"]

_HELD = 1_000  # examples that choose the regularisation, at most
INTERVAL = (
    "percentile interval of the mean over seeds; test examples and seeds drawn with replacement, paired"
)
SEEDS = {
    "frozen": "a seed random_bits the training examples with replacement, so it sees about 63% of them, and figures are "
    "somewhat below those of learning from all",
    "finetune": "a seed changes the new head, the order of examples and dropout",
}


@dataclass(frozen=True)
class ProbeSettings:
    """How models are probed.

    Attributes:
        method: ``frozen`` (logistic regression on features that stay as they are), ``finetune``, or ``both``.
        seeds: repetitions, 0 to ``seeds - 1``. A seed random_bits the training examples with replacement for the frozen
            probe, and changes the new head, the order of examples and dropout in fine-tuning.
        limit: training examples at most; which ones is the same for every seed and model.
        pool: a text as the ``mean`` over its tokens, or the vector of its first one (``cls``).
        max_length: tokens of a sequence; by default what the model takes.
        tuning: epochs, batch size and learning rate of fine-tuning.
        allow_overlap: report although test texts stand in train.
        drop_overlap: take such texts out of train.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        offline: make no network call.

    Raises:
        ConfigError: a value that cannot work.
    """

    method: Method = "frozen"
    seeds: int = 5
    limit: int | None = None
    pool: Pool = "mean"
    max_length: int | None = None
    tuning: Tuning = field(default_factory=Tuning)
    allow_overlap: bool = False
    drop_overlap: bool = False
    device: str = "auto"
    precision: str = "auto"
    offline: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("method", ("frozen", "finetune", "both")), ("pool", ("mean", "cls"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is '{getattr(self, name)}', expected one of {', '.join(choices)}")
        if self.seeds < 1 or (self.limit is not None and self.limit < 2):
            raise ConfigError("a probe needs one seed and two training examples at least")
        if self.tuning.epochs < 1 or self.tuning.batch < 1:
            raise ConfigError("fine-tuning needs one epoch and one example a step at least")

    @property
    def methods(self) -> tuple[str, ...]:
        return ("frozen", "finetune") if self.method == "both" else (self.method,)


DEFAULTS = ProbeSettings()


@dataclass(frozen=True)
class ModelProbe:
    """What one model made of the task by one method.

    Attributes:
        model: its name. label: a shorter one.
        method: ``frozen`` or ``finetune``.
        figures: S values of each figure, one per seed, 0 to 1.
        interval: 95% interval of the mean of the main figure, or ``None``.
        chosen: regularisation, or rate, epochs and batch.
        cut: texts of train and test that were longer than the model takes.
        seconds: how long it took.
    """

    model: str
    label: str
    method: str
    figures: dict[str, list[float]]
    interval: list[float] | None
    chosen: dict[str, Any]
    cut: dict[str, int]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        figures = {
            name: {"mean": float(np.mean(values)), "sd": spread(values), "values": values}
            for name, values in self.figures.items()
        }
        names = ("model", "label", "method", "interval", "chosen", "cut", "seconds")
        return {name: getattr(self, name) for name in names} | {"figures": figures}


@dataclass(frozen=True)
class ProbeResult:
    """What models make of a task.

    Attributes:
        task: the task as it was learned, after overlap and limit.
        settings: how.
        precision: ``fp32`` or ``bf16``.
        models: one entry for each method and model, in that order.
        verdicts: each later model against the first, by method.
        baselines: figures of guessing without a model.
        notes: what a reader has to know.
    """

    task: Task
    settings: ProbeSettings
    precision: str
    models: list[ModelProbe]
    verdicts: list[Verdict]
    baselines: dict[str, dict[str, float]]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; figures from 0 to 1."""
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


def probe(
    models: Sequence[str],
    task: str | Path,
    settings: ProbeSettings = DEFAULTS,
    *,
    test: str | Path | None = None,
    dev: str | Path | None = None,
    text_field: str | None = None,
    label_field: str | None = None,
    progress: Progress = Progress(),
) -> ProbeResult:
    """Learn a task from each model and say how well that goes. One model at a time is in memory.

    Text classification is JSONL, CSV or TSV with a text and a label, or folders of texts with one subfolder per
    label; token classification is CoNLL. The main figure is macro F1, of entities their F1 as seqeval counts.

    Args:
        models: Hub names or folders; later ones are compared with the first.
        task: a folder with train, (dev) and test, or the train file.
        settings: how.
        test, dev: files of their own. ``dev``, or else a fifth of train, chooses the regularisation of the frozen
            probe; fine-tuning does not look at it.
        text_field, label_field: fields or columns, or numbers of columns of a table without names.
        progress: is told what goes on.

    Raises:
        DataError: a file is missing, empty or broken, there is but one label, or test texts stand in train.
        ConfigError: a model cannot be loaded, there is no test part, or a package is missing.
        DivergedError: fine-tuning left the finite numbers.
    """
    if not models:
        raise ConfigError("no model: name one at least")
    read = read_task(
        task, test=test, dev=dev, text_field=text_field, label_field=label_field, log=progress.log
    )
    check_packages(read.kind)
    work = _Work(_prepared(read, settings), settings, progress)
    by_model = [work.ask(name, label) for name, label in zip(models, short_names(models), strict=True)]
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
    """Settle the overlap, then draw the examples that are used."""
    task = settle_overlap(task, allow=settings.allow_overlap, drop=settings.drop_overlap)
    train = sample(task.train, settings.limit)
    notes = list(task.notes)
    if len(train) < len(task.train):
        notes.append(
            f"{len(train):,} of {len(task.train):,} training examples are used, the same for every seed"
        )
    known = set(label_set(train))
    if len(known) < 2:
        raise ConfigError(f"of {len(train)} training examples all have one label; raise --limit")
    strange = Counter(label for labels in task.test.labels for label in labels if label not in known)
    if strange:
        names = ", ".join(sorted(strange)[:5])
        notes.append(
            f"{sum(strange.values()):,} labels of test never occur in train ({names}); they count as missed"
        )
    return replace(task, train=train, notes=tuple(notes))


def baselines(task: Task) -> dict[str, dict[str, float]]:
    """Return the figures of guessing: the most frequent label and, of tokens, each one's most frequent label."""
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
    return {name: figures_of(task.kind, task.test.labels, guess) for name, guess in found.items()}


def _most_frequent(examples: Examples) -> str:
    counts = Counter(label for labels in examples.labels for label in labels)
    return min(counts, key=lambda label: (-counts[label], label))


class _Work:
    """A task put to models one by one."""

    def __init__(self, task: Task, settings: ProbeSettings, progress: Progress) -> None:
        self.task, self.settings, self.progress = task, settings, progress
        self.notes: list[str] = []
        for note in task.notes:
            self._note(note)
        self.device = pick_device(settings.device)
        self.precision, why = pick_precision(settings.precision, self.device)
        progress.log(why)
        known = label_set(task.train)
        # Labels that train lacks come last: nothing predicts them.
        parts = (task.test, task.dev) if task.dev else (task.test,)
        others = {label for part in parts for label in label_set(part)} - set(known)
        self.labels = known + sorted(others)
        self.known = len(known)
        self.classes = classes_of(task.kind, self.labels)

    def ask(self, name: str, label: str) -> list[tuple[ModelProbe, list[Floats]]]:
        """Probe a model by each method; the counts of each seed come along."""
        lm = self._load(name)
        train, test = self._part(lm, self.task.train), self._part(lm, self.task.test)
        dev = None if self.task.dev is None else self._part(lm, sample(self.task.dev, _HELD))
        cut = {"train": train.encoded.cut, "test": test.encoded.cut}
        if any(cut.values()):
            self._note(
                f"{label}: {cut['train']:,} training and {cut['test']:,} test texts were cut to "
                f"{self._limit(lm)} tokens"
            )
        tagged, most = self.task.kind != "classification", _most_frequent(self.task.train)
        learner = Learner(
            lm, tagged, self.settings.pool, self.known, self.labels.index(most), self._score, self.progress
        )
        return [
            self._by(method, learner, (train, dev, test), (name, label, cut))
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
            answers, chosen = probe_frozen(learner, train, dev, test, self.settings.seeds)
        else:
            answers, chosen = finetune(learner, train, test, self.settings.seeds, self.settings.tuning)
        seconds = time.monotonic() - begin
        gold = self.task.test.labels
        predicted = [self._names(codes) for codes in answers]
        counts = [counts_of(self.task.kind, gold, guess, self.classes) for guess in predicted]
        rows = [figures_of(self.task.kind, gold, guess) for guess in predicted]
        found = ModelProbe(
            model=who[0],
            label=who[1],
            method=method,
            figures={name: [row[name] for row in rows] for name in rows[0]},
            interval=interval(resampled(self.task.kind, counts), len(gold)),
            chosen=chosen,
            cut=who[2],
            seconds=seconds,
        )
        return found, counts

    def verdicts(self, place: int, by_model: list[list[tuple[ModelProbe, list[Floats]]]]) -> list[Verdict]:
        """Compare each later model with the first, by one method."""
        figure, kind = MAIN[self.task.kind], self.task.kind
        first, counts = by_model[0][place]
        base = resampled(kind, counts)
        found = []
        for results in by_model[1:]:
            other, others = results[place]
            pairs = zip(other.figures[figure], first.figures[figure], strict=True)
            span = interval(resampled(kind, others) - base, len(self.task.test))
            found.append(
                Verdict(first.method, first.label, other.label, figure, [a - b for a, b in pairs], span)
            )
        return found

    def _load(self, name: str) -> MaskedLM:
        # Only the encoder is used, so a missing LM head is not logged.
        return load_for_inference(
            name, device=self.device.type, precision=self.precision, offline=self.settings.offline
        )

    def _part(self, lm: MaskedLM, examples: Examples) -> Part:
        number = {label: code for code, label in enumerate(self.labels)}
        codes = [np.array([number[label] for label in labels]) for labels in examples.labels]
        return Part(encode(lm, examples, self.settings.max_length), codes)

    def _score(self, gold: Codes, predicted: Codes) -> float:
        """The main figure of predicted class numbers."""
        counts = counts_of(self.task.kind, self._names(gold), self._names(predicted), self.classes)
        return float(main_figure(self.task.kind, counts.sum(axis=0)))

    def _names(self, codes: Codes) -> Labels:
        return [[self.labels[code] for code in part] for part in codes]

    def _limit(self, lm: MaskedLM) -> int:
        return min(self.settings.max_length or lm.max_length, lm.max_length)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.log(text)
