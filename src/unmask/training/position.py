"""How far a run is, and how long it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from unmask.data.training_stream import Cursor

DONE = 1.0 - 1e-12
"""A run that has so much of its length is done."""


@dataclass(frozen=True)
class Length:
    """The length of a run, which ends at the limit that is reached first.

    Attributes:
        steps: optimizer steps.
        epochs: passes over the text.
        seconds: seconds of training.
    """

    steps: int | None = None
    epochs: float | None = None
    seconds: float | None = None

    def progress(self, step: int, epochs: float, seconds: float) -> float:
        """Return how much of the run is done, 0 to 1 and beyond."""
        pairs = ((step, self.steps), (epochs, self.epochs), (seconds, self.seconds))
        return max((done / limit for done, limit in pairs if limit), default=0.0)

    def reached(self, step: int, epochs: float, seconds: float) -> list[str]:
        """Return in words the limits that a run has reached."""
        parts = (
            (step, self.steps, "{:,} of {:,} steps (--max-steps)"),
            (epochs, self.epochs, "{:g} of {:g} epochs (--epochs)"),
            (seconds / 60, self.seconds and self.seconds / 60, "{:.2f} of {:g} minutes (--minutes)"),
        )
        return [text.format(done, limit) for done, limit, text in parts if limit and done / limit >= DONE]


@dataclass
class Position:
    """The state of a run besides weights and optimizer.

    Attributes:
        step: optimizer steps done.
        cursor: position in the stream of text.
        tokens: real tokens seen, over all processes.
        seconds: seconds spent training.
        window: sums since the last row of metrics.
        skipped_steps: how many of the last steps, in a row, were skipped.
        trend: running mean and variance of the loss.
        stage: of the objective, which the next step has; a run never returns to an earlier one.
    """

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    tokens: int = 0
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=dict)
    skipped_steps: int = 0
    trend: dict[str, float] = field(default_factory=dict)
    stage: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Position:
        """Return the position that :meth:`to_dict` gave, or an earlier version's (``bad_steps``); other keys are ignored."""
        content = {
            "skipped_steps": content.get("bad_steps"),
            "stage": 0,
            **content,
            "cursor": Cursor.of(content["cursor"]),
        }
        return Position(**{key: content[key] for key in Position.__dataclass_fields__})
