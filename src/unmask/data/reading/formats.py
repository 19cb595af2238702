"""Stream the text field of JSON, CSV and Parquet files as rows of (line, text).

What a ``field`` may be says :mod:`unmask.data.reading.fields`. Each reader takes the decoded chunks of
:mod:`unmask.data.reading.files` (CSV: the lines, Parquet and Arrow: the path). An error of one record goes to
:class:`ReadErrors` and reading continues; an error after which the file cannot be parsed, such as in a JSON list, raises
:class:`TextError`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from unmask.data.reading.characters import undecodable_error
from unmask.data.reading.errors import ReadErrors, TextError
from unmask.data.reading.fields import (
    field_names,
    find_value,
    has_field,
    known_fields,
    missing_field,
    top_names,
)
from unmask.data.reading.files import (
    CHUNK,
    PARQUET_MAGIC,
    RECORD_LIMIT,
    File,
    LineRead,
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
    without_errors,
)
from unmask.data.reading.tables import table_rows
from unmask.errors import DataError, DiskError, plural

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
    """Yield the texts of a ``.json`` file: a list of objects or strings, an object around one, or one object per line."""
    reader = _ListReader(chunks, source)
    if reader.peek() == "[":
        return texts_of(reader.elements(), field, source, errors)
    value = reader.only_object()
    if value is None:
        return jsonl_rows(reader.unread(), field, source, errors)
    key = _key_of_list(value, field)
    records = iter([(reader.line, value)]) if key is None else reader.elements_of(key)
    return texts_of(records, field, source, errors)


def _key_of_list(value: dict[str, Any], field: str) -> str | None:
    """Return the key of the list of records in an object, or ``None`` where the object itself is a record."""
    if has_field(value, field):
        return None
    lists = [key for key, inner in value.items() if isinstance(inner, list) and inner]
    lists = [key for key in lists if isinstance(value[key][0], dict | str)]
    fitting = [key for key in lists if isinstance(value[key][0], str) or has_field(value[key][0], field)]
    return next((keys[0] for keys in (fitting, lists) if len(keys) == 1), None)


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

    def only_object(self) -> dict[str, Any] | None:
        """Return the JSON object that is the whole rest of the text, or ``None``; nothing is read by that.

        Raises:
            TextError: an object over several lines is broken or too long.
        """
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except (ValueError, RecursionError) as error:
                above = self._buffer.count("\n", 0, self._at)
                line = self.line + (
                    error.lineno - 1 - above if isinstance(error, json.JSONDecodeError) else 0
                )
                is_long = len(self._buffer) - self._at > RECORD_LIMIT
                if not is_long and self._more():
                    continue
                if not self._begins_over_lines():
                    return None  # a broken line of JSON Lines is skipped later
                self.line = line
                raise self._error("an object that is too long" if is_long else json_error(error)) from None
            size = end - self._at
            while not (rest := self._buffer[self._at + size :].strip()) and self._more():
                pass
            return value if isinstance(value, dict) and not rest else None

    def _begins_over_lines(self) -> bool:
        """Say whether the text begins with an object that does not end in its line."""
        first, _, rest = self._buffer[self._at :].partition("\n")
        try:
            json.loads(first)
        except json.JSONDecodeError as error:
            is_open = first.startswith("{") and error.pos >= len(first.rstrip())
            return is_open and not rest.lstrip("\n").startswith("{")
        except (ValueError, RecursionError):
            pass
        return False

    def elements_of(self, key: str) -> Iterator[tuple[int, Any]]:
        """Yield each element of the list under a key of an object that :meth:`only_object` returned."""
        name = None
        while name != key:
            self._advance(self._at + 1)  # "{", or "," after a value
            self.peek()
            name = self._element()
            self.peek()
            self._advance(self._at + 1)
            self.peek()
            if name != key:
                self._element()
                self.peek()
        yield from self.elements(inner=True)

    def elements(self, *, inner: bool = False) -> Iterator[tuple[int, Any]]:
        """Yield each element with the line where it begins; an ``inner`` list has more text behind it."""
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
        if not inner and self.peek():
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
    """Return the text field of a record, ``None`` for null; :class:`DataError` if it has none or no valid string.

    A record that is a string is the text; the strings of a list are its lines.
    """
    if not isinstance(record, dict | str):
        raise not_an_object(record, source, line)
    try:
        text = record if isinstance(record, str) else find_value(record, field)
    except KeyError:
        known = known_fields(cast(dict[str, Any], record))
        raise no_such_field("field", field, known, source, line) from None
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n".join(text)
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
    return TextError(f"no such {what}", missing_field(what, field, known, option), path=source, line=line)


# ------------------------------------------------------------------------------------ CSV and Parquet


def csv_rows(
    lines: Iterable[LineRead], field: str, source: str, delimiter: str, errors: ReadErrors
) -> Iterator[TextRow]:
    """Yield a column of CSV or TSV with the line where each row begins; the first row names the columns."""
    rows = without_errors(table_rows(lines, source, delimiter), errors)
    first, names = next(rows, (1, None))
    if names is None:
        return
    columns = _columns(field, names, source, first)
    for line, row in rows:
        if len(row) < len(names):
            what = f"the row has {plural(len(row), 'field')}, expected {len(names)} as in the first row"
            errors.note(TextError("short row", f"{what}; missing ones are empty", path=source, line=line))
        yield line, next((row[column] for column in columns if column < len(row) and row[column]), None)


def _columns(field: str, names: list[str], source: str, line: int) -> list[int]:
    """Return the places of the columns of a field, in order of preference."""
    found = [name for name in field_names(field) if name in names]
    if not found:
        raise no_such_field("column", field, names, source, line)
    for name in found:
        if names.count(name) > 1:
            what = f"{names.count(name)} columns have the name '{name}'; rename all but one"
            raise TextError("no such column", what, path=source, line=line)
    return [names.index(name) for name in found]


def column_rows(path: File, field: str, errors: ReadErrors) -> Iterator[TextRow]:
    """Yield a column of a Parquet or Arrow file, or a field in one, with the number of each row."""
    import pyarrow

    source, row = str(path), 0
    with open_bytes(path) as stream, _seekable(stream, path) as file:
        try:
            for batch in _batches(file, path, field):
                names = batch.schema.names
                for values in zip(*batch.columns, strict=True):
                    row += 1
                    try:
                        record = {name: value.as_py() for name, value in zip(names, values, strict=True)}
                        text = text_of(record, field, source, row)
                    except UnicodeDecodeError as error:
                        byte = f"byte 0x{error.object[error.start]:02x}"
                        what = f"{byte} is not UTF-8 (after {plural(error.start, 'byte')} of the text)"
                        errors.note(TextError("not UTF-8", what, path=source, line=row))
                    except TextError as error:
                        errors.note(error)
                    else:
                        yield row, text
        except (pyarrow.ArrowException, OSError) as error:
            kind = format_of(path).kind.title()
            what = f"damaged {kind} data after row {row} ({str(error).partition(chr(10))[0]})"
            raise TextError(f"damaged {kind}", what, path=source) from None


def _batches(file: BinaryIO, path: File, field: str) -> Iterator[Any]:
    """Yield the columns of a field in batches; small ones of Parquet, since a row may be a whole book."""
    if format_of(path).kind == "arrow":
        from pyarrow import ipc

        stream = ipc.open_stream(file)
        columns = _columns_with(stream.schema, field, str(path))
        yield from (batch.select(columns) for batch in stream)
        return
    table = _open_parquet(file, str(path))
    columns = _columns_with(table.schema_arrow, field, str(path))
    yield from table.iter_batches(batch_size=64, columns=columns, use_threads=False)


@contextmanager
def _seekable(stream: BinaryIO, path: File) -> Iterator[BinaryIO]:
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


def _columns_with(schema: Any, field: str, source: str) -> list[str]:
    """Return the columns that hold the field; a whole column must hold strings."""
    from pyarrow import types

    columns = [name for name in top_names(field) if name in schema.names]
    if not columns:
        raise no_such_field("column", field, schema.names, source, None)
    for name in columns:
        kind = schema.field(name).type
        value = kind.value_type if types.is_dictionary(kind) or types.is_list(kind) else kind
        texts = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
        if name in field_names(field) and not texts:
            raise TextError("not a string", f"column '{name}' holds {kind}, expected strings", path=source)
    return columns
