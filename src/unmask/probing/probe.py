"""``unmask probe``: linear probes and fine-tuning on a labelled task, with several seeds and paired verdicts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmask.errors import ConfigError, plural
from unmask.evaluation.bootstrap import Floats
from unmask.evaluation.evaluate import ModelLike, as_models, model_names
from unmask.evaluation.evaluate import labels as short_names
from unmask.model.masked_lm import MaskedLM
from unmask.probing.features import EncoderLoader, encode, token_limit
from unmask.probing.learn import Codes, Learner, Part, finetune, probe_frozen
from unmask.probing.metrics import (
    MAIN,
    Labels,
    SeedScores,
    check_packages,
    classes_of,
    counts_of,
    label_metrics,
    main_metric,
    single_classes,
)
from unmask.probing.results import ModelProbe, ProbeResult, Verdict
from unmask.probing.settings import ProbeSettings
from unmask.probing.tasks import Examples, Task, label_set, read_task, resolve_overlap, sample
from unmask.progress import Progress

_DEV = 1_000  # most examples that choose the regularisation

DEFAULTS = ProbeSettings()


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
        baselines(work.task, work.left_out),
        list(dict.fromkeys(work.notes)),
    )


def _prepared(task: Task, settings: ProbeSettings) -> Task:
    """Handle the overlap of train and test, then sample the training examples."""
    task = resolve_overlap(task, allow=settings.allow_overlap, drop=settings.drop_overlap)
    train = sample(task.train, settings.limit)
    notes = list(task.notes)
    if len(train) < len(task.train):
        notes.append(
            f"{len(train):,} of {plural(len(task.train), 'training example')} used, the same for every seed"
        )
    known = set(label_set(train))
    if len(known) < 2:
        raise ConfigError(
            f"expected training examples of two labels or more, found one label in {plural(len(train), 'example')}; raise --limit"
        )
    unseen = Counter(label for labels in task.test.labels for label in labels if label not in known)
    if unseen:
        names, count = ", ".join(sorted(unseen)[:5]), sum(unseen.values())
        verb = "occurs" if count == 1 else "occur"
        notes.append(f"{plural(count, 'label')} of test never {verb} in train ({names}); counted as errors")
    return replace(task, train=train, notes=tuple(notes))


def baselines(task: Task, left_out: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Return the metrics of two baselines: the most frequent label and, of tokens, the most frequent label of each.

    Classes ``left_out`` do not enter the macro F1.
    """
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
    gold = task.test.labels
    return {name: label_metrics(task.kind, gold, guess, left_out) for name, guess in found.items()}


def _most_frequent(examples: Examples) -> str:
    counts = Counter(label for labels in examples.labels for label in labels)
    return min(counts, key=lambda label: (-counts[label], label))


def _units(task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the unit of each test example, copies of a text share one, and the stratum of each unit: its class."""
    _, first, unit = np.unique(task.test.texts, return_index=True, return_inverse=True)
    if task.kind != "classification":
        return unit, np.zeros(len(first), dtype=np.int64)
    _, strata = np.unique([task.test.labels[row][0] for row in first], return_inverse=True)
    return unit, strata


class _Prober:
    """Probes models on one task, one by one."""

    def __init__(self, task: Task, settings: ProbeSettings, progress: Progress) -> None:
        self.task, self.settings, self.progress = task, settings, progress
        self.notes: list[str] = []
        for note in task.notes:
            self._note(note)
        self.precision = ""
        """Of the last model: ``fp32`` or ``bf16``."""
        self._load = EncoderLoader(settings, progress)
        known = label_set(task.train)
        # Labels that train lacks come last: nothing predicts them.
        parts = (task.test, task.dev) if task.dev else (task.test,)
        others = {label for part in parts for label in label_set(part)} - set(known)
        self.labels = known + sorted(others)
        self.known = len(known)
        self.classes = classes_of(task.kind, self.labels)
        self.left_out = single_classes(task.kind, task.test.labels)
        if self.left_out:
            self._note(
                f"left out of macro F1: {plural(len(self.left_out), 'class', 'classes')} with one test example "
                f"({', '.join(self.left_out[:5])}); it does not say how well others of the class are recognised"
            )
        self.unit, self.strata = _units(task)

    def probe(self, model: ModelLike, name: str, label: str) -> list[tuple[ModelProbe, SeedScores]]:
        """Probe a model by each method; return results and the main metric by seed."""
        lm = self._load(model)
        self.precision = "bf16" if lm.autocast else "fp32"
        train, test = self._part(lm, self.task.train), self._part(lm, self.task.test)
        dev = None if self.task.dev is None else self._part(lm, sample(self.task.dev, _DEV))
        truncated = {"train": train.encoded.truncated, "test": test.encoded.truncated}
        if any(truncated.values()):
            self._note(
                f"{label}: texts truncated to {token_limit(lm, self.settings.max_length)} tokens: "
                f"{truncated['train']:,} of training, {truncated['test']:,} of test"
            )
        for name_of_part, part in (("training", train), ("test", test)):
            if message := part.encoded.unknown.message(f" of the {name_of_part} texts"):
                self._note(f"{label}: {message}")
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
    ) -> tuple[ModelProbe, SeedScores]:
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
        scores = SeedScores.of(self.task.kind, [self._counts(guess) for guess in predicted])
        span = scores.interval(self.strata)
        rows = [label_metrics(self.task.kind, gold, guess, self.left_out) for guess in predicted]
        found = ModelProbe(
            model=who[0],
            label=who[1],
            method=method,
            metrics={name: [row[name] for row in rows] for name in rows[0]},
            interval=None if span is None or span[0] == span[1] else [max(span[0], 0.0), min(span[1], 1.0)],
            chosen=chosen,
            truncated=who[2],
            seconds=seconds,
        )
        return found, scores

    def _counts(self, predicted: Labels) -> Floats:
        """Return ``[E, K, 3]`` counts without the classes left out; copies of a text are one test example."""
        found = counts_of(self.task.kind, self.task.test.labels, predicted, self.classes)
        counts = np.zeros((len(self.strata), *found.shape[1:]))
        np.add.at(counts, self.unit, found)
        return counts[:, ~np.isin(self.classes, self.left_out)]

    def verdicts(self, place: int, by_model: list[list[tuple[ModelProbe, SeedScores]]]) -> list[Verdict]:
        """Compare each later model with the first, by one method."""
        metric = MAIN[self.task.kind]
        first, base = by_model[0][place]
        found = []
        for results in by_model[1:]:
            other, scores = results[place]
            pairs = zip(other.metrics[metric], first.metrics[metric], strict=True)
            span = (scores - base).interval(self.strata)
            found.append(
                Verdict(first.method, first.label, other.label, metric, [a - b for a, b in pairs], span)
            )
        return found

    def _part(self, lm: MaskedLM, examples: Examples) -> Part:
        number = {label: code for code, label in enumerate(self.labels)}
        codes = [np.array([number[label] for label in labels]) for labels in examples.labels]
        return Part(encode(lm, examples.texts, examples.words, self.settings.max_length), codes)

    def _metric(self, gold: Codes, predicted: Codes) -> float:
        """Return the main metric of predicted class numbers."""
        counts = counts_of(self.task.kind, self._names(gold), self._names(predicted), self.classes)
        return float(main_metric(self.task.kind, counts.sum(axis=0)))

    def _names(self, codes: Codes) -> Labels:
        return [[self.labels[code] for code in part] for part in codes]

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.log(text)
