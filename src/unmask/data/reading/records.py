"""Parse JSON Lines, CSV and TSV record by record; a record that cannot be read gives an error in its place.

Training text skips such records (:mod:`unmask.data.reading.formats`); a file of texts or pairs to score has a result or
an error for each (:class:`RecordReader`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast, get_args

from unmask.data.reading.characters import undecodable_error
from unmask.data.reading.errors import ReadErrors, TextError
from unmask.data.reading.files import (
    File,
    LineRead,
    decode,
    format_of,
    open_bytes,
    size_of,
    whole_lines,
)
from unmask.data.reading.inputs import STDIN_NAME, Given, expand_inputs
from unmask.data.reading.tables import EMPTY_LINE, RowRead, separator_of, table_rows
from unmask.errors import ConfigError, DataError, plural
from unmask.progress import Progress
from unmask.remote.files import RemoteFile
from unmask.remote.systems import is_url

RecordKind = Literal["text", "jsonl", "tsv", "csv"]
KINDS: tuple[RecordKind, ...] = get_args(RecordKind)
Parsed = TypeVar("Parsed")

# ----------------------------------------------------------------------------------------------- JSON Lines


def json_records(lines: Iterable[LineRead], source: str) -> Iterator[tuple[int, Any]]:
    """Yield the number and the JSON value, or the :class:`TextError`, of each line."""
    for number, line in lines:
        yield number, line if isinstance(line, TextError) else _json_value(line, source, number)


def _json_value(line: str, source: str, number: int) -> Any:
    if line.isspace():
        return TextError(EMPTY_LINE, "an empty line, expected a JSON object", path=source, line=number)
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
            yield number, TextError(EMPTY_LINE, "an empty line", path=source, line=number)
        else:
            yield number, {"text": line.removesuffix("\n")}


def without_errors(
    records: Iterable[tuple[int, Parsed | TextError]], errors: ReadErrors
) -> Iterator[tuple[int, Parsed]]:
    """Yield the records that could be read; the errors of others, except empty lines, go to ``errors``."""
    for number, record in records:
        if not isinstance(record, TextError):
            yield number, record
        elif record.reason != EMPTY_LINE:
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


def _one_file(given: Given) -> File:
    if isinstance(given, str) and is_url(given):
        (first, *_) = expand_inputs(given)
        given = first if isinstance(first, RemoteFile) and first.url == given else given
    if isinstance(given, RemoteFile):
        return given
    if is_url(given) or os.path.isdir(given):
        raise DataError("a folder, expected a file", path=given)
    return Path(given)


HasNames = Callable[[Sequence[str]], bool]
"""Whether the first row of a table holds the names of the columns."""


@dataclass
class RecordReader:
    """Iterates over the records of a file or of standard input, once.

    Args:
        given: a path, the URL of an object, or ``-``.
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

    given: Given
    kind: str | None = None
    has_names: HasNames = lambda names: True
    text_as: RecordKind = "text"
    skip_blank: bool = False
    progress: Progress = Progress()
    blank_lines: int = field(default=0, init=False)
    _file: File = field(init=False)
    _bytes: int = field(default=0, init=False)
    _size: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.source = STDIN_NAME if str(self.given) == "-" else str(self.given)
        if self.kind is not None and self.kind not in KINDS:
            raise ConfigError(f"no such format '{self.kind}'; there are {', '.join(KINDS)}")
        if self.source == STDIN_NAME:
            return
        self._file = _one_file(self.given)
        self._size = None if format_of(self._file).compression else size_of(self._file)
        if self.kind is None:
            self.kind = self._kind_of(self._file)

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
                    if self.skip_blank and isinstance(read, TextError) and read.reason == EMPTY_LINE:
                        self.blank_lines += 1
                    else:
                        yield read
        except DataError as error:
            if not begun:
                raise
            yield error  # the records before the damage are valid

    def _kind_of(self, path: File) -> RecordKind:
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
            with open_bytes(self._file) as stream:
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
                what = f"a NUL byte (after {plural(line.index(chr(0)), 'character')}): binary data, expected UTF-8 text"
                error = TextError("NUL bytes", what, path=self.source, line=number)
            yield number, line if error is None else error

    def _records(self, lines: Iterator[LineRead]) -> Iterator[RecordRead]:
        kind = self.kind
        if kind is None:
            lines, kind = self._detect_kind(lines)
        if kind in ("tsv", "csv"):
            mark = "\t" if kind == "tsv" else ","
            if kind == "csv":
                lines, mark = separator_of(lines, mark)
                if mark != ",":
                    self.progress.log(f"{self.source}: the separator is {mark!r} by the first rows")
            yield from self._named(table_rows(lines, self.source, mark))
            return
        if kind == "text":
            records = _text_records(lines, self.source, self.skip_blank)
        else:
            records = json_records(lines, self.source)
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
