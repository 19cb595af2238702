"""Retrieval by the vectors of an encoder: each query is compared with every passage by the cosine of mean vectors.

Models are compared with the first on the same queries, with paired intervals over queries.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.errors import plural
from unmask.evaluation.bootstrap import RESAMPLES, SEED, Estimate, flat, ratios
from unmask.evaluation.evaluate import ModelLike, as_models, model_names
from unmask.evaluation.evaluate import labels as short_names
from unmask.model.masked_lm import MaskedLM
from unmask.probing.bm25 import BM25
from unmask.probing.features import EncoderLoader, Ints, encode, features, token_limit
from unmask.probing.ranking import (
    METRICS,
    RECALLS,
    Floats,
    query_metrics,
    ranks_of,
    relevant_ranks,
    unit_length,
)
from unmask.probing.retrieval_tasks import RetrievalTask
from unmask.probing.settings import EncoderSettings
from unmask.progress import Progress
from unmask.reporting.format import RETRIEVAL_METRICS, change_interval, metric_change, no_interval
from unmask.reporting.results import Result

INTERVAL = (
    f"bootstrap-t over queries ({RESAMPLES:,} resamples, seed {SEED}), at least as wide as the t interval; "
    "copies of a query count as one; differences are paired"
)
MAIN = METRICS[0]

DEFAULTS = EncoderSettings(precision="fp32")


@dataclass(frozen=True)
class ModelRetrieval:
    """The retrieval metrics of one model.

    Attributes:
        model: its name. label: a shorter one.
        metrics: nDCG@10, recall@10, recall@100 and MRR, means over queries, 0 to 1.
            NaN is a recall among as many passages as there are, or more.
        by_query: ``[Q, 4]`` the same of each query.
        truncated: number of queries and passages that were longer than the model takes.
        seconds: how long it took.
    """

    model: str
    label: str
    metrics: dict[str, Estimate]
    by_query: NDArray[np.float64]
    truncated: dict[str, int]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the metrics of each query, ready for JSON."""
        names = ("model", "label", "truncated", "seconds")
        return {name: getattr(self, name) for name in names} | {"figures": flat(self.metrics)}


@dataclass(frozen=True)
class RetrievalVerdict:
    """One model compared with the first, query by query.

    Attributes:
        first, model: their labels.
        differences: of each metric, ``model`` minus ``first``, 0 to 1, with a paired interval.
    """

    first: str
    model: str
    differences: dict[str, Estimate]

    @property
    def decided(self) -> bool:
        """Whether the interval of nDCG@10 excludes zero."""
        return self.differences[MAIN].sign != 0

    def __str__(self) -> str:
        found = self.differences[MAIN]
        change = f"{metric_change(MAIN, found.value)} of {RETRIEVAL_METRICS[MAIN]}"
        if found.interval is None and found.value != 0:
            return f"no verdict on {self.model} and {self.first}: {change}; {no_interval(what='queries')}"
        if not self.decided:
            who = f"no clear difference between {self.model} and {self.first}"
        else:
            who = f"{self.model} is {'better' if found.value > 0 else 'worse'} than {self.first}"
        ends = change_interval(MAIN, found.interval)
        return f"{who}: {change}" + (f"; 95% interval {ends}" if ends else "")

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        own = {"first": self.first, "model": self.model, "metric": MAIN, "decided": self.decided}
        return own | {"differences": flat(self.differences), "verdict": str(self)}


@dataclass(frozen=True, repr=False)
class RetrievalResult(Result):
    """The results of models on a retrieval task.

    Attributes:
        task: the task as it was used.
        settings: how texts became vectors.
        precision: ``fp32`` or ``bf16``.
        models: one entry for each model.
        verdicts: each later model compared with the first.
        baselines: metrics without a model: of BM25.
        notes: remarks for the reader.
    """

    task: RetrievalTask
    settings: EncoderSettings
    precision: str
    models: list[ModelRetrieval]
    verdicts: list[RetrievalVerdict]
    baselines: dict[str, dict[str, Estimate]]
    notes: list[str] = field(default_factory=list)

    def _title(self) -> str:
        queries, passages = len(self.task.queries), len(self.task.passages)
        return f"retrieval in {self.task.name}: {plural(queries, 'query', 'queries')}, {plural(passages, 'passage')}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; metrics from 0 to 1."""
        task = self.task
        return {
            "task": {
                "name": task.name,
                "kind": "retrieval",
                "queries_from": task.kind,
                "queries": len(task.queries),
                "passages": len(task.passages),
                "relevant": sum(map(len, task.relevant)),
            },
            "metric": MAIN,
            "precision": self.precision,
            "pool": self.settings.pool,
            "models": [found.to_dict() for found in self.models],
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "baselines": {name: flat(metrics) for name, metrics in self.baselines.items()},
            "interval": INTERVAL,
            "notes": self.notes,
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row for each model and metric: ``value``, ``low`` and ``high`` (of the interval)."""
        return [
            {"model": found.label, "metric": name, **estimate._asdict()}
            for found in self.models
            for name, estimate in found.metrics.items()
        ]


def probe_retrieval(
    models: ModelLike | Sequence[ModelLike],
    task: RetrievalTask,
    settings: EncoderSettings = DEFAULTS,
    *,
    progress: Progress = Progress(),
) -> RetrievalResult:
    """Rank all passages for each query by each model. Models given by name are in memory one at a time.

    The vectors of all passages are kept in memory, their scores in blocks.

    Args:
        models: Hub names, model folders, run folders or models in memory; later ones are compared with the first.
        task: of :func:`unmask.probing.retrieval_tasks.read_beir` or ``task_of_text``.
        settings: pooling, limits and device.
        progress: gets progress and messages.

    Raises:
        ConfigError: a model cannot be loaded, or ``max_length`` leaves no room for text.
        DivergedError: a model's vectors are NaN or infinite.
    """
    models = as_models(models)
    names = model_names(models)
    task = task.sample(settings.limit)
    load = EncoderLoader(settings, progress)
    notes, found, precision = list(task.notes), [], ""
    notes += [
        f"no {RETRIEVAL_METRICS[name]}: it is 100% for any model, with {plural(len(task.passages), 'passage')} in all"
        for name in _certain(task)
    ]
    unit = np.unique(task.queries, return_inverse=True)[1]
    for model, name, label in zip(models, names, short_names(names), strict=True):
        lm = load(model)
        precision = lm.precision_name
        progress.log(f"{label}: retrieval")
        begin = time.monotonic()
        by_query, truncated, more = _evaluate(lm, task, settings, progress)
        notes += [f"{label}: {note}" for note in more]
        seconds = time.monotonic() - begin
        found.append(ModelRetrieval(name, label, _shares(by_query, unit), by_query, truncated, seconds))
    verdicts = [
        RetrievalVerdict(found[0].label, other.label, _means(other.by_query - found[0].by_query, unit))
        for other in found[1:]
    ]
    for note in notes:
        progress.log(note)
    baselines = {"bm25": _shares(_bm25(task, progress), unit)}
    return RetrievalResult(task, settings, precision, found, verdicts, baselines, notes)


def _evaluate(
    lm: MaskedLM, task: RetrievalTask, settings: EncoderSettings, progress: Progress
) -> tuple[NDArray[np.float64], dict[str, int], list[str]]:
    """Return the ``[Q, 4]`` metrics of the queries, the numbers of truncated texts, and remarks."""
    queries, query_of, cut_queries = _vectors(lm, task.queries, settings, progress, "queries")
    passages, vector_of, cut_passages = _vectors(lm, task.passages, settings, progress, "passages")
    ranked = relevant_ranks(
        queries[query_of], passages, vector_of, _relevant(task), task.order, task.excluded
    )
    found = _metrics(ranked, task, progress, "search")
    truncated = {"queries": cut_queries, "passages": cut_passages}
    cut = [plural(cut_queries, "query", "queries"), plural(cut_passages, "passage")]
    note = f"truncated to {token_limit(lm, settings.max_length)} tokens: {' and '.join(cut)}"
    return found, truncated, [note] if any(truncated.values()) else []


def _bm25(task: RetrievalTask, progress: Progress) -> NDArray[np.float64]:
    index = BM25(task.passages)
    ranked = (
        ranks_of(index.scores(query), relevant, task.order, int(excluded))
        for query, relevant, excluded in zip(task.queries, _relevant(task), task.excluded, strict=True)
    )
    return _metrics(ranked, task, progress, "BM25")


def _relevant(task: RetrievalTask) -> list[Ints]:
    return [np.fromiter(grades, dtype=np.int64) for grades in task.relevant]


def _metrics(
    ranked: Iterator[Ints], task: RetrievalTask, progress: Progress, phase: str
) -> NDArray[np.float64]:
    """Return the ``[Q, 4]`` metrics of the ranks of each query."""
    progress.begin(phase)
    rows = []
    for number, (ranks, grades) in enumerate(zip(ranked, task.relevant, strict=True), 1):
        rows.append(query_metrics(ranks, np.fromiter(grades.values(), dtype=np.int64)))
        progress.advance(number / len(task.queries), {"queries": number})
    progress.end()
    found = np.stack(rows)
    found[:, [METRICS.index(name) for name in _certain(task)]] = np.nan
    return found


def _certain(task: RetrievalTask) -> list[str]:
    """Return the metrics that say nothing of a model, since all passages are among so many."""
    return [name for name, among in RECALLS.items() if among >= len(task.passages)]


def _vectors(
    lm: MaskedLM, texts: Sequence[str], settings: EncoderSettings, progress: Progress, what: str
) -> tuple[Floats, Ints, int]:
    """Return ``[V, H]`` vectors of the texts that differ in their tokens, ``[N]`` the one of each text, and how many are truncated."""
    encoded = encode(lm, texts, max_length=settings.max_length)
    number: dict[bytes, int] = {}
    vector_of = np.array(
        [number.setdefault(ids.tobytes(), len(number)) for ids in encoded.ids], dtype=np.int64
    )
    _, first = np.unique(vector_of, return_index=True)
    progress.begin(f"vectors of {what}")
    found = features(lm, encoded.take(first.tolist()), tagged=False, pool=settings.pool, progress=progress)
    progress.end()
    return unit_length(found), vector_of, encoded.truncated


def _shares(by_query: NDArray[np.float64], unit: Ints) -> dict[str, Estimate]:
    return {name: mean.within(0, 1) for name, mean in _means(by_query, unit).items()}


def _means(by_query: NDArray[np.float64], unit: Ints) -> dict[str, Estimate]:
    """Return the means over queries with intervals over different queries."""
    count = np.bincount(unit).astype(np.float64)[:, None]
    sums = np.stack([np.bincount(unit, column).astype(np.float64) for column in by_query.T], axis=1)
    return dict(zip(METRICS, ratios(sums, count), strict=True))
