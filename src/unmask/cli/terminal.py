"""Results on stdout, as text and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from unmask.api.terminal import plain_console, print_line
from unmask.reporting.format import cell

if TYPE_CHECKING:
    from rich.text import Text

_GAP = "  "  # between the columns of a table
_LEAST_WORDS = 16  # a word may be broken in a narrower column


class Page:
    """Results for people, drawn on a stream.

    Args:
        stream: standard output, as a rule.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = plain_console(stream)

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence; a terminal gets it wrapped between words."""
        print_line(self._console, text, style)

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
