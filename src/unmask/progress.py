"""How long work reports its progress, without knowing who listens."""

from __future__ import annotations

from collections.abc import Mapping


class Progress:
    """What every function that takes long reports to. This base class is silent; subclasses show or record it."""

    def log(self, text: str) -> None:
        """Something that a person should know: a default that was chosen, a file that is reused."""

    def warning(self, text: str) -> None:
        """Something that may spoil the result, such as text that was skipped."""
        self.log(f"warning: {text}")

    def begin(self, phase: str) -> None:
        """A phase of work begins, for example ``"train"``; it lasts until :meth:`end`."""

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        """The phase has advanced.

        Args:
            share: how much of it is done, 0 to 1, or ``None`` where that is unknown.
            metrics: what to show with it, for example ``{"loss": 3.2, "tokens/s": 8000.0}``.
        """

    def end(self) -> None:
        """The phase is over."""


class PartOf(Progress):
    """Reports one of several equal parts of a phase that has begun, so that the share is one over all of them.

    Args:
        whole: what the phase reports to.
        number: of this part, from 0.
        count: how many parts there are.
        metrics: what to show with those of the part.
    """

    def __init__(self, whole: Progress, number: int, count: int, metrics: Mapping[str, object]) -> None:
        self._number, self._count, self._metrics = number, count, metrics
        self._whole = whole

    def log(self, text: str) -> None:
        self._whole.log(text)

    def warning(self, text: str) -> None:
        self._whole.warning(text)

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        done = None if share is None else (self._number + share) / self._count
        self._whole.advance(done, {**self._metrics, **metrics})
