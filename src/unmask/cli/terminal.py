"""What people see: progress on stderr, and answers drawn as text on stdout.

On a terminal progress is a bar; elsewhere it is a plain line every few seconds, which reads well in a log.
``NO_COLOR`` (https://no-color.org) leaves every style out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TextIO

from unmask.progress import Progress
from unmask.reporting.format import cell, clock, progress_metrics

if TYPE_CHECKING:  # rich is imported where something is drawn, so that --help is quick
    import rich.progress
    from rich.console import Console
    from rich.text import Text

_SECONDS_BETWEEN_LINES = 5.0
_WIDTH_OFF_TERMINAL = 160

# ---------------------------------------------------------------- progress


@dataclass
class _Phase:
    """One phase of work, and where it stood when it was last heard of."""

    name: str
    began: float
    first: tuple[float, float] | None = None
    """When it was first heard of, and the share then: not 0 where a run was resumed."""
    share: float | None = None
    figures: Mapping[str, object] = field(default_factory=dict)


class TerminalProgress(Progress):
    """Progress for people; a context manager that takes down what is drawn, whatever happens.

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the phases that are still going on; the terminal is as it was."""
        self._phases.clear()

    def log(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(text, style="dim"), soft_wrap=True)  # style= would dim the bar too

    def begin(self, phase: str) -> None:
        self._phases.append(_Phase(phase, self._clock()))

    def advance(self, share: float | None, figures: Mapping[str, object]) -> None:
        if self._phases:
            phase = self._phases[-1]
            phase.share = share if share is None else min(max(share, 0.0), 1.0)
            phase.figures = dict(figures)
            if phase.first is None and phase.share is not None:
                phase.first = (self._clock(), phase.share)

    def end(self) -> None:
        if self._phases:
            phase = self._phases.pop()
            self._print_phase(phase, f"in {clock(self._clock() - phase.began)}", ended=True)

    def _print_phase(self, phase: _Phase, last: str, ended: bool = False) -> None:
        unfinished = phase.share is not None and phase.share < 0.995
        share = "done" if ended and not unfinished else format_share(phase.share)
        parts = [phase.name, share, *progress_metrics(phase.figures), last]
        self._console.print("  ".join(part for part in parts if part), soft_wrap=True)

    def _time(self, phase: _Phase) -> str:
        """Return the time that is left or, where nobody can tell, the time that has passed."""
        now = self._clock()
        left = phase.figures.get("seconds_left")
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

    def advance(self, share: float | None, figures: Mapping[str, object]) -> None:
        super().advance(share, figures)
        now = self._clock()
        if self._phases and now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            self._print_phase(self._phases[-1], self._time(self._phases[-1]))


class BarProgress(TerminalProgress):
    """A bar for each phase that goes on; a line remains of each that is over."""

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

    def advance(self, share: float | None, figures: Mapping[str, object]) -> None:
        super().advance(share, figures)
        if self._bars is not None and self._phases:
            phase = self._phases[-1]
            parts = [format_share(phase.share), *progress_metrics(figures), self._time(phase)]
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
    console = _console(stderr)
    if stderr.isatty() and not console.is_dumb_terminal:
        return BarProgress(console, clock)
    return LineProgress(console, clock)


def format_share(share: float | None) -> str:
    """Return a share in per cent, or nothing."""
    return "" if share is None else f"{int(share * 100)}%"


# ---------------------------------------------------------------- answers


def _console(stream: TextIO) -> Console:
    """Return a console that takes text as it is: ``[MASK]`` is no markup and numbers have no colours."""
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OFF_TERMINAL
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width, color_system=colours)


class Page:
    """TargetPredictions for people, drawn on a stream.

    Args:
        stream: standard output, as a rule.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = _console(stream)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line as it is, however long."""
        self._console.print(text, style=style, soft_wrap=True)

    def text(self, text: Text) -> None:
        """Print styled text, wrapped to the terminal."""
        self._console.print(text)

    def pairs(self, rows: Mapping[str, object]) -> None:
        """Print names beside values; numbers get their thousands separated."""
        width = max(len(name) for name in rows)
        for name, value in rows.items():
            self.say(f"{name:<{width}}  {cell(value)}")

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[object]], left: Sequence[int] = (0,)
    ) -> None:
        """Print a table.

        Args:
            header: the names of the columns.
            rows: a value for each column; ``None`` is shown as ``–``.
            left: columns that hold words; the others are numbers and stand on the right.
        """
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for number, name in enumerate(header):
            table.add_column(name, justify="left" if number in left else "right", overflow="fold")
        for row in rows:
            table.add_row(*(cell(value) for value in row))
        self._console.print(table)
