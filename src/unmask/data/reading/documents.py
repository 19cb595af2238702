"""Stream documents from files, folders, globs, standard input and Hub data sets.

::

    inputs → files (inputs.py) → lines (files.py) or rows (formats.py) → documents (splitting.py)

The order is that of the inputs, and by name inside a folder or glob. Skipped text is counted and logged
(:mod:`unmask.data.reading.errors`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

from unmask.config.settings import DocumentSettings
from unmask.data.hub import hub_records, offline_mode
from unmask.data.reading.characters import undecodable_error, without_controls
from unmask.data.reading.errors import (
    ErrorCounts,
    ErrorLog,
    ReadErrors,
    ReadStats,
    TextError,
)
from unmask.data.reading.fields import field_names, has_field, known_fields, top_names
from unmask.data.reading.files import (
    File,
    decode,
    format_of,
    is_utf8,
    open_bytes,
    readable_stat,
    size_of,
    text_lines,
    whole_lines,
)
from unmask.data.reading.formats import (
    TextRow,
    column_rows,
    csv_rows,
    json_rows,
    jsonl_rows,
    no_such_field,
    texts_of,
)
from unmask.data.reading.inputs import STDIN_NAME, Expanded, Given, HubInput, Input, StdinInput, expand_inputs
from unmask.data.reading.markup import content_of, plain_text
from unmask.data.reading.splitting import (
    DOCUMENT_LIMIT,
    SNIFF,
    Mode,
    Part,
    choose_mode,
    join_lines,
    split_rows,
    trim,
)
from unmask.data.reading.tables import separator_with
from unmask.errors import DataError, plural
from unmask.progress import Progress
from unmask.remote.files import RemoteFile

MANY_FILES, SMALL_FILE = 10, 32_000
"""Plain text files, and the bytes that half of them have at most, from which ``auto`` takes a file as a document."""
_MODES: dict[Mode, str] = {
    "block": "has empty lines: one document per block between them",
    "line": "has no empty lines: one document per line",
}
_DEFAULTS = DocumentSettings()


@dataclass(frozen=True, slots=True)
class Document:
    """One document, never empty.

    Attributes:
        text: its text, with LF line ends, without leading empty lines and trailing white space.
        source: the file, ``<stdin>`` or the address of the Hub data set.
        line: line (in Parquet and Hub data sets: row) where it begins, from 1; ``None`` where markup was removed.
    """

    text: str
    source: str
    line: int | None


class DocumentReader:
    """Iterates over the documents of inputs in a fixed order and bounded memory.

    Args:
        inputs: files, folders, globs, URLs, ``-`` or ``hf://`` addresses; see :func:`expand_inputs`.
        settings: how text files are split into documents, the field of the text, and whether errors are raised.
        progress: gets, in the first pass, what was skipped and why and the mode that ``auto`` chose.
        log_errors: whether errors are logged; :attr:`stats` counts them in any case.
        small_files: whether ``auto`` takes a file as a document; by default where there are many small ones.

    Attributes:
        inputs: files, standard input and Hub data sets, in reading order.
        stats: counts of the current or last pass.
        small_files: as given or found.

    Raises:
        DataError: on construction, an input does not exist; while iterating, the first error in the text if the
            settings are ``strict``, or of a file of which nothing or less than half can be read unless they are ``skip_unreadable``; at
            the end, there was no text at all.
    """

    def __init__(
        self,
        inputs: Given | Sequence[Given] | Expanded,
        settings: DocumentSettings = _DEFAULTS,
        *,
        progress: Progress = Progress(),
        log_errors: bool = True,
        small_files: bool | None = None,
    ) -> None:
        self.settings = settings
        self.stats = ReadStats()
        self._progress = progress
        self._logged: set[str] = set()
        self._error_log = ErrorLog(at_once=False)
        self._log_errors = log_errors  # in the first pass
        self._stdin_read = False
        self._no_lines = False  # of the file that is being read
        self._errors = self._next_errors()
        with offline_mode(settings.offline):
            self.inputs = expand_inputs(inputs, errors=self._errors)
        self._input_errors = self._errors
        self.small_files = self._are_many_small_files() if small_files is None else small_files

    def __iter__(self) -> Iterator[Document]:
        self._errors = self._next_pass()
        yield from self._documents(self.inputs)
        self.finish(self.stats)

    def part(self, begin: int, end: int) -> Iterator[Document]:
        """Yield the documents of some of the inputs, by number; :attr:`stats` counts these alone.

        Errors are logged as in one pass over all parts; :meth:`finish` ends it.
        """
        first, self.stats = self._errors.first, ReadStats()
        self._errors = self._next_errors()
        self._errors.first = first
        yield from self._documents(self.inputs[begin:end])

    @property
    def encoding(self) -> str | None:
        """The encoding that most of the undecodable documents may be in, in the pass so far."""
        found = self._errors.encodings
        return max(found, key=lambda name: found[name], default=None)

    @property
    def passed_over(self) -> int:
        """How many files ``skip_unreadable`` passed over, but for those that may be in another encoding."""
        return self._errors.passed_over

    def finish(self, stats: ReadStats) -> None:
        """Log the errors of all that was read; :class:`DataError` if there was no text at all."""
        self._errors.counts = stats
        if stats.documents:
            self._errors.log_summary(stats.documents)
        else:
            self._errors.raise_first()
            names = ", ".join(str(item) for item in self.inputs[:3]) + (" …" if len(self.inputs) > 3 else "")
            raise DataError(f"the inputs hold no text; expected at least one document in {names}")

    def _documents(self, inputs: Iterable[Input]) -> Iterator[Document]:
        errors = self._errors
        for item in inputs:
            self.stats.files += 1
            errors.begin_file()
            before, self._no_lines = self.stats.documents, False
            try:
                # Only in plain text are the lines of a document lines of its file.
                is_text = isinstance(item, Path | RemoteFile) and format_of(item).kind == "text"
                yield from self._counted(str(item), self._parts(item), is_text)
            except DataError as error:
                # What a network cuts off is never left out: the same command must give the same text.
                skips = self.settings.skip_unreadable and not isinstance(item, RemoteFile)
                if not (isinstance(error, TextError) or skips):
                    raise
                errors.note(error)
            if before == self.stats.documents:
                errors.no_text(str(item), only=len(self.inputs) == 1)
            else:
                errors.end_file(self.stats.documents - before)

    def _next_errors(self) -> ReadErrors:
        settings = self.settings
        return ReadErrors(
            self._progress, strict=settings.strict, skip_unreadable=settings.skip_unreadable,
            log_errors=self._log_errors, counts=self.stats, log=self._error_log,
        )  # fmt: skip

    def _next_pass(self) -> ReadErrors:
        """Return the errors of a new pass, which begin with those of the inputs themselves."""
        counts = self._input_errors.counts
        of_inputs = {item.name: deepcopy(getattr(counts, item.name)) for item in fields(ErrorCounts)}
        self.stats = ReadStats(**of_inputs)
        errors = self._next_errors()
        errors.first = self._input_errors.first
        self._log_errors = False
        return errors

    def _are_many_small_files(self) -> bool:
        """Say whether the plain text among the inputs is many small files; see :data:`MANY_FILES`."""
        files = [item for item in self.inputs if isinstance(item, Path | RemoteFile)]
        paths = [file for file in files if format_of(file).kind == "text"]
        if self.settings.documents != "auto" or len(paths) < MANY_FILES:
            return False
        sizes = sorted(size_of(path) for path in paths if isinstance(path, RemoteFile) or path.is_file())
        return len(sizes) >= MANY_FILES and sizes[len(sizes) // 2] <= SMALL_FILE

    def _counted(self, source: str, parts: Iterator[Part], whole_lines: bool) -> Iterator[Document]:
        stats, within = self.stats, False
        # The name of a file may hold undecodable bytes.
        name = source.encode("utf-8", "replace").decode("utf-8")
        for begin, raw, more in parts:
            line, text = self._checked(raw, source, begin, whole_lines)
            stats.split_documents += more and not within
            stats.empty += not raw and not more and not within
            within = more
            if text:
                stats.documents += 1
                stats.characters += len(text)
                self._errors.found_text()
                yield Document(text, name, None if self._no_lines else line)

    def _checked(self, text: str, source: str, line: int, whole_lines: bool) -> tuple[int, str]:
        """Return the line and the text of a document; the text is empty if it is undecodable."""
        encoding = self.settings.encoding
        error = undecodable_error(
            text, "the text", source, line, whole_lines=whole_lines, encoding=encoding, option=True
        )
        if error is not None:
            self._errors.note(error)
            return line, ""
        clean, noted = without_controls(text, source, line, whole_lines=whole_lines)
        for control in noted:
            self._errors.note(control)
        if clean is text:
            return line, text
        begin, clean = trim(clean, line)
        return begin if whole_lines else line, clean

    def _parts(self, item: Input) -> Iterator[Part]:
        if isinstance(item, HubInput):
            return split_rows(_hub_rows(item, self.settings, self._errors))
        if isinstance(item, StdinInput):
            return self._stdin_parts()
        return self._file_parts(item)

    def _file_parts(self, path: File) -> Iterator[Part]:
        kind, source, field = format_of(path).kind, str(path), self.settings.text_field
        errors, settings = self._errors, self.settings
        if kind != "text":
            _count(self.stats.contents, kind.title() if kind in ("parquet", "arrow") else kind.upper())
        with _note_changes(path, errors):
            if kind in ("parquet", "arrow"):
                yield from split_rows(column_rows(path, field, errors))
                return
            with open_bytes(path) as stream:
                # CSV rows end in CRLF by the standard, and fields may hold LF.
                one_end = kind not in ("csv", "tsv")
                encoding = settings.encoding
                if encoding and (kind in ("json", "jsonl") or is_utf8(path)):  # JSON always is
                    encoding = None
                chunks = decode(stream, source, errors, encoding=encoding, one_line_end=one_end)
                if kind == "text":
                    small = self.small_files and size_of(path) <= DOCUMENT_LIMIT
                    yield from self._text_parts(chunks, source, small)
                elif kind == "jsonl":
                    yield from split_rows(jsonl_rows(chunks, field, source, errors))
                elif kind == "json":
                    yield from split_rows(json_rows(chunks, field, source, errors))
                else:
                    yield from split_rows(self._table_rows(chunks, source, "\t" if kind == "tsv" else ","))

    def _table_rows(self, chunks: Iterable[str], source: str, usual: str) -> Iterator[TextRow]:
        """Yield the rows of CSV or TSV, by the separator that is given, or by the one that fits the first row."""
        lines, field, mark = whole_lines(chunks, source), self.settings.text_field, self.settings.separator
        if mark is None:
            lines, mark = separator_with(lines, field_names(field), usual)
            if mark != usual:
                found = f"the separator is {mark!r} by the first row; change with --delimiter"
                self._log_once(found, f"{source}: {found}")
        return csv_rows(lines, field, source, mark, self._errors)

    def _stdin_parts(self) -> Iterator[Part]:
        if sys.stdin is None or sys.stdin.closed:
            raise DataError("standard input is closed; expected text there because of '-'", path=STDIN_NAME)
        if self._stdin_read:
            raise DataError("standard input can be read only once; save it to a file first", path=STDIN_NAME)
        self._stdin_read = True
        chunks = decode(sys.stdin.buffer, STDIN_NAME, self._errors, encoding=self.settings.encoding)
        begin, size = [""], 0
        while begin[-1].strip() == "" and size < SNIFF and (chunk := next(chunks, "")):
            begin.append(chunk)
            size += len(chunk)
        chunks = chain(begin, chunks)
        if begin[-1].lstrip().startswith("{"):
            self._progress.log(f"{STDIN_NAME} begins with '{{': read as JSON Lines")
            field = self.settings.text_field
            return split_rows(jsonl_rows(chunks, field, STDIN_NAME, self._errors))
        return self._text_parts(chunks, STDIN_NAME)

    def _text_parts(self, chunks: Iterable[str], source: str, small: bool = False) -> Iterator[Part]:
        """Yield the documents of plain text.

        Args:
            small: whether ``auto`` takes the file as one document.
        """
        first = next(chunks := iter(chunks), "")
        content = content_of(Path(source), first)
        strip = self.settings.markup == "strip" and content in ("HTML", "XML")
        _count(self.stats.contents, f"{content}, stripped" if strip else content)
        mode: Mode | None = None if self.settings.documents == "auto" else self.settings.documents
        chunks = chain([first], chunks)
        if content in ("HTML", "XML"):
            hint = "read as text, with its tags; --markup strip takes the text between them"
            if strip:
                chunks, mode = [plain_text(chunks, content, source)], mode or "file"
                hint, self._no_lines = "read without its tags", True
            self._log_once(content, f"{source} holds {content}: {hint}")
        elif content != "text":
            self._log_once(content, f"{source} holds {content}, which is read as text")
        lines = text_lines(chunks)
        if mode is None and small:
            mode = "file"
            why = f"these are many files, and half of them have at most {SMALL_FILE:,} bytes"
            self._log_once(mode, f"one document per file of plain text: {why}; change with --documents")
        elif mode is None:
            mode, lines = choose_mode(lines)
            if mode is None:  # a file without text says nothing of how others are divided
                return join_lines(lines, "line")
            self._log_once(
                mode, f"{source} {_MODES[mode]}; the same in files like it; change with --documents"
            )
        _count(self.stats.splits, mode)
        return join_lines(lines, mode)

    def _log_once(self, what: str, text: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            self._progress.log(text)


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


@contextmanager
def _note_changes(path: File, errors: ReadErrors) -> Iterator[None]:
    """Note an error if a file changes while it is read; of an object that is an error of reading."""
    if isinstance(path, RemoteFile):
        yield
        return
    before = readable_stat(path)
    yield
    after = readable_stat(path)
    versions = [(found.st_size, found.st_mtime_ns, found.st_ino) for found in (before, after)]
    if versions[0] != versions[1]:
        sizes = f"{plural(before.st_size, 'byte')} before, {after.st_size:,} after"
        what = f"the file changed while it was read ({sizes}); another run may read other text"
        errors.note(TextError("changed while read", what, path=path))


# ------------------------------------------------------------------------------------- Hub data sets


def _hub_rows(item: HubInput, settings: DocumentSettings, errors: ReadErrors) -> Iterator[TextRow]:
    field = item.column or settings.text_field
    records = hub_records(item, top_names(field), item.split or settings.split, offline=settings.offline)
    for row, record in enumerate(records, 1):
        if not has_field(record, field):
            raise no_such_field("column", field, known_fields(record), item.address, None)
        yield from texts_of([(row, record)], field, item.address, errors)
