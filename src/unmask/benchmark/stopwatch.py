"""Time the steps of a loop: leave out the warm-up, and tell when enough were measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median


class Stopwatch:
    """Times steps, whatever makes them.

    Args:
        seconds: how long to measure.
        warm_up: steps to leave out at the start, at least one.
        least: steps to measure at least.
        settle: waits until the device has finished its queued work; called where measuring begins and ends.
        clock: seconds that only go forward.

    Attributes:
        step_seconds: time of each measured step. On a GPU steps are only queued one by one, so that there the sum
            counts and the single times say little.
        tokens: of the measured steps.
    """

    def __init__(
        self,
        seconds: float,
        *,
        warm_up: int = 3,
        least: int = 5,
        settle: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.seconds, self.warm_up, self.least = seconds, max(warm_up, 1), least
        self.step_seconds: list[float] = []
        self.tokens = 0
        self._settle, self._clock = settle, clock
        self._steps = 0
        self._last = 0.0

    def tick(self, tokens: int) -> bool:
        """Note that a step over so many tokens is done, and return whether that was enough.

        The device is settled at the end of the warm-up, and whenever the time is up.
        """
        self._steps += 1
        if self._steps < self.warm_up:
            return False
        if self._steps == self.warm_up:
            self._settle()
            self._last = self._clock()
            return False
        if self.measured + self._clock() - self._last >= self.seconds:
            self._settle()
        now = self._clock()
        self.step_seconds.append(now - self._last)
        self.tokens += tokens
        self._last = now
        return len(self.step_seconds) >= self.least and self.measured >= self.seconds

    @property
    def measured(self) -> float:
        """Seconds of all measured steps."""
        return sum(self.step_seconds)

    @property
    def tokens_per_second(self) -> float:
        """Over all measured steps; 0 where none was."""
        return self.tokens / self.measured if self.measured else 0.0

    @property
    def seconds_per_step(self) -> float:
        """The median; 0 where no step was measured."""
        return median(self.step_seconds) if self.step_seconds else 0.0
