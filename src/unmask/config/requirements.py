"""What a run must reach: ``domain>=5%,forgetting<=2%,task>=0``, the value of ``--require``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from unmask.errors import did_you_mean

MEASURES = {
    "domain": ">=",
    "forgetting": "<=",
    "leaks": "<=",
    "task": ">=",
}
"""What may be required, and in which direction: the fall of the loss on held-out domain text and the rise of the loss on
general text, both as shares of the loss of the base, the share of the held-out documents that occur in the training text, and
the rise of the main metric of a task in points, which are written without a percent sign."""

_PART = re.compile(r"([a-z]+)\s*(>=|<=)\s*((-?)(?:\d+(?:\.\d*)?|\.\d+))\s*(%?)")
_EXAMPLE = "domain>=5%,forgetting<=2%"


@dataclass(frozen=True)
class Requirement:
    """A bound of one of :data:`MEASURES`, as a share (100 points are 1)."""

    measure: str
    bound: float

    @property
    def text(self) -> str:
        """As it is written: ``domain>=5%``."""
        return f"{self.measure}{MEASURES[self.measure]}{100 * self.bound:g}{'' if self.measure == 'task' else '%'}"

    def holds(self, value: float) -> bool:
        """Return whether a share meets the bound; NaN does not."""
        return value >= self.bound if MEASURES[self.measure] == ">=" else value <= self.bound


def parse_requirements(text: str | None) -> tuple[Requirement, ...]:
    """Return the requirements that a text lists, separated by commas.

    Raises:
        ValueError: it is no such list; one line.
    """
    parts = [part.strip() for part in (text or "").split(",")] if text is not None else []
    found = [_requirement(part) for part in parts]
    measures = [each.measure for each in found]
    if twice := next((name for name in measures if measures.count(name) > 1), None):
        raise ValueError(f"require must have one bound of {twice}, not two")
    return tuple(found)


def _requirement(part: str) -> Requirement:
    match = _PART.fullmatch(part)
    if match is None:
        less = re.fullmatch(r"([a-z]+)\s*[<>=]\s*(\S+)", part)
        meant = f"; {less[1]} is bounded by {MEASURES[less[1]]}" if less and less[1] in MEASURES else ""
        raise ValueError(f"require must be bounds such as {_EXAMPLE}, not '{part}'{meant}")
    measure, sign, bound, minus, unit = match.groups()
    if measure not in MEASURES:
        raise ValueError(
            f"require must bound one of {', '.join(MEASURES)}, not '{measure}'{did_you_mean(measure, MEASURES)}"
        )
    if sign != MEASURES[measure]:
        raise ValueError(
            f"require must bound {measure} by {MEASURES[measure]}, not by {sign}: {measure}{MEASURES[measure]}{bound}%"
        )
    if measure == "task" and unit:
        raise ValueError(f"require must bound task in points, without a percent sign: {measure}{sign}{bound}")
    if measure != "task" and (minus or not unit):
        why = "a bound has no minus" if minus else f"its percent sign is missing: {measure}{sign}{bound}%"
        raise ValueError(f"require must be bounds such as {_EXAMPLE}, not '{part}'; {why}")
    return Requirement(measure, float(bound) / 100)
