"""Bootstrap intervals: their coverage, too little data, and calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unmask.data.heldout_size import FEWEST_UNITS
from unmask.evaluation import bootstrap
from unmask.evaluation.bootstrap import (
    Estimate,
    calibration,
    ratios,
    reliability_bins,
    resampling_units,
)
from unmask.evaluation.metrics import metrics_of, paired_sums


def documents(
    draw: np.random.Generator, count: int, truth: float, spread: float = 0.15
) -> tuple[np.ndarray, np.ndarray]:
    """Return right predictions and tokens of documents that differ in length and in how hard they are."""
    tokens = draw.integers(1, 60, size=count)
    share = np.clip(truth + spread * draw.standard_normal(count), 0.01, 0.99)
    return draw.binomial(tokens, share).astype(float), tokens.astype(float)


def test_a_metric_is_the_ratio_of_sums_and_not_a_mean_of_ratios() -> None:
    (found,) = ratios(np.array([[1.0], [0.0]] * 5), np.array([[1.0], [9.0]] * 5))
    assert found.value == 0.1


def test_the_interval_covers_the_truth_where_one_over_tokens_does_not() -> None:
    draw = np.random.default_rng(1)
    inside = naive = 0
    for trial in range(200):
        right, tokens = documents(draw, 60, truth=0.5)
        (found,) = ratios(right[:, None], tokens[:, None], resamples=200, seed=trial)
        inside += found.low <= 0.5 <= found.high
        half = 1.96 * math.sqrt(found.value * (1 - found.value) / tokens.sum())
        naive += abs(found.value - 0.5) <= half
    assert 0.89 <= inside / 200 <= 0.99
    assert naive / 200 < 0.8  # as if the tokens of a document were independent


def test_the_interval_narrows_with_documents() -> None:
    draw = np.random.default_rng(2)
    wide, narrow = (
        ratios(*(part[:, None] for part in documents(draw, count, 0.5)))[0] for count in (40, 4000)
    )
    assert (narrow.high - narrow.low) < 0.2 * (wide.high - wide.low)


def test_the_same_sums_give_the_same_bits_and_another_seed_another_interval() -> None:
    right, tokens = (part[:, None] for part in documents(np.random.default_rng(3), 100, 0.3))
    assert ratios(right, tokens) == ratios(right, tokens)
    skewed = tokens**3
    assert ratios(skewed, tokens, seed=1)[0].high != ratios(skewed, tokens)[0].high


def test_a_paired_difference_is_surer_than_its_parts() -> None:
    draw = np.random.default_rng(4)
    right, tokens = documents(draw, 200, 0.4)
    better = right + draw.binomial((tokens - right).astype(int), 0.05)
    first, second = ratios(np.stack([right, better], axis=1), tokens[:, None])
    (change,) = ratios((better - right)[:, None], tokens[:, None])
    assert change.value == pytest.approx(second.value - first.value)
    assert 0 < change.low < change.high
    assert first.high > second.low  # apart they could not be told


def test_too_few_documents_have_no_interval() -> None:
    few, enough = (np.ones((count, 1)) for count in (FEWEST_UNITS - 1, FEWEST_UNITS))
    assert ratios(few, few)[0].interval is None
    assert ratios(enough, enough)[0] == Estimate(1.0, 1.0, 1.0)


def test_units_without_anything_change_nothing_and_no_unit_at_all_is_nan() -> None:
    right, tokens = (part[:, None] for part in documents(np.random.default_rng(5), 50, 0.3))
    nothing = np.zeros((30, 1))
    padded = ratios(np.concatenate([right, nothing]), np.concatenate([tokens, nothing]))
    assert padded == ratios(right, tokens)
    (empty,) = ratios(nothing, nothing)
    assert math.isnan(empty.value)
    assert empty.interval is None


def test_a_row_that_resamples_often_miss_has_no_interval() -> None:
    tokens = np.zeros((100, 2))
    tokens[:, 0], tokens[:FEWEST_UNITS, 1] = 1, 1
    rare = np.zeros((1000, 1))
    rare[0] = 1
    common, seldom = ratios(tokens, tokens)
    assert common.interval is not None
    assert seldom.interval is not None  # 5 of 100: missed in 0.6% of resamples
    assert ratios(rare, rare)[0].interval is None


@pytest.mark.parametrize(("units", "known"), [(1, False), (2, False), (4, True)])
def test_over_5_percent_empty_resamples_give_no_interval(
    units: int, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "FEWEST_UNITS", 1)
    tokens = np.ones((100, 2))
    tokens[units:, 1] = 0  # missed by 37%, 13% and 1.7% of the resamples
    assert (ratios(tokens, tokens)[1].interval is not None) is known


def test_a_document_of_infinite_loss_leaves_no_interval() -> None:
    loss, tokens = np.ones((50, 1)), np.ones((50, 1))
    loss[0] = math.inf
    assert ratios(loss, tokens)[0].interval is None


def test_many_documents_are_resampled_in_groups_with_the_same_interval() -> None:
    draw = np.random.default_rng(6)
    right, tokens = documents(draw, 20_000, 0.4)
    keys = draw.integers(0, 2**63, size=20_000).astype(np.uint64)
    unit = resampling_units(keys, most=2_000)
    assert unit.max() < 2_000
    assert len(np.unique(unit)) > 1_900
    grouped = [np.bincount(unit, part)[:, None] for part in (right, tokens)]
    (whole,), (parts,) = ratios(right[:, None], tokens[:, None]), ratios(*grouped)
    assert parts.value == pytest.approx(whole.value)
    assert parts.high - parts.low == pytest.approx(whole.high - whole.low, rel=0.15)


@pytest.mark.parametrize("most", [4, 5_000])
def test_copies_of_a_document_are_one_unit_however_many_documents_there_are(most: int) -> None:
    keys = np.random.default_rng(8).integers(0, 2**63, size=12).astype(np.uint64)
    unit = resampling_units(np.tile(keys, 50), most=most)
    assert (unit.reshape(50, 12) == unit[:12]).all()
    assert len(np.unique(unit)) == 12 if most > 12 else unit.max() < most


def test_copies_do_not_narrow_an_interval() -> None:
    right, tokens = documents(np.random.default_rng(9), 12, 0.4)
    keys = np.arange(12, dtype=np.uint64)
    (once,) = ratios(right[:, None], tokens[:, None])
    unit = resampling_units(np.tile(keys, 50))
    (copied,) = ratios(*(np.bincount(unit, np.tile(part, 50))[:, None] for part in (right, tokens)))
    assert copied == pytest.approx(once)


def test_a_document_that_is_most_of_the_text_gives_a_wide_interval() -> None:
    right, tokens = documents(np.random.default_rng(10), 20, 0.4)
    (alike,) = ratios(right[:, None], tokens[:, None])
    right[0], tokens[0] = 900, 3_000
    (unequal,) = ratios(right[:, None], tokens[:, None])
    assert unequal.high - unequal.low > 2 * (alike.high - alike.low)


def test_documents_that_are_all_wrong_leave_the_accuracy_of_others_open() -> None:
    sums = np.stack([np.full(30, 10.0), np.full(30, 20.0), np.zeros(30)], axis=1)
    found = metrics_of(sums)
    assert found["accuracy"].value == 0
    assert found["accuracy"].interval is None
    same = metrics_of(paired_sums(sums, sums), difference=True)
    assert same["loss"] == same["accuracy"] == Estimate(0.0, 0.0, 0.0)


def test_intervals_stay_where_a_metric_can_be() -> None:
    draw = np.random.default_rng(11)
    right, tokens = documents(draw, FEWEST_UNITS, 0.03, spread=0.05)
    loss = draw.exponential(size=FEWEST_UNITS) ** 6 * tokens
    found = metrics_of(np.stack([tokens, loss, right], axis=1))
    assert found["loss"].low == found["accuracy"].low == 0 < found["accuracy"].high <= 1 < found["loss"].high


def test_a_calibrated_model_has_no_error_and_a_boastful_one_has() -> None:
    draw = np.random.default_rng(7)
    confidence = draw.uniform(size=200_000)
    honest = calibration(reliability_bins(confidence, draw.uniform(size=200_000) < confidence))
    boastful = calibration(reliability_bins(confidence, draw.uniform(size=200_000) < confidence - 0.2))
    assert honest.error < 0.01
    assert boastful.error == pytest.approx(0.18, abs=0.01)  # 0.2, but for where nothing can be lost any more
    assert np.allclose(honest.accuracy, honest.confidence, atol=0.03)


def test_bins_are_equally_wide_add_up_and_hold_the_ends() -> None:
    confidence, right = np.array([0.0, 0.05, 0.51, 1.0]), np.array([True, False, True, True])
    bins = reliability_bins(confidence, right, bins=10)
    assert bins[:, 0].tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    halves = reliability_bins(confidence[:2], right[:2], 10) + reliability_bins(confidence[2:], right[2:], 10)
    assert (bins == halves).all()
    found = calibration(bins)
    assert found.error == pytest.approx((abs(1 - 0.05) + abs(1 - 0.51) + 0) / 4)
    assert math.isnan(found.accuracy[1])
