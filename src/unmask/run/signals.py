"""Signals to a run: SIGTERM and SIGINT stop it and lose nothing, SIGUSR1 saves and goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from unmask.training.distributed import World

_STOP = (signal.SIGINT, signal.SIGTERM)
_SAVE = signal.SIGUSR1


class StoppedAtOnce(BaseException):
    """A signal came while no step was computed; no ``except Exception`` on the way may take it for a error."""


class Signals:
    """What signals have asked for since the run began.

    While steps are computed, the first signal to stop waits for the step that is computed and for what follows on it
    (evaluation, a checkpoint). Before and after, it raises :class:`StoppedAtOnce` where it finds the run. The second
    one ends the process at once.

    Args:
        log: who is told.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log
        self.stop = self.save = self._stepping = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals; only the main thread may, elsewhere they are not ours."""
        try:
            kept = {number: signal.signal(number, self._ask) for number in (*_STOP, _SAVE)}
        except ValueError:
            kept = {}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Let a signal wait until the step is over."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False

    def asked(self, world: World) -> tuple[bool, bool]:
        """Return whether to save and whether to stop, the same on all processes, and forget that a save was asked."""
        asked = int(world.max(2.0 * self.stop + self.save))
        self.save = False
        return asked > 0, asked > 1

    def _ask(self, number: int, _: Any) -> None:
        if number == _SAVE:
            self.save = self._stepping
            self.log("saving after this step" if self._stepping else "no step is computed: nothing to save")
            return
        for stop in _STOP:
            signal.signal(stop, signal.SIG_DFL)
        self.stop = True
        if not self._stepping:
            raise StoppedAtOnce
        self.log("stopping after this step; a second signal stops at once")
