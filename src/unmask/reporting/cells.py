"""Cells of the tables of metrics: a value as text with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unmask.reporting.format import as_float, change_interval, interval, metric, metric_change


@dataclass(frozen=True)
class Cell:
    """A value as text, with its interval as text or nothing, and the width of its bar where it has one."""

    text: str
    interval: str = ""
    share: float | None = None


def metric_cell(row: Mapping[str, Any], key: str) -> Cell:
    """Return the cell of a metric of a row that has ``intervals``."""
    value = row.get(key)
    bar = as_float(value) if key == "accuracy" else None
    return Cell(metric(key, value), interval(key, row["intervals"].get(key)), bar)


def change_cell(change: Mapping[str, Any] | None, key: str) -> Cell:
    """Return the cell of a difference, which has a ``value`` and an ``interval``."""
    if change is None:
        return Cell("–")
    return Cell(metric_change(key, change["value"]), change_interval(key, change["interval"]))
