"""Results of the probe: metrics by model and method, and paired verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unmask.errors import plural
from unmask.probing.examples import Task, label_set
from unmask.probing.metrics import CORRELATIONS
from unmask.probing.settings import ProbeSettings
from unmask.reporting.format import PROBE_METRICS, no_interval
from unmask.reporting.results import Result

INTERVAL = (
    "t interval of the mean over seeds, for this training set; varies over test examples (jackknife by class, copies of a "
    "text once) and over seeds; differences are paired"
)
SEEDS = {
    "frozen": "a seed resamples the training examples with replacement, so it sees about 63% of them, and metrics are "
    "slightly below those of training on all",
    "finetune": "a seed changes the new head, the order of examples and dropout",
}


@dataclass(frozen=True)
class Verdict:
    """One model compared with the first, paired by seed and test example.

    Attributes:
        method: ``frozen`` or ``finetune``.
        first, model: their labels.
        metric: its name.
        differences: S differences of it, ``model`` minus ``first``, 0 to 1.
        interval: 95%, for other test examples and seeds, or ``None``.
    """

    method: str
    first: str
    model: str
    metric: str
    differences: list[float]
    interval: list[float] | None

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))

    @property
    def sd(self) -> float | None:
        """Standard deviation of the differences, ``None`` of a single one."""
        return spread(self.differences)

    @property
    def better(self) -> int:
        """Number of seeds in which ``model`` is better."""
        return sum(difference > 0 for difference in self.differences)

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def __str__(self) -> str:
        seeds = len(self.differences)
        who = f"{self.model} is {'better' if self.mean > 0 else 'worse'} than {self.first}"
        if self.interval is None:
            who = f"no verdict on {self.model} and {self.first}"
        elif not self.decided:
            who = f"no clear difference between {self.model} and {self.first}"
        scale, digits = (1, 3) if self.metric in CORRELATIONS else (100, 1)
        sd = "" if self.sd is None else f" ± {scale * self.sd:.{digits}f}"
        name = PROBE_METRICS[self.metric]
        text = (
            f"{self.method}: {who}: {scale * self.mean:+.{digits}f}{sd} {name} over {plural(seeds, 'seed')}"
        )
        text += f", better in {self.better} of {seeds}"
        if self.interval is None:
            why = (
                "one seed does not show how much seeds differ; use --seeds 5"
                if seeds == 1
                else no_interval(what="test examples")
            )
            return f"{text}; {why}"
        low, high = self.interval
        return f"{text}; 95% interval {scale * low:+.{digits}f} to {scale * high:+.{digits}f}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        names = ("method", "first", "model", "differences", "mean", "sd", "better", "interval", "decided")
        values = {name: getattr(self, name) for name in names}
        return values | {"metric": self.metric, "seeds": len(self.differences), "verdict": str(self)}


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample, or ``None`` of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


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
        sizes = f"{len(self.task.train):,} training and {plural(len(self.task.test), 'test example')}"
        return f"probe of {self.task.name}: {sizes}, {plural(self.settings.seeds, 'seed')}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; metrics from 0 to 1."""
        task = self.task
        sizes = {"train": len(task.train), "dev": len(task.dev) if task.dev else None, "test": len(task.test)}
        overlap = {"test_texts_in_train": task.shared, "dropped": self.settings.drop_overlap}
        return {
            "task": {
                "name": task.name,
                "kind": task.kind,
                "labels": [] if task.kind == "regression" else label_set(task.train),
                "pairs": task.train.seconds is not None,
                "sizes": sizes,
                "overlap": overlap,
            },
            "metric": task.metric,
            "seeds": self.settings.seeds,
            "a_seed": {method: SEEDS[method] for method in self.settings.methods},
            "precision": self.precision,
            "pool": self.settings.pool if task.train.words is None else None,
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
                span = found.interval if name == self.task.metric and found.interval else [math.nan] * 2
                row: dict[str, Any] = {"model": found.label, "method": found.method, "metric": name}
                row |= {"mean": float(np.mean(values)), "sd": spread(values), "low": span[0], "high": span[1]}
                rows.append(row)
        return rows
