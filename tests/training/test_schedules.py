from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from unmask.config.settings import ScheduleSettings
from unmask.training.schedules import learning_rate_factor, mask_rate

NAMES = ["linear", "cosine", "trapezoid", "constant"]
SETTINGS = ScheduleSettings(warmup_share=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_rises_to_its_peak_and_stays_between_zero_and_one(name: str) -> None:
    factor = learning_rate_factor(SETTINGS, name)
    values = [factor(progress) for progress in np.linspace(0, 1, 1001)]
    assert factor(0.0, 0.01) == pytest.approx(0.1)
    assert 0 < factor(0.0) <= 0.01
    assert factor(0.05) == pytest.approx(0.5)
    assert factor(0.1) == pytest.approx(1.0)
    assert all(0 <= value <= 1 for value in values)
    assert max(abs(a - b) for a, b in pairwise(values)) <= 0.011
    assert values == [factor(progress) for progress in np.linspace(0, 1, 1001)]


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "linear": {0.55: 0.5, 1.0: 0.0},
        "cosine": {0.325: 0.5 * (1 + math.cos(math.pi / 4)), 0.55: 0.5, 1.0: 0.0},
        "trapezoid": {0.3: 1.0, 0.6: 1.0, 0.8: 0.5, 0.9: 0.25, 1.0: 0.0},
        "constant": {0.3: 1.0, 1.0: 1.0},
    }.items(),
)
def test_values_on_the_way(name: str, values: dict[float, float]) -> None:
    factor = learning_rate_factor(SETTINGS, name)
    assert {progress: pytest.approx(factor(progress)) for progress in values} == values


@pytest.mark.parametrize("name", NAMES)
def test_beyond_the_ends_is_at_the_ends(name: str) -> None:
    factor = learning_rate_factor(SETTINGS, name)
    assert factor(-1.0) == factor(0.0)
    assert factor(2.0) == factor(1.0)


@pytest.mark.parametrize("name", NAMES)
def test_without_warm_up_it_begins_at_the_peak(name: str) -> None:
    assert learning_rate_factor(ScheduleSettings(warmup_share=0), name)(0.0) == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_nothing_and_of_everything_divide_by_no_zero(name: str) -> None:
    for warmup in (0, 1):
        factor = learning_rate_factor(ScheduleSettings(warmup_share=warmup), name)
        assert all(0 <= factor(progress) <= 1 for progress in np.linspace(0, 1, 11))


@pytest.mark.parametrize(("progress", "rate"), [(-1, 0.3), (0, 0.3), (0.5, 0.225), (1, 0.15), (2, 0.15)])
def test_the_mask_rate_goes_from_start_to_end(progress: float, rate: float) -> None:
    assert mask_rate(0.3, 0.15, progress) == pytest.approx(rate)


def test_the_mask_rate_may_stay_or_rise() -> None:
    assert mask_rate(0.15, 0.15, 0.7) == 0.15
    assert mask_rate(0.1, 0.2, 0.5) == pytest.approx(0.15)
