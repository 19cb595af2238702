"""Progress on a terminal: a bar, or a plain line every few seconds where the output is no terminal.

``NO_COLOR`` (https://no-color.org) leaves every style out.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TextIO

from unmask.progress import Progress
from unmask.reporting.format import clock, progress_metrics, share_done

if TYPE_CHECKING:  # rich is imported where something is drawn, so that --help is quick
    import rich.progress
    from rich.console import Console

_SECONDS_BETWEEN_LINES = 5.0
_WIDTH_OFF_TERMINAL = 160


@dataclass
class _Phase:
    """One phase of work, as it was last reported."""

    name: str
    began: float
    first: tuple[float, float] | None = None
    """Time and share of the first report: the share is not 0 where a run was resumed."""
    share: float | None = None
    metrics: Mapping[str, object] = field(default_factory=dict)


class TerminalProgress(Progress):
    """Progress for people; a context manager that removes the bars at the end.

    Args:
        console: where to write.
        clock: seconds that only go forward.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._phases: list[_Phase] = []

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the running phases; the terminal is as it was."""
        self._phases.clear()

    def log(self, text: str) -> None:
        print_line(self._console, text, "dim")

    def begin(self, phase: str) -> None:
        self._phases.append(_Phase(phase, self._clock()))

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        if self._phases:
            phase = self._phases[-1]
            phase.share = share if share is None else min(max(share, 0.0), 1.0)
            phase.metrics = dict(metrics)
            if phase.first is None and phase.share is not None:
                phase.first = (self._clock(), phase.share)

    def end(self) -> None:
        if self._phases:
            phase = self._phases.pop()
            self._print_phase(phase, f"in {clock(self._clock() - phase.began)}", ended=True)

    def _print_phase(self, phase: _Phase, last: str, ended: bool = False) -> None:
        unfinished = phase.share is not None and phase.share < 0.995
        share = "done" if ended and not unfinished else share_done(phase.share)
        parts = [phase.name, share, *progress_metrics(phase.metrics), last]
        print_line(self._console, "  ".join(part for part in parts if part))

    def _time(self, phase: _Phase) -> str:
        """Return the time that is left or, if it cannot be estimated, the time that has passed."""
        now = self._clock()
        left = phase.metrics.get("seconds_left")
        if not isinstance(left, int | float) and phase.first is not None and phase.share is not None:
            passed, gained = now - phase.first[0], phase.share - phase.first[1]
            left = passed * (1 - phase.share) / gained if passed > 1 and gained > 0.005 else None
        if isinstance(left, int | float):
            return f"{clock(left)} left"
        return f"after {clock(now - phase.began)}"


class LineProgress(TerminalProgress):
    """Plain lines, at most one every five seconds, and one at the end of each phase."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._printed = clock()

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        super().advance(share, metrics)
        now = self._clock()
        if self._phases and now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            self._print_phase(self._phases[-1], self._time(self._phases[-1]))


class BarProgress(TerminalProgress):
    """A bar for each running phase, and a line for each that has ended."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._bars: rich.progress.Progress | None = None
        self._tasks: list[rich.progress.TaskID] = []

    def close(self) -> None:
        super().close()
        self._tasks.clear()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def begin(self, phase: str) -> None:
        super().begin(phase)
        if self._bars is None:
            self._bars = _new_bars(self._console)
            self._bars.start()
        self._tasks.append(self._bars.add_task(phase, total=None, text=""))

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        super().advance(share, metrics)
        if self._bars is not None and self._phases:
            phase = self._phases[-1]
            parts = [share_done(phase.share), *progress_metrics(metrics), self._time(phase)]
            text = "  ".join(part for part in parts if part)
            total = None if phase.share is None else 1.0
            self._bars.update(self._tasks[-1], total=total, completed=phase.share or 0.0, text=text)

    def end(self) -> None:
        if self._bars is not None and self._tasks:
            self._bars.remove_task(self._tasks.pop())
            if not self._tasks:
                self._bars.stop()
                self._bars = None
        super().end()


def _new_bars(console: Console) -> rich.progress.Progress:
    import rich.progress

    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TextColumn("{task.fields[text]}", markup=False),
        console=console,
        transient=True,
        refresh_per_second=4,
        redirect_stdout=False,
    )


def terminal_progress(stderr: TextIO, clock: Callable[[], float] = time.monotonic) -> TerminalProgress:
    """Return progress that suits where ``stderr`` goes: a bar on a terminal, plain lines elsewhere."""
    console = plain_console(stderr)
    if stderr.isatty() and not console.is_dumb_terminal:
        return BarProgress(console, clock)
    return LineProgress(console, clock)


def plain_console(stream: TextIO) -> Console:
    """Return a console that takes text as it is: ``[MASK]`` is no markup and numbers have no colours."""
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OFF_TERMINAL
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width, color_system=colours)


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a line, wrapped between words on a terminal and whole elsewhere."""
    from rich.text import Text

    if console.file.isatty():
        text = "\n".join(part for line in text.split("\n") for part in _wrapped(line, console.width))
    console.print(Text(text, style), soft_wrap=True)  # style= of print would be that of a running bar too


def _wrapped(line: str, width: int) -> list[str]:
    """Return the lines of at most ``width`` columns; a path or another word that is wider stays whole."""
    from rich.cells import cell_len  # a Chinese character takes two columns

    lines = [""]
    for word in re.findall(r"\s*\S+", line):
        if lines[-1].strip() and cell_len(lines[-1] + word) > width:
            lines.append(word.lstrip())
        else:
            lines[-1] += word
    return lines
