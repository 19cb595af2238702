"""Signals to a run: SIGTERM and SIGINT save and stop it, SIGUSR1 saves a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unmask.progress import Progress
from unmask.training.distributed import World

_STOP = (signal.SIGINT, signal.SIGTERM)
_SAVE = getattr(signal, "SIGUSR1", None)  # Windows has none


class StoppedAtOnce(BaseException):
    """A signal came while no step was computed; a ``BaseException``, so that no ``except Exception`` catches it."""


class Signals:
    """The signals that a run has received.

    During training, the first signal to stop takes effect after the step, with its evaluation and checkpoint. Before
    and after training it raises :class:`StoppedAtOnce` at once. A second signal ends the process.

    Args:
        progress: logs what a signal is going to do.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.stop = self.save = self._stepping = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals; Python allows that in the main thread only, elsewhere this does nothing."""
        try:
            kept = {number: signal.signal(number, self._ask) for number in (*_STOP, _SAVE) if number}
        except ValueError:
            kept = {}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Delay signals until the step is done."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False

    def asked(self, world: World) -> tuple[bool, bool]:
        """Return whether to save and whether to stop, the same on all processes, and clear the request to save."""
        asked = int(world.max(2.0 * self.stop + self.save))
        self.save = False
        return asked > 0, asked > 1

    def _ask(self, number: int, _: Any) -> None:
        if number == _SAVE:
            self.save = self._stepping
            self.progress.log("saving after this step" if self._stepping else "not training: nothing to save")
            return
        for stop in _STOP:
            signal.signal(stop, signal.SIG_DFL)
        self.stop = True
        if not self._stepping:
            raise StoppedAtOnce
        self.progress.log("stopping after this step; a second signal stops at once")
