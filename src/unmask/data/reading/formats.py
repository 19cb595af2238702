"""Stream the text field of JSON, CSV and Parquet files as rows of (line, text).

Each reader takes the decoded chunks of :mod:`unmask.data.reading.files` (Parquet: the path). An error of one record
goes to :class:`ReadErrors` and reading continues; an error after which the file cannot be parsed, such as in a JSON
list, raises :class:`TextError`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from unmask.data.reading.errors import ReadErrors, TextError, undecodable_error
from unmask.data.reading.files import (
    CHUNK,
    PARQUET_MAGIC,
    RECORD_LIMIT,
    format_of,
    open_bytes,
    read_bytes,
    whole_lines,
)
from unmask.data.reading.records import (
    json_error,
    json_name,
    json_records,
    not_an_object,
    table_rows,
    without_errors,
)
from unmask.errors import DataError, DiskError, did_you_mean

TextRow = tuple[int, str | None]
"""Line (or row) from 1 and its text; ``None`` for null."""

# ----------------------------------------------------------------------------------------------- JSON


def jsonl_rows(chunks: Iterable[str], field: str, source: str, errors: ReadErrors) -> Iterator[TextRow]:
    """Yield the text field of each line of JSON Lines; empty lines are skipped."""
    records = json_records(whole_lines(chunks, source), source)
    return texts_of(without_errors(records, errors), field, source, errors)


def texts_of(
    records: Iterable[tuple[int, Any]], field: str, source: str, errors: ReadErrors
) -> Iterator[TextRow]:
    """Yield the text field of records; those without one go to ``errors``."""
    for number, record in records:
        try:
            text = text_of(record, field, source, number)
        except DataError as error:
            errors.note(error)
        else:
            yield number, text


def json_rows(chunks: Iterable[str], field: str, source: str, errors: ReadErrors) -> Iterator[TextRow]:
    """Yield the text fields of a ``.json`` file: a list of objects, or one object per line."""
    reader = _ListReader(chunks, source)
    if reader.peek() == "[":
        return texts_of(reader.elements(), field, source, errors)
    return jsonl_rows(reader.unread(), field, source, errors)


_BLANKS = re.compile(r"[ \t\n]*")


class _ListReader:
    """Parses a JSON list element by element."""

    def __init__(self, chunks: Iterable[str], source: str) -> None:
        self.line = 1  # the line of the reading position
        self._chunks, self._source = iter(chunks), source
        self._buffer, self._at = "", 0
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """Skip white space and return the next character, or an empty string at the end."""
        while True:
            self._advance(cast(re.Match[str], _BLANKS.match(self._buffer, self._at)).end())
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def unread(self) -> Iterator[str]:
        """Yield the unread text after as many empty lines as were read, so that line numbers stay correct."""
        yield "\n" * (self.line - 1) + self._buffer[self._at :]
        yield from self._chunks

    def elements(self) -> Iterator[tuple[int, Any]]:
        """Yield each element with the line where it begins."""
        self._advance(self._at + 1)
        separator = ","
        if self.peek() == "]":
            self._advance(self._at + 1)
            separator = "]"
        while separator == ",":
            self.peek()
            yield self.line, self._element()
            separator = self.peek()
            if separator not in ("]", ","):
                raise self._error("expected ',' or ']' after an element")
            self._advance(self._at + 1)
        if self.peek():
            raise self._error("text after the end of the list")

    def _element(self) -> Any:
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except (ValueError, RecursionError) as error:
                # The element may be broken, or only truncated by the end of the buffer.
                if len(self._buffer) - self._at > RECORD_LIMIT or not self._more():
                    raise self._error(json_error(error)) from None
            else:
                self._advance(end)
                return value

    def _advance(self, to: int) -> None:
        self.line += self._buffer.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Read at least as much again as is unread, so that a long element is parsed a few times, not once per chunk."""
        parts, size = [self._buffer[self._at :]], 0
        wanted = max(CHUNK, len(parts[0]))
        while size < wanted and (chunk := next(self._chunks, "")):
            parts.append(chunk)
            size += len(chunk)
        self._buffer, self._at = "".join(parts), 0
        return size > 0

    def _error(self, what: str) -> DataError:
        what = f"broken JSON ({what}); expected a list of objects, or one object per line"
        return TextError("broken JSON", what, path=self._source, line=self.line)


def text_of(record: Any, field: str, source: str, line: int) -> str | None:
    """Return the text field of a record, ``None`` for null; :class:`DataError` if it has none or no valid string."""
    if not isinstance(record, dict):
        raise not_an_object(record, source, line)
    if field not in record:
        raise no_such_field("field", field, record, source, line)
    text = record[field]
    if text is None:
        return None
    if not isinstance(text, str):
        what = f"field '{field}' holds {json_name(text)}, expected a string"
        raise TextError("not a string", what, path=source, line=line)
    error = undecodable_error(text, f"field '{field}'", source, line, whole_lines=False)
    if error is not None:
        raise error
    return text


def no_such_field(
    what: str,
    field: str,
    known: Iterable[str],
    source: str,
    line: int | None,
    option: str = "--text-field",
) -> DataError:
    """Return the error for a missing field or column; it lists the existing ones."""
    names = [str(name) for name in known]
    listed = ", ".join(f"'{name}'" for name in names[:20]) + (" …" if len(names) > 20 else "")
    there = f"there are {listed}" if names else "there are none"
    near = did_you_mean(field, names)
    message = f"no {what} '{field}'{near}; {there}; choose with {option}"
    return TextError(f"no such {what}", message, path=source, line=line)


# ------------------------------------------------------------------------------------ CSV and Parquet


def csv_rows(
    chunks: Iterable[str], field: str, source: str, delimiter: str, errors: ReadErrors
) -> Iterator[TextRow]:
    """Yield a column of CSV or TSV with the line where each row begins; the first row names the columns."""
    rows = without_errors(table_rows(whole_lines(chunks, source), source, delimiter), errors)
    first, names = next(rows, (1, None))
    if names is None:
        return
    if names.count(field) != 1:
        raise _wrong_column(field, names, source, first)
    column = names.index(field)
    for line, row in rows:
        yield line, row[column]


def _wrong_column(field: str, names: list[str], source: str, line: int) -> DataError:
    if field in names:
        what = f"{names.count(field)} columns have the name '{field}'; rename all but one"
        return TextError("no such column", what, path=source, line=line)
    separators = [mark for mark in ";\t,|" if len(names) == 1 and field in names[0].split(mark)]
    if separators:
        what = f"no column '{field}': the separator seems to be {separators[0]!r}"
        what += "; expected ',' in .csv and a tab in .tsv"
        return TextError("no such column", what, path=source, line=line)
    return no_such_field("column", field, names, source, line)


def column_rows(path: Path, field: str, errors: ReadErrors) -> Iterator[TextRow]:
    """Yield a column of a Parquet or Arrow file with the number of each row."""
    import pyarrow

    source, row = str(path), 0
    with open_bytes(path) as stream, _seekable(stream, path) as file:
        try:
            for column in _columns(file, path, field):
                for value in column:
                    row += 1
                    try:
                        text = value.as_py()
                    except UnicodeDecodeError as error:
                        byte = f"byte 0x{error.object[error.start]:02x}"
                        what = f"{byte} is not UTF-8 (after {error.start:,} bytes of the text)"
                        errors.note(TextError("not UTF-8", what, path=source, line=row))
                    else:
                        yield row, text
        except (pyarrow.ArrowException, OSError) as error:
            kind = format_of(path).kind.title()
            what = f"damaged {kind} data after row {row} ({str(error).partition(chr(10))[0]})"
            raise TextError(f"damaged {kind}", what, path=source) from None


def _columns(file: BinaryIO, path: Path, field: str) -> Iterator[Any]:
    """Yield a column in parts; small ones of Parquet, since a row may be a whole book."""
    if format_of(path).kind == "arrow":
        from pyarrow import ipc

        stream = ipc.open_stream(file)
        _check_column(stream.schema, field, str(path))
        yield from (batch.column(field) for batch in stream)
        return
    table = _open_parquet(file, str(path))
    _check_column(table.schema_arrow, field, str(path))
    for batch in table.iter_batches(batch_size=64, columns=[field], use_threads=False):
        yield batch.column(0)


@contextmanager
def _seekable(stream: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """Parquet needs seeking: decompress a compressed file into a temporary one first."""
    if format_of(path).compression is None:
        yield stream
        return
    with tempfile.TemporaryFile() as file:
        while data := read_bytes(stream, str(path)):
            try:
                file.write(data)
            except OSError as error:
                what = f"cannot decompress {path} into {tempfile.gettempdir()} ({error.strerror}); set TMPDIR"
                raise DiskError(what) from None
        yield cast(BinaryIO, file)


def _open_parquet(file: BinaryIO, source: str) -> Any:
    from pyarrow import parquet

    file.seek(0)
    head = file.read(4)
    file.seek(-4 if file.seek(0, os.SEEK_END) >= 4 else 0, os.SEEK_END)
    if head != PARQUET_MAGIC:
        what = "not Parquet although its suffix says so: it does not begin with PAR1"
        raise TextError("wrong suffix", what, path=source)
    if file.read(4) != PARQUET_MAGIC:
        what = "the Parquet file is truncated: it does not end with PAR1; download it again"
        raise TextError("damaged Parquet", what, path=source)
    # The defaults would hold a whole row group in memory, which may be the whole file.
    return parquet.ParquetFile(file, buffer_size=CHUNK, pre_buffer=False)


def _check_column(schema: Any, field: str, source: str) -> None:
    from pyarrow import types

    if field not in schema.names:
        raise no_such_field("column", field, schema.names, source, None)
    kind = schema.field(schema.names.index(field)).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)):
        raise TextError("not a string", f"column '{field}' holds {kind}, expected strings", path=source)
