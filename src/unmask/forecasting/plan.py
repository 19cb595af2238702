"""Which probing runs are made: several lengths, parts of the text, replay shares and learning rates.

Every length is a run of its own with the schedule of a whole run: the loss in the middle of a long run, at a high learning
rate, is not that of a run which ends there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from unmask.errors import ConfigError

Purpose = Literal["length", "repeats", "replay", "rate"]

REPLAY_SHARES = (0.05, 0.2, 0.5)
_RATES = (1 / 3, 3.0)
_LENGTHS = (1, 2, 4, 8, 16, 32)
_PARTS = (4, 16)
_FEWEST_STEPS = 3
FEWEST_STEPS = 32
"""Steps of the longest run: with fewer there are no four lengths to fit a law to."""


@dataclass(frozen=True)
class ProbingRun:
    """A short run of the training loop.

    Attributes:
        purpose: what it varies.
        steps: optimizer steps.
        text_share: share of the training documents that it uses.
        replay_share: of the tokens, from general text.
        rate: factor of the learning rate.
    """

    purpose: Purpose
    steps: int
    text_share: float = 1.0
    replay_share: float = 0.0
    rate: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_runs(longest: int, text_share: float, shares: Sequence[float]) -> list[ProbingRun]:
    """Return the probing runs, the most important first.

    Args:
        longest: steps of the longest run.
        text_share: how much of the training text that run reads, at most 1.
        shares: replay shares; none without general text.
    """
    runs = [ProbingRun("length", steps) for steps in lengths_of(longest)]
    runs += [ProbingRun("repeats", longest, text_share / part) for part in _PARTS]
    runs += [
        ProbingRun("replay", steps, replay_share=share)
        for share in shares
        for steps in (max(1, longest // 4), longest)
    ]
    return runs + [ProbingRun("rate", max(1, longest // 4), rate=rate) for rate in _RATES]


def lengths_of(longest: int) -> list[int]:
    """Return the lengths in steps, halved from the longest, in ascending order."""
    return [longest // part for part in reversed(_LENGTHS) if longest // part >= _FEWEST_STEPS]


def cost(shares: Sequence[float]) -> float:
    """Return the steps of a whole plan, in those of its longest run."""
    return sum(run.steps for run in plan_runs(1 << 16, 1.0, shares)) / (1 << 16)


def longest_run(steps: float, shares: Sequence[float]) -> int:
    """Return the length of the longest run for which a plan has at most so many steps in all."""
    return int(steps / cost(shares))


def read_plan(content: Any, source: str) -> list[ProbingRun]:
    """Return the runs of the JSON of an earlier forecast.

    Raises:
        ConfigError: it holds no plan.
    """
    try:
        runs = list(_runs(content["plan"]["runs"]))
    except (TypeError, KeyError, ValueError):
        runs = []
    if not runs:
        raise ConfigError(
            f"{source}: expected the JSON of an earlier forecast (unmask forecast --json), with its plan"
        )
    return runs


def _runs(rows: Any) -> Iterator[ProbingRun]:
    for row in rows:
        yield ProbingRun(
            row["purpose"],
            int(row["steps"]),
            float(row["text_share"]),
            float(row["replay_share"]),
            float(row["rate"]),
        )
