"""Parse the rows of CSV and TSV."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from unmask.data.reading.errors import TextError
from unmask.data.reading.files import RECORD_LIMIT, Line, LineRead
from unmask.errors import plural

RowRead = tuple[int, list[str] | TextError]

EMPTY_LINE = "empty line"
_SEPARATORS = ";\t|,"


def separator_with(
    lines: Iterator[LineRead], wanted: Iterable[str], usual: str
) -> tuple[Iterator[LineRead], str]:
    """Return the lines again, and the separator by which the first row has a wanted column, or the most columns."""
    lines, held = _ahead(lines, 1)
    columns = {mark: _split(held[0], mark) if held else [] for mark in (usual, *_SEPARATORS)}
    fitting = [mark for mark, names in columns.items() if set(wanted) & set(names)]
    if not fitting and len(columns[usual]) == 1:
        fitting = [max(columns, key=lambda mark: len(columns[mark]))]
    return lines, fitting[0] if fitting else usual


def separator_of(lines: Iterator[LineRead], usual: str) -> tuple[Iterator[LineRead], str]:
    """Return the lines again, and the separator that gives the first two rows the same columns, if ``usual`` gives one."""
    lines, held = _ahead(lines, 2)
    for mark in _SEPARATORS if held and all(len(_split(line, usual)) == 1 for line in held) else "":
        widths = {len(_split(line, mark)) for line in held}
        if len(widths) == 1 and widths != {1}:
            return lines, mark
    return lines, usual


def _ahead(lines: Iterator[LineRead], number: int) -> tuple[Iterator[LineRead], list[str]]:
    """Return the lines again, and the first of them that are not empty."""
    held, found = [], list[str]()
    for item in lines:
        held.append(item)
        if isinstance(item[1], str) and item[1].strip():
            found.append(item[1])
        if len(found) == number:
            break
    return chain(held, lines), found


def _split(line: str, mark: str) -> list[str]:
    csv.field_size_limit(max(csv.field_size_limit(), RECORD_LIMIT))
    return next(csv.reader([line], delimiter=mark), [])


def table_rows(lines: Iterable[LineRead], source: str, delimiter: str) -> Iterator[RowRead]:
    """Yield rows of CSV or TSV, at most as wide as the first, or their errors, with the line where each begins.

    As in pandas, a row may lack its last fields, and text after a closing quote is part of the field; the latter only
    within a line, so that no row is taken for text of the one before. A row with other broken quotes loses only its
    first line. In TSV, quotes are often part of the text: lines that split at their tabs into as many fields as the
    first row has, empty lines aside, are rows of their own despite open quotes.
    """
    csv.field_size_limit(max(csv.field_size_limit(), RECORD_LIMIT))
    table, width = _TableLines(lines), 0
    reader = csv.reader(table, delimiter=delimiter, strict=True)
    while True:
        table.taken.clear()
        broken, row = "", []
        try:
            row = next(reader, [])
        except csv.Error as error:
            broken = str(error)
        while table.errors:
            yield table.errors.popleft()
        if not table.taken:
            return
        line, lost = table.taken[0][0], 1
        if delimiter == "\t" and (plain := _split_at_tabs(table.taken, row, width)):
            lost = table.give_back()
            broken, row = "" if lost == 1 else "a quote that is not closed", plain
        elif broken:
            lost = table.give_back()
            if lost == 1 and (plain := _one_line(table.taken[0][1], delimiter, width)):
                broken, row = "", plain
        wrong = _row_error(broken, lost, row, width)
        width = width or len(row)
        yield line, row if wrong is None else TextError(*wrong, path=source, line=line)


def _one_line(line: str, delimiter: str, width: int) -> list[str]:
    """Return the fields of a line with quotes in the middle of fields, or an empty list if it is not a whole row."""

    def lines() -> Iterator[str]:
        yield line
        raise csv.Error("a quote that is not closed")

    try:
        row = next(csv.reader(lines(), delimiter=delimiter))
    except csv.Error:
        return []
    return row if width in (0, len(row)) else []


def _row_error(broken: str, lost: int, row: list[str], width: int) -> tuple[str, str] | None:
    """Return the reason and the message of the error of a row, or ``None``."""
    if broken:
        what = (
            f'broken quoting in the row that begins here ({broken}); a field that holds " must be in quotes'
        )
        what += ', with "" for each "' + (f"; {plural(lost, 'line')} are lost" if lost > 1 else "")
        return "broken quoting", what
    if not row:
        return EMPTY_LINE, "an empty line"
    if width and len(row) > width:
        what = f"the row has {plural(len(row), 'field')}, expected {width} as in the first row"
        return "ragged row", what + "; put quotes around fields that hold the separator"
    return None


def _split_at_tabs(taken: Sequence[Line], row: list[str], width: int) -> list[str]:
    """Return the fields of the first line of a TSV row if its quotes are text, else an empty list."""
    if row and len(taken) == 1 and width in (0, len(row)):
        return []
    parts = [text.removesuffix("\n").split("\t") for _, text in taken]
    wanted = width or len(parts[0])
    whole = len(parts) == 1 or wanted > 1  # the lines of a single column always have one field
    if row and (not whole or any(len(part) != wanted for part in parts if part != [""])):
        return []
    return [_unquoted(part) for part in parts[0]] if parts[0] != [""] else []


def _unquoted(part: str) -> str:
    if len(part) < 2 or part[0] != '"' or part[-1] != '"':
        return part
    inner = part[1:-1].replace('""', "\0")
    return part if '"' in inner else inner.replace("\0", '"')


class _TableLines:
    """Lines for the CSV parser; the lines of a broken row after its first can be read again.

    Attributes:
        taken: the lines of the current row.
        errors: the errors of lines that could not be read.
    """

    def __init__(self, lines: Iterable[LineRead]) -> None:
        self._lines, self._ahead = iter(lines), deque[Line]()
        # Characters that may be read again, or a file of unclosed quotes would take quadratic time.
        self._again = 2 * RECORD_LIMIT
        self.taken: list[Line] = []
        self.errors: deque[tuple[int, TextError]] = deque()

    def __iter__(self) -> _TableLines:
        return self

    def __next__(self) -> str:
        if self._ahead:
            self.taken.append(self._ahead.popleft())
            return self.taken[-1][1]
        for number, line in self._lines:
            if isinstance(line, str):
                self._again += len(line)
                self.taken.append((number, line))
                return line
            self.errors.append((number, line))
            if self.taken:
                raise csv.Error(f"its line {number:,} cannot be read")
        raise StopIteration

    def give_back(self) -> int:
        """Unread all lines of the row but its first; return how many lines are lost."""
        size = sum(len(text) for _, text in self.taken[1:])
        if size > self._again:
            return len(self.taken)
        self._again -= size
        self._ahead.extendleft(reversed(self.taken[1:]))
        return 1
