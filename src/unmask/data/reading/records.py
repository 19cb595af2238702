"""Parse JSON Lines, CSV and TSV record by record; a record that cannot be read gives an error in its place.

Training text skips such records (:mod:`unmask.data.reading.formats`); a file of texts or pairs to score has a result or
an error for each (:class:`RecordReader`).
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast, get_args

from unmask.data.reading.errors import ReadErrors, TextError, undecodable_error
from unmask.data.reading.files import (
    RECORD_LIMIT,
    Line,
    LineRead,
    decode,
    format_of,
    open_bytes,
    readable_stat,
    whole_lines,
)
from unmask.data.reading.inputs import STDIN_NAME
from unmask.errors import ConfigError, DataError
from unmask.progress import Progress

RecordKind = Literal["text", "jsonl", "tsv", "csv"]
KINDS: tuple[RecordKind, ...] = get_args(RecordKind)
RowRead = tuple[int, list[str] | TextError]
Parsed = TypeVar("Parsed")

_EMPTY_LINE = "empty line"

# ----------------------------------------------------------------------------------------------- JSON Lines


def json_records(lines: Iterable[LineRead], source: str) -> Iterator[tuple[int, Any]]:
    """Yield the number and the JSON value, or the :class:`TextError`, of each line."""
    for number, line in lines:
        yield number, line if isinstance(line, TextError) else _json_value(line, source, number)


def _json_value(line: str, source: str, number: int) -> Any:
    if line.isspace():
        return TextError(_EMPTY_LINE, "an empty line, expected a JSON object", path=source, line=number)
    try:
        return json.loads(line.rstrip("\n"))
    except (ValueError, RecursionError) as error:
        hint = "; a list of objects belongs in a .json file" if line.startswith("[") else ""
        what = f"broken JSON ({json_error(error)}); expected one object per line{hint}"
        return TextError("broken JSON", what, path=source, line=number)


def json_error(error: Exception) -> str:
    """Return the message and column of a JSON error."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return str(error)


def not_an_object(value: Any, source: str, line: int) -> TextError:
    """Return the error for a record that is not a JSON object."""
    what = f"expected a JSON object, found {json_name(value)}"
    return TextError("not an object", what, path=source, line=line)


def json_name(value: Any) -> str:
    """Return the name of the JSON type of a value."""
    names: dict[type, str] = {
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        dict: "an object",
        type(None): "null",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _text_records(lines: Iterable[LineRead], source: str, skip_blank: bool) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        if isinstance(line, TextError):
            yield number, line
        elif skip_blank and not line.strip():
            yield number, TextError(_EMPTY_LINE, "an empty line", path=source, line=number)
        else:
            yield number, {"text": line.removesuffix("\n")}


# ------------------------------------------------------------------------------------------------ CSV and TSV


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
        what += ', with "" for each "' + (f"; {lost:,} lines are lost" if lost > 1 else "")
        return "broken quoting", what
    if not row:
        return _EMPTY_LINE, "an empty line"
    if width and len(row) > width:
        what = f"the row has {len(row)} field{'s' * (len(row) != 1)}, expected {width} as in the first row"
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


def without_errors(
    records: Iterable[tuple[int, Parsed | TextError]], errors: ReadErrors
) -> Iterator[tuple[int, Parsed]]:
    """Yield the records that could be read; the errors of others, except empty lines, go to ``errors``."""
    for number, record in records:
        if not isinstance(record, TextError):
            yield number, record
        elif record.reason != _EMPTY_LINE:
            errors.note(record)


# --------------------------------------------------------------------------------------- files of records


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Attributes:
        source: the file, or ``<stdin>``.
        line: the line where it begins, from 1.
        values: its fields by name. A line of text has the field ``text``; the columns of a table without names are
            ``1``, ``2`` and so on.
    """

    source: str
    line: int
    values: Mapping[str, Any]


RecordRead = Record | DataError
HasNames = Callable[[Sequence[str]], bool]
"""Whether the first row of a table holds the names of the columns."""


@dataclass
class RecordReader:
    """Iterates over the records of a file or of standard input, once.

    Args:
        given: a path, or ``-``.
        kind: its format; by default its suffix decides, and for standard input its first character.
        has_names: called with the first row of a table; by default it always holds the names.
        text_as: format of files whose suffix only says that they are text.
        skip_blank: count lines without any text in ``blank_lines`` instead of yielding them.
        progress: gets what was chosen.

    Attributes:
        blank_lines: how many were skipped.

    Raises:
        DataError: on construction, the file does not exist; while iterating, it does not hold text.
        ConfigError: the format has no records.
    """

    given: str | Path
    kind: str | None = None
    has_names: HasNames = lambda names: True
    text_as: RecordKind = "text"
    skip_blank: bool = False
    progress: Progress = Progress()
    blank_lines: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)
    _size: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.source = STDIN_NAME if str(self.given) == "-" else str(self.given)
        if self.kind is not None and self.kind not in KINDS:
            raise ConfigError(f"no such format '{self.kind}'; there are {', '.join(KINDS)}")
        if self.source == STDIN_NAME:
            return
        path = Path(self.given)
        if os.path.isdir(path):
            raise DataError("a folder, expected a file", path=path)
        size, form = readable_stat(path).st_size, format_of(path)
        self._size = None if form.compression else size
        if self.kind is None:
            self.kind = self._kind_of(path)

    def share(self) -> float | None:
        """Return the share of the file that was read, 0 to 1, or ``None`` if its size is unknown."""
        return min(1.0, self._bytes / self._size) if self._size else None

    def __iter__(self) -> Iterator[RecordRead]:
        begun = False
        try:
            with self._opened() as stream:
                chunks = decode(stream, self.source, ReadErrors(self.progress), binary=True)
                for read in self._records(self._checked(whole_lines(chunks, self.source))):
                    begun = True
                    if self.skip_blank and isinstance(read, TextError) and read.reason == _EMPTY_LINE:
                        self.blank_lines += 1
                    else:
                        yield read
        except DataError as error:
            if not begun:
                raise
            yield error  # the records before the damage are valid

    def _kind_of(self, path: Path) -> RecordKind:
        kind = format_of(path).kind
        if kind in ("json", "parquet", "arrow"):
            what = (
                f"{kind} files cannot be read record by record; write it as JSON Lines (.jsonl), TSV or CSV"
            )
            raise ConfigError(f"{path}: {what}")
        return self.text_as if kind == "text" else cast(RecordKind, kind)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self.source != STDIN_NAME:
            with open_bytes(Path(self.given)) as stream:
                yield stream
        elif sys.stdin is None or sys.stdin.closed:
            raise DataError("standard input is closed; expected records there", path=STDIN_NAME)
        else:
            yield sys.stdin.buffer

    def _checked(self, lines: Iterable[LineRead]) -> Iterator[LineRead]:
        """Count the bytes of lines, and replace undecodable lines by their errors."""
        for number, line in lines:
            if isinstance(line, TextError):
                yield number, line
                continue
            self._bytes += len(line) if line.isascii() else len(line.encode("utf-8", "replace"))
            error = undecodable_error(line, "the line", self.source, number, whole_lines=True)
            if error is None and "\0" in line:
                what = (
                    f"a NUL byte (after {line.index(chr(0)):,} characters): binary data, expected UTF-8 text"
                )
                error = TextError("NUL bytes", what, path=self.source, line=number)
            yield number, line if error is None else error

    def _records(self, lines: Iterator[LineRead]) -> Iterator[RecordRead]:
        kind = self.kind
        if kind is None:
            lines, kind = self._detect_kind(lines)
        if kind in ("tsv", "csv"):
            yield from self._named(table_rows(lines, self.source, "\t" if kind == "tsv" else ","))
            return
        is_text = kind == "text"
        records = (
            _text_records(lines, self.source, self.skip_blank)
            if is_text
            else json_records(lines, self.source)
        )
        for number, values in records:
            if isinstance(values, TextError):
                yield values
            elif not isinstance(values, dict):
                yield not_an_object(values, self.source, number)
            else:
                yield Record(self.source, number, values)

    def _detect_kind(self, lines: Iterator[LineRead]) -> tuple[Iterator[LineRead], RecordKind]:
        """Detect the format of standard input from its first line that is not empty."""
        held = []
        for item in lines:
            held.append(item)
            if isinstance(item[1], str) and item[1].strip():
                break
        is_json = bool(held) and isinstance(held[-1][1], str) and held[-1][1].lstrip().startswith("{")
        if is_json:
            self.progress.log(f"{self.source} begins with '{{': read as JSON Lines")
        return chain(held, lines), "jsonl" if is_json else self.text_as

    def _named(self, rows: Iterator[RowRead]) -> Iterator[RecordRead]:
        """Yield the records of rows, with their fields by name."""
        names: list[str] | None = None
        for number, row in rows:
            if isinstance(row, TextError):
                yield row
                continue
            headed = names is None and self.has_names(row)
            if names is None:
                names = row if headed else [str(place) for place in range(1, len(row) + 1)]
                if len(set(names)) < len(names):
                    what = "two columns have the same name; rename one"
                    raise DataError(what, path=self.source, line=number)
            if not headed:
                yield Record(self.source, number, dict(zip(names, row, strict=False)))
