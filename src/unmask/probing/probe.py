"""``unmask probe``: linear probes and fine-tuning on a labelled task, with several seeds and paired verdicts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmask.data.unknown import UnknownTokens
from unmask.errors import ConfigError, plural
from unmask.evaluation.bootstrap import Floats
from unmask.evaluation.evaluate import ModelLike, as_models, model_names
from unmask.evaluation.evaluate import labels as short_names
from unmask.model.masked_lm import MaskedLM
from unmask.probing.examples import Examples, Task, label_set, sample
from unmask.probing.features import EncoderLoader, encode, encode_pairs, token_limit
from unmask.probing.fine_tuning import finetune
from unmask.probing.learn import Codes, Learner, Part, every_fifth, probe_frozen
from unmask.probing.metrics import (
    BINARY,
    CHOICES,
    CORRELATIONS,
    MAIN,
    PARTS,
    Labels,
    SeedScores,
    check_packages,
    classes_of,
    correlation,
    counts_of,
    label_metrics,
    main_metric,
    single_classes,
)
from unmask.probing.results import ModelProbe, ProbeResult, Verdict
from unmask.probing.settings import ProbeSettings
from unmask.probing.targets import target_of
from unmask.probing.tasks import read_task, resolve_overlap
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
    pair_field: str | None = None,
    kind: str | None = None,
    keep: str | Path | None = None,
    progress: Progress = Progress(),
) -> ProbeResult:
    """Train a probe on each model and test it. Models given by name are in memory one at a time.

    Labelled texts, or pairs of texts, are JSONL, CSV or TSV, or folders of texts with one subfolder per label; labelled
    tokens are CoNLL. The main metric is macro F1, of entities their F1 as seqeval counts, of numbers Pearson's correlation,
    of the tasks of GLUE that of GLUE; ``settings.metric`` takes another.

    Args:
        models: Hub names, model folders, run folders or models in memory; later ones are compared with the first.
        task: a folder with train, (dev) and test, or the train file.
        settings: method, seeds, limits and device.
        test, dev: files of their own. ``dev``, or else a fifth of train, chooses the regularisation of the frozen
            probe, and with ``settings.tuning.patience`` the epoch of fine-tuning.
        text_field, label_field, pair_field: fields or columns, or numbers of columns of a table without names; the last of the
            second text of pairs.
        kind: what is predicted of a text: ``classification``, ``multilabel`` or ``regression``; by default from the labels.
        keep: a folder for checkpoints and finished seeds of fine-tuning; the same call goes on from there.
        progress: gets progress and messages.

    Raises:
        DataError: a file is missing, empty or broken, there is only one label, or test texts occur in train.
        ConfigError: a model cannot be loaded, there is no test part, or a package is missing.
        DivergedError: the loss of fine-tuning is NaN or infinite.
    """
    models = as_models(models)
    names = model_names(models)
    read = read_task(
        task, test=test, dev=dev, text_field=text_field, label_field=label_field, pair_field=pair_field, kind=kind,
        progress=progress,
    )  # fmt: skip
    check_packages(read.kind)
    work = _Prober(
        _prepared(with_metric(read, settings.metric), settings),
        settings,
        progress,
        None if keep is None else Path(keep),
    )
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
        work.notes,
    )


def with_metric(task: Task, metric: str | None) -> Task:
    """Return the task with its metric: as given, as the task is known for, or as usual for its kind.

    Raises:
        ConfigError: the task has no such metric.
    """
    metric = metric or task.metric or MAIN[task.kind]
    labels = {label for part in (task.train, task.test) for label in label_set(part)}
    is_binary = task.kind != "classification" or sorted(labels) == BINARY
    known = [name for name in CHOICES[task.kind] if is_binary or name != "f1"]
    if metric not in known:
        why = "; f1 is that of class 1 of classes 0 and 1" if metric == "f1" else ""
        raise ConfigError(f"no metric '{metric}' of this task; there are {', '.join(known)}{why}")
    return replace(task, metric=metric)


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
    if task.kind == "regression":
        return replace(task, train=train, notes=tuple(notes))
    unseen = Counter(label for labels in task.test.labels for label in labels if label not in known)
    if unseen:
        names, count = ", ".join(sorted(unseen)[:5]), sum(unseen.values())
        verb = "occurs" if count == 1 else "occur"
        notes.append(f"{plural(count, 'label')} of test never {verb} in train ({names}); counted as errors")
    return replace(task, train=train, notes=tuple(notes))


def baselines(task: Task, left_out: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Return the metrics of two baselines: the most frequent label and, of tokens, the most frequent label of each.

    Of texts with several labels it is the most frequent set. Numbers have none: a constant has no correlation. Classes
    ``left_out`` do not enter the macro F1.
    """
    if task.kind == "regression":
        return {}
    most = _most_frequent(task.train)
    found = {"most_frequent_label": [[most] * len(labels) for labels in task.test.labels]}
    if task.kind == "multilabel":
        sets = Counter(tuple(labels) for labels in task.train.labels)
        usual_set = max(sorted(sets), key=lambda labels: sets[labels])
        found = {"most_frequent_labels": [list(usual_set)] * len(task.test)}
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
    keys = task.test.texts if task.test.seconds is None else task.test.keys
    _, first, unit = np.unique(keys, return_index=True, return_inverse=True)
    if task.kind != "classification":
        return unit, np.zeros(len(first), dtype=np.int64)
    _, strata = np.unique([task.test.labels[row][0] for row in first], return_inverse=True)
    return unit, strata


def _split(train: Part) -> tuple[Part, Part]:
    """Return training examples without every fifth, and these.

    Raises:
        ConfigError: there are too few.
    """
    held = every_fifth(len(train.codes))
    if not held:
        raise ConfigError(
            f"--patience needs a dev part, or five training examples, of which there are {len(train.codes)}"
        )
    return train.take(np.setdiff1d(np.arange(len(train.codes)), held).tolist()), train.take(held)


class _Prober:
    """Probes models on one task, one by one."""

    def __init__(self, task: Task, settings: ProbeSettings, progress: Progress, keep: Path | None) -> None:
        self.task, self.settings, self.progress, self.keep = task, settings, progress, keep
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
        self.classes = classes_of(task.kind, self.labels)
        self.metric = task.metric or MAIN[task.kind]
        self.left_out = single_classes(task.kind, task.test.labels) if self.metric == "macro_f1" else []
        self.target = target_of(task, self.labels, _most_frequent(task.train))
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
        learner = Learner(
            lm,
            self.task.train.words is not None,
            self.settings.pool,
            self.target,
            self._metric,
            self.progress,
        )
        return [self._by(method, learner, name, label) for method in self.settings.methods]

    def _by(self, method: str, learner: Learner, name: str, label: str) -> tuple[ModelProbe, SeedScores]:
        self.progress.log(f"{label}: {method} probe" if method == "frozen" else f"{label}: fine-tuning")
        begin = time.monotonic()
        joint = method != "frozen"
        train, test = (self._part(learner.lm, part, joint) for part in (self.task.train, self.task.test))
        truncated = self._note_parts(learner.lm, label, train, test)
        dev, tuning, held = self.task.dev, self.settings.tuning, None
        chooses = method == "frozen" or tuning.patience is not None
        if dev is not None and chooses:
            held = self._part(learner.lm, sample(dev, _DEV), joint)
        if method == "frozen":
            coded, chosen = probe_frozen(learner, train, held, test, self.settings.seeds)
        else:
            if held is None and chooses:
                train, held = _split(train)
            coded, chosen = finetune(learner, train, held, test, self.settings.seeds, tuning, self.keep)
        seconds = time.monotonic() - begin
        gold = self.task.test.labels
        predicted = [self._names(codes) for codes in coded]
        if self.task.kind == "regression":
            scores = SeedScores.of_numbers(self.metric, gold, predicted, self.unit)
        else:
            scores = SeedScores.of(self.task.kind, self.metric, [self._counts(guess) for guess in predicted])
        span = scores.interval(self._strata())
        rows = [label_metrics(self.task.kind, gold, guess, self.left_out) for guess in predicted]
        least = -1.0 if self.metric in CORRELATIONS else 0.0
        found = ModelProbe(
            model=name,
            label=label,
            method=method,
            metrics={name: [row[name] for row in rows] for name in rows[0]},
            interval=None if span is None or span[0] == span[1] else [max(span[0], least), min(span[1], 1.0)],
            chosen=chosen,
            truncated=truncated,
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
        metric = self.metric
        first, base = by_model[0][place]
        found = []
        for results in by_model[1:]:
            other, scores = results[place]
            pairs = zip(other.metrics[metric], first.metrics[metric], strict=True)
            span = (scores - base).interval(self._strata())
            found.append(
                Verdict(first.method, first.label, other.label, metric, [a - b for a, b in pairs], span)
            )
        return found

    def _strata(self) -> NDArray[np.int64]:
        """Return the stratum of each part of the test examples that is left out in turn."""
        return (
            self.strata
            if self.task.kind != "regression"
            else np.zeros(min(len(self.strata), PARTS), dtype=np.int64)
        )

    def _part(self, lm: MaskedLM, examples: Examples, joint: bool) -> Part:
        """Tokenise examples; ``joint``: both texts of a pair as one sequence."""
        codes, length = [self.target.codes(labels) for labels in examples.labels], self.settings.max_length
        if examples.seconds is None:
            return Part(encode(lm, examples.texts, examples.words, length), codes)
        if joint:
            return Part(encode_pairs(lm, examples.texts, examples.seconds, length), codes)
        first, second = (encode(lm, texts, max_length=length) for texts in (examples.texts, examples.seconds))
        return Part(first, codes, second)

    def _note_parts(self, lm: MaskedLM, label: str, train: Part, test: Part) -> dict[str, int]:
        """Note truncated texts and unknown tokens; return how many texts of train and test are truncated."""
        read = {"training": [train.encoded, train.second], "test": [test.encoded, test.second]}
        cut = {name: sum(part.truncated for part in parts if part) for name, parts in read.items()}
        if any(cut.values()):
            self._note(
                f"{label}: texts truncated to {token_limit(lm, self.settings.max_length)} tokens: "
                f"{cut['training']:,} of training, {cut['test']:,} of test"
            )
        for name, parts in read.items():
            unknown = UnknownTokens(train.encoded.unknown.id)
            for part in filter(None, parts):  # the second texts of pairs may be encoded apart
                unknown.merge(part.unknown)
            if message := unknown.message(f" of the {name} texts"):
                self._note(f"{label}: {message}")
        return {"train": cut["training"], "test": cut["test"]}

    def _metric(self, gold: Codes, predicted: Codes) -> float:
        """Return the main metric of predicted labels in numbers."""
        if self.task.kind == "regression":
            return correlation(self.metric, np.concatenate(gold), np.concatenate(predicted))
        counts = counts_of(self.task.kind, self._names(gold), self._names(predicted), self.classes)
        return float(main_metric(self.task.kind, self.metric, counts.sum(axis=0)))

    def _names(self, codes: Codes) -> Labels:
        return [self.target.names(part) for part in codes]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self.progress.log(text)
