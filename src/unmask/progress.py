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
