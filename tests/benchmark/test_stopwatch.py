"""The watch of the benchmarks: what it leaves out, what it adds up, when it has had enough."""

from __future__ import annotations

from unmask.benchmark.stopwatch import Stopwatch


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ticks(watch: Stopwatch, clock: Clock, steps: list[tuple[float, int]]) -> list[bool]:
    """Let steps of so many seconds and tokens go by; return what the watch said after each."""
    answers = []
    for seconds, tokens in steps:
        clock.now += seconds
        answers.append(watch.tick(tokens))
    return answers


def test_the_warm_up_is_left_out_and_the_rest_added_up() -> None:
    clock = Clock()
    watch = Stopwatch(5.0, warm_up=2, least=2, clock=clock)
    said = ticks(watch, clock, [(50.0, 999), (7.0, 999), (1.0, 10), (2.0, 20), (3.0, 30)])
    assert said == [False, False, False, False, True]
    assert watch.step_seconds == [1.0, 2.0, 3.0]
    assert watch.seconds_per_step == 2.0
    assert watch.tokens_per_second == 60 / 6


def test_it_takes_the_least_number_of_steps_however_long_they_are() -> None:
    clock = Clock()
    watch = Stopwatch(1.0, warm_up=1, least=3, clock=clock)
    assert ticks(watch, clock, [(9.0, 1)] * 4) == [False, False, False, True]


def test_the_device_is_settled_where_measuring_begins_and_ends() -> None:
    clock, settled = Clock(), []
    watch = Stopwatch(3.0, warm_up=1, least=1, clock=clock, settle=lambda: settled.append(clock.now))
    ticks(watch, clock, [(1.0, 1), (1.0, 1), (1.0, 1), (1.0, 1)])
    assert settled == [101.0, 104.0]


def test_settling_counts_as_time_of_the_last_step() -> None:
    clock = Clock()

    def settle() -> None:
        clock.now += 4.0

    watch = Stopwatch(1.0, warm_up=1, least=1, clock=clock, settle=settle)
    ticks(watch, clock, [(1.0, 5), (1.0, 5)])
    assert watch.step_seconds == [5.0]


def test_before_any_step_is_measured_the_rates_are_zero() -> None:
    watch = Stopwatch(1.0)
    assert watch.tokens_per_second == watch.seconds_per_step == 0.0
