"""Records one by one, of files in which some may be broken: what is wrong with one is said, and the others go on.

Of training text, what is at error is left out (:mod:`unmask.data.reading.documents`). A file of texts or pairs to score is
another matter: every record is an answer of its own. So here each line is decoded and parsed alone, and a error is
handed on in its place, as the :class:`DataError` that says where it is.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args

from unmask.data.reading.files import format_of, opened, read_bytes, readable_stat, refuse_foreign, text_lines
from unmask.data.reading.inputs import STDIN_NAME
from unmask.errors import ConfigError, DataError

RecordKind = Literal["text", "jsonl", "tsv", "csv"]
KINDS: tuple[RecordKind, ...] = get_args(RecordKind)
Log = Callable[[str], None]
Line = tuple[int, str | DataError]  # from 1; without its end, or what is wrong with it

LINE_LIMIT = 16_000_000
"""Bytes of a line that is read at all: memory is bounded, and what is longer is no record."""
_LINES_OF_A_ROW = 200


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Attributes:
        source: the file, or ``<stdin>``.
        line: the line where it begins, from 1.
        values: its fields by name. A line of text has the one field ``text``; the columns of a table without names are
            called ``1``, ``2`` and so on.
    """

    source: str
    line: int
    values: Mapping[str, Any]


Read = Record | DataError
HasNames = Callable[[Sequence[str]], bool]
"""Says of the first row of a table whether it holds the names of the columns."""


@dataclass
class RecordReader:
    """Iterates over the records of a file or of standard input, once.

    Args:
        given: a path, or ``-``.
        kind: what it holds; by default its suffix says so, and of standard input its first character.
        has_names: is asked about the first row of a table; by default it always has the names.
        text_as: how a file is read whose suffix says no more than that it is text.
        log: is told what was chosen.

    Raises:
        DataError: on construction, the file does not exist; while iterating, it holds something else than text.
        ConfigError: it is of a kind that holds no records.
    """

    given: str | Path
    kind: str | None = None
    has_names: HasNames = lambda names: True
    text_as: RecordKind = "text"
    log: Log = lambda text: None
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
        """Return how much of the file was read, 0 to 1, or ``None`` where nobody can tell."""
        return min(1.0, self._bytes / self._size) if self._size else None

    def __iter__(self) -> Iterator[Read]:
        begun = False
        try:
            with self._opened() as stream:
                for read in self._records(self._lines(_chunks(stream, self.source))):
                    begun = True
                    yield read
        except DataError as error:
            if not begun:
                raise
            yield error  # damaged further on: what came before it stands

    def _kind_of(self, path: Path) -> RecordKind:
        kind = format_of(path).kind
        if kind in ("json", "parquet"):
            what = (
                f"a {kind} file cannot be read record by record; write it as JSON Lines (.jsonl), TSV or CSV"
            )
            raise ConfigError(f"{path}: {what}")
        return self.text_as if kind == "text" else cast(RecordKind, kind)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self.source != STDIN_NAME:
            with opened(Path(self.given)) as stream:
                yield stream
        elif sys.stdin is None or sys.stdin.closed:
            raise DataError("standard input is closed; expected records there", path=STDIN_NAME)
        else:
            yield sys.stdin.buffer

    def _lines(self, chunks: Iterable[str]) -> Iterator[Line]:
        """Decode line by line; the byte order mark and the line's end are taken off."""
        for number, raw, size in _raw_lines(chunks):
            self._bytes += size
            yield number, self._decoded(number, raw, size)

    def _decoded(self, number: int, raw: bytes | None, size: int) -> str | DataError:
        if raw is None:
            what = f"a line of {size:,} bytes, more than the {LINE_LIMIT:,} that a record may have; it is skipped"
        elif b"\0" in raw:
            what = f"a NUL byte (after {raw.index(0):,} others): binary data, expected UTF-8 text"
        else:
            try:
                return (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode("utf-8")
            except UnicodeDecodeError as error:
                what = f"byte 0x{raw[error.start]:02x} (after {error.start:,} others) is not UTF-8; convert the file"
        return DataError(what, path=self.source, line=number)

    def _records(self, lines: Iterator[Line]) -> Iterator[Read]:
        kind = self.kind
        if kind is None:
            lines, kind = self._sniffed(lines)
        if kind in ("tsv", "csv"):
            rows = _tsv_rows(lines) if kind == "tsv" else _csv_rows(lines, self.source)
            yield from self._named(rows)
            return
        for number, line in lines:
            if isinstance(line, DataError):
                yield line
            elif kind == "text":
                yield Record(self.source, number, {"text": line})
            else:
                yield self._parsed(number, line)

    def _sniffed(self, lines: Iterator[Line]) -> tuple[Iterator[Line], RecordKind]:
        """Look at the first line of standard input that is not empty."""
        held = []
        for item in lines:
            held.append(item)
            if isinstance(item[1], str) and item[1].strip():
                break
        is_json = bool(held) and isinstance(held[-1][1], str) and held[-1][1].lstrip().startswith("{")
        if is_json:
            self.log(f"{self.source} begins with '{{': read as JSON Lines")
        return chain(held, lines), "jsonl" if is_json else self.text_as

    def _parsed(self, number: int, line: str) -> Read:
        if not line.strip():
            return DataError("an empty line, expected a JSON object", path=self.source, line=number)
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = (
                f"{error.msg}, column {error.colno}"
                if isinstance(error, json.JSONDecodeError)
                else str(error)
            )
            return DataError(
                f"broken JSON ({what}); expected one object a line", path=self.source, line=number
            )
        if not isinstance(values, dict):
            return DataError("expected a JSON object, found another value", path=self.source, line=number)
        return Record(self.source, number, values)

    def _named(self, rows: Iterator[tuple[int, list[str] | DataError]]) -> Iterator[Read]:
        """Give the fields of rows their names."""
        names: list[str] | None = None
        for number, row in rows:
            if isinstance(row, DataError):
                yield row
            elif names is None:
                headed = self.has_names(row)
                names = row if headed else [str(place) for place in range(1, len(row) + 1)]
                if len(set(names)) < len(names):
                    raise DataError(
                        "two columns have the same name; rename one", path=self.source, line=number
                    )
                if not headed:
                    yield Record(self.source, number, dict(zip(names, row, strict=True)))
            elif row == [""]:
                yield DataError("an empty line", path=self.source, line=number)
            elif len(row) != len(names):
                what = f"the row has {len(row)} fields, expected {len(names)} as in the first row"
                yield DataError(what, path=self.source, line=number)
            else:
                yield Record(self.source, number, dict(zip(names, row, strict=True)))


def _chunks(stream: BinaryIO, source: str) -> Iterator[str]:
    """Yield the bytes of a stream as Latin-1 text, one character a byte, with LF line ends."""
    newlines = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("latin-1")(), translate=True)
    data = read_bytes(stream, source)
    refuse_foreign(data, source)
    while data:
        yield newlines.decode(data)
        data = read_bytes(stream, source)
    if rest := newlines.decode(b"", final=True):
        yield rest


def _raw_lines(chunks: Iterable[str]) -> Iterator[tuple[int, bytes | None, int]]:
    """Yield number, bytes and length of each line; of one beyond the limit only the length."""
    held: list[str] = []
    size = last = 0
    for number, piece in text_lines(chunks):
        ended = piece.endswith("\n")
        size, last = size + len(piece), number
        if size <= LINE_LIMIT:
            held.append(piece)
        if ended:
            yield number, _joined(held, size), size
            held, size = [], 0
    if size:
        yield last, _joined(held, size), size


def _joined(pieces: list[str], size: int) -> bytes | None:
    return "".join(pieces).removesuffix("\n").encode("latin-1") if size <= LINE_LIMIT else None


def _tsv_rows(lines: Iterable[Line]) -> Iterator[tuple[int, list[str] | DataError]]:
    """Split lines at tabs. A field in quotes loses them, as spreadsheets write it; quotes within a text are text."""
    for number, line in lines:
        yield number, line if isinstance(line, DataError) else [_unquoted(part) for part in line.split("\t")]


def _unquoted(part: str) -> str:
    if len(part) < 2 or part[0] != '"' or part[-1] != '"':
        return part
    inner = part[1:-1].replace('""', "\0")
    return part if '"' in inner else inner.replace("\0", '"')


def _csv_rows(lines: Iterator[Line], source: str) -> Iterator[tuple[int, list[str] | DataError]]:
    """Parse rows of CSV. Where quotes are broken only one line is given up, not all that follows."""
    csv.field_size_limit(max(csv.field_size_limit(), LINE_LIMIT))
    ahead: deque[Line] = deque()
    while (first := ahead.popleft() if ahead else next(lines, None)) is not None:
        number, text = first
        if isinstance(text, DataError):
            yield number, text
            continue
        row, further = _csv_row(text, ahead, lines)
        for _ in range(further):
            ahead.popleft()
        if row is None:
            what = "broken quoting in the row that begins here; a field that holds a quote must be in quotes, with two"
            yield number, DataError(f"{what} for each of its own", path=source, line=number)
        else:
            yield number, row


def _csv_row(text: str, ahead: deque[Line], lines: Iterator[Line]) -> tuple[list[str] | None, int]:
    """Return the fields of a row that begins with ``text``, and how many further lines belong to it."""
    further = 0
    while text.count('"') % 2:
        if further == len(ahead) and (item := next(lines, None)) is not None:
            ahead.append(item)
        more = ahead[further][1] if further < min(len(ahead), _LINES_OF_A_ROW) else None
        if not isinstance(more, str) or len(text) > LINE_LIMIT:
            return None, 0
        text, further = f"{text}\n{more}", further + 1
    try:
        return next(csv.reader([text], strict=True), [""]), further
    except csv.Error:
        return None, 0
