"""Metrics, counts, durations and sizes as text."""

from __future__ import annotations

import math

import pytest

from unmask.errors import plural
from unmask.evaluation.baselines import NAMES
from unmask.reporting.format import (
    BASELINES,
    METRICS,
    baseline_name,
    byte_size,
    cell,
    change_interval,
    clock,
    duration,
    interval,
    loss,
    metric,
    metric_change,
    number,
    percent,
    points,
    progress_metrics,
    rough_duration,
)


def test_progress_in_words() -> None:
    found = {
        "step": 1200,
        "loss": 3.2,
        "learning_rate": 5e-5,
        "documents": 58_012,
        "docs/s": 3.7,
        "of": "a",
        "x": None,
    }
    assert progress_metrics({**found, "seconds_left": 3, "lr": 0.0, "nan": float("nan")}) == [
        "step 1,200", "loss 3.200", "learning rate 5e-05", "58,012 documents", "3.7 docs/s", "of a", "lr 0.000", "nan nan",
    ]  # fmt: skip
    assert progress_metrics({"documents": 1}) == ["1 document"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (72, "1:12"), (7384, "2:03:04"), (-3, "0:00")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_durations() -> None:
    assert [duration(seconds) for seconds in (9.6, 200, 7500)] == ["10 s", "3 min 20 s", "2 h 5 min"]
    assert [rough_duration(seconds) for seconds in (0.2, 200, 5400, 216_000, 8_640_000)] == [
        "about 1 second", "about 3.3 minutes", "about 1.5 hours", "about 2.5 days", "about 100 days",
    ]  # fmt: skip


def test_cells_and_bytes() -> None:
    assert [cell(v) for v in (1234567, 1234.5, 3.14159, 0.00002, True, "a", None)] == [
        "1,234,567", "1,234", "3.142", "2e-05", "True", "a", "–",
    ]  # fmt: skip
    assert [byte_size(v) for v in (12, 3_400_000, 812e6, 3.42e9)] == [
        "12 bytes",
        "3.4 MB",
        "812 MB",
        "3.4 GB",
    ]


def test_shares_are_percentages_whatever_their_metric() -> None:
    for key in ("accuracy", "accuracy_at_5", "f1", "macro_f1"):
        assert metric(key, 0.3642) == "36.4%"
        assert metric_change(key, -0.044) == "−4.4 points"
        assert interval(key, [0.35, 0.378]) == "35.0–37.8%"
        assert change_interval(key, [-0.05, 0.002]) == "−5.0 to +0.2"
    assert [percent(share) for share in (0.0, 0.0004, 1.0, None, math.nan)] == [
        "0.0%",
        "<0.1%",
        "100.0%",
        "–",
        "not finite",
    ]
    assert percent(0.14987, 2) == "14.99%"
    assert points(0.044) == "4.4 points"


def test_losses_have_three_decimals_and_perplexity_four_digits() -> None:
    assert (metric("loss", 3.9414), metric("loss_per_word", 12.0)) == ("3.941", "12.000")
    assert (interval("loss", [3.31, 3.6224]), change_interval("loss", [-0.21, 0.0])) == (
        "3.310–3.622",
        "−0.210 to +0.000",
    )
    assert [metric("perplexity", value) for value in (7.876, 123.45, 51_234.5)] == ["7.88", "123.5", "51,234"]
    assert [number(value) for value in (0.0312, 2e6, math.inf)] == ["0.0312", "2e+06", "not finite"]
    assert loss(None) == "–"
    assert interval("loss", None) == change_interval("accuracy", None) == ""


def test_counts_take_the_right_number() -> None:
    assert [plural(n, "document") for n in (0, 1, 1234)] == ["0 documents", "1 document", "1,234 documents"]
    assert plural(2, "address", "addresses") == "2 addresses"
    assert [plural(n, "epoch") for n in (1.0, 1.5)] == ["1 epoch", "1.5 epochs"]


def test_every_baseline_and_metric_has_one_name() -> None:
    assert set(NAMES) <= set(BASELINES)
    assert len(set(BASELINES.values())) == len(BASELINES)
    assert len(set(METRICS.values())) == len(METRICS)
    assert baseline_name("ngram") == "bidirectional n-gram"
    assert baseline_name("something_else") == "something else"


def test_a_rounded_zero_has_no_minus() -> None:
    assert (percent(-0.0001), loss(-0.0001), points(-0.0001)) == ("0.0%", "0.000", "0.0 points")
    assert (loss(-0.00044, signed=True), loss(0.0, signed=True)) == ("−0.0004", "+0.000")
    assert (loss(-1e-9, signed=True), metric_change("accuracy", -0.0001)) == ("+0.000", "+0.0 points")
