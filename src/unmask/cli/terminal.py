"""Progress on stderr, and results drawn as text on stdout.

On a terminal progress is a bar; elsewhere it is a plain line every few seconds, which reads well in a log.
``NO_COLOR`` (https://no-color.org) leaves every style out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
_GAP = "  "  # between the columns of a table
_LEAST_WORDS = 16  # a word may be broken in a narrower column

# ---------------------------------------------------------------- progress


@dataclass
class _Phase:
    """One phase of work, as it was last reported."""

    name: str
    began: float
    first: tuple[float, float] | None = None
    """Time and share of the first report: the share is not 0 where a run was resumed."""
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
        """Drop the running phases; the terminal is as it was."""
        self._phases.clear()

    def log(self, text: str) -> None:
        from rich.text import Text

        line = Text(text, style="dim")  # style= would dim the bar too
        self._console.print(line, soft_wrap=not self._console.is_terminal)

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
        """Return the time that is left or, if it cannot be estimated, the time that has passed."""
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


# ---------------------------------------------------------------- results


def _console(stream: TextIO) -> Console:
    """Return a console that takes text as it is: ``[MASK]`` is no markup and numbers have no colours."""
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OFF_TERMINAL
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width, color_system=colours)


class Page:
    """Results for people, drawn on a stream.

    Args:
        stream: standard output, as a rule.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = _console(stream)
        self._wraps = stream.isatty()  # in a file or pipe a sentence stays one line

    def say(self, text: str, style: str | None = None) -> None:
        """Print a sentence; a terminal gets it wrapped at words."""
        self._console.print(text, style=style, soft_wrap=not self._wraps)

    def command(self, text: str) -> None:
        """Print a command or path as it is, however long, so that it can be copied."""
        self._console.print(text, soft_wrap=True)

    def text(self, text: Text) -> None:
        """Print styled text, wrapped to the terminal."""
        self._console.print(text)

    def pairs(self, rows: Mapping[str, object]) -> None:
        """Print names and their values; numbers get their thousands separated."""
        width = max(len(name) for name in rows)
        for name, value in rows.items():
            self.say(f"{name:<{width}}  {cell(value)}")

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[object]],
        left: Sequence[int] = (0,),
        keys: int = 1,
    ) -> None:
        """Print a table; one that is too wide is printed in blocks of columns.

        Args:
            header: the names of the columns.
            rows: a value for each column; ``None`` is shown as ``–``.
            left: columns that hold words, which may be wrapped; the others hold numbers, which stand on the right.
            keys: columns at the beginning that name the row and are repeated in each block.
        """
        cells = [[cell(value).replace("\n", " ") for value in row] for row in rows]
        table = _Table(header, cells, frozenset(left), keys, self._console.width)
        for number, block in enumerate(table.blocks()):
            if number:
                self.say("")
            head, *lines = table.lines(block)
            self._console.print(head, style="bold", soft_wrap=True)
            for line in lines:
                self._console.print(line, soft_wrap=True)


@dataclass(frozen=True)
class _Table:
    """The layout of a table in ``width`` columns of characters, in which no number and no word is broken."""

    header: Sequence[str]
    cells: Sequence[Sequence[str]]
    left: frozenset[int]
    keys: int
    width: int

    def blocks(self) -> list[list[int]]:
        """Return the columns of each block; an interval stays with the number before it."""
        first, blocks = list(range(self.keys)), []
        block = first
        groups: list[list[int]] = []
        for column in range(self.keys, len(self.header)):
            if self.header[column] == "95%" and groups:
                groups[-1].append(column)
            else:
                groups.append([column])
        for group in groups:
            if block != first and self._total(self._least(column) for column in block + group) > self.width:
                blocks.append(block)
                block = first
            block = block + group
        return [*blocks, block]

    def lines(self, block: Sequence[int]) -> list[str]:
        """Return the lines of a block: its header, a rule and its rows."""
        widths = {column: self._natural(column) for column in block}
        while self._total(widths.values()) > self.width:
            wide = [column for column in block if widths[column] > self._least(column)]
            if not wide:
                break
            widths[max(wide, key=lambda column: widths[column])] -= 1
        rows = [self._row([row[column] for column in block], block, widths) for row in self.cells]
        rule = "─" * self._total(widths.values())
        head = self._row([self.header[column] for column in block], block, widths)
        return ["\n".join(head), rule, *(line for row in rows for line in row)]

    def _row(self, cells: Sequence[str], block: Sequence[int], widths: Mapping[int, int]) -> list[str]:
        wrapped = [_wrap(text, widths[column]) for text, column in zip(cells, block, strict=True)]
        height = max(len(lines) for lines in wrapped)
        padded = [lines + [""] * (height - len(lines)) for lines in wrapped]
        return [
            _GAP.join(
                _pad(text, widths[column], column in self.left)
                for text, column in zip(line, block, strict=True)
            ).rstrip()
            for line in zip(*padded, strict=True)
        ]

    def _column(self, column: int) -> list[str]:
        return [self.header[column], *(row[column] for row in self.cells)]

    def _natural(self, column: int) -> int:
        return max(map(_cells, self._column(column)))

    def _least(self, column: int) -> int:
        """Return the width of the longest word; in a column of numbers, of the longest number."""
        words = max(_cells(word) for text in self._column(column) for word in text.split(" "))
        if column in self.left:
            return min(words, max(_LEAST_WORDS, self.width // 2))
        return max(words, *(_cells(row[column]) for row in self.cells), 1)

    @staticmethod
    def _total(widths: Iterable[int]) -> int:
        found = list(widths)
        return sum(found) + len(_GAP) * (len(found) - 1)


def _cells(text: str) -> int:
    from rich.cells import cell_len  # a Chinese character takes two columns

    return cell_len(text)


def _pad(text: str, width: int, is_left: bool) -> str:
    space = " " * (width - _cells(text))
    return text + space if is_left else space + text


def _wrap(text: str, width: int) -> list[str]:
    """Return the lines of a cell, broken at spaces; only a word that is wider than the column is broken itself."""
    if _cells(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if _cells(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if _cells(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
