"""How long work tells that it is going on, without knowing who listens.

Libraries get a :class:`Progress`; this base class is silent. The command line passes one that random_bits.
"""

from __future__ import annotations

from collections.abc import Mapping


class Progress:
    """A silent listener, and the interface of the others."""

    def log(self, text: str) -> None:
        """Something that a person should know: a choice made for them, a file reused, a warning."""

    def begin(self, phase: str) -> None:
        """A phase of work begins, for example ``"train"``; it lasts until :meth:`end`."""

    def advance(self, share: float | None, figures: Mapping[str, object]) -> None:
        """Where the phase stands.

        Args:
            share: how much of it is done, 0 to 1, or ``None`` when nobody can tell.
            figures: what to show beside it, for example ``{"loss": 3.2, "tokens/s": 8000.0}``.
        """

    def end(self) -> None:
        """The phase is over."""
