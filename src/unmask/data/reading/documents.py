"""Stream documents from files, folders, globs, standard input and Hub data sets.

::

    inputs → files (inputs.py) → lines (files.py) or rows (formats.py) → documents of at most DOCUMENT_LIMIT characters

The order is that of the inputs, and by name inside a folder or glob. Skipped text is counted and logged
(:mod:`unmask.data.reading.errors`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

from unmask.config.settings import DocumentSettings
from unmask.data.hub import hub_records
from unmask.data.reading.errors import ReadErrors, TextError, undecodable_error, without_controls
from unmask.data.reading.files import Line, decode, format_of, open_bytes, readable_stat, text_lines
from unmask.data.reading.formats import (
    TextRow,
    column_rows,
    csv_rows,
    json_rows,
    jsonl_rows,
    no_such_field,
    texts_of,
)
from unmask.data.reading.inputs import STDIN_NAME, HubInput, Input, StdinInput, expand_inputs
from unmask.errors import DataError
from unmask.progress import Progress

DOCUMENT_LIMIT = 1_000_000
"""Characters of the longest document; a longer one is split at white space."""
SNIFF = 1_000_000
"""Characters of a text file in which ``auto`` looks for an empty line."""

Mode = Literal["file", "block", "line"]
Part = tuple[int, str, bool]  # line where it begins, text, whether its document continues in the next part
_MODES: dict[Mode, str] = {
    "block": "has empty lines: one document per block between them",
    "line": "has no empty lines: one document per line",
}
_DEFAULTS = DocumentSettings()
_SPACES = [chr(code) for code in range(0x3001) if chr(code).isspace()]


@dataclass(frozen=True, slots=True)
class Document:
    """One document, never empty.

    Attributes:
        text: its text, with LF line ends, without leading empty lines and trailing white space.
        source: the file, ``<stdin>`` or the address of the Hub data set.
        line: line (in Parquet and Hub data sets: row) where it begins, from 1.
    """

    text: str
    source: str
    line: int | None


@dataclass
class ReadStats:
    """Counts of one pass over the inputs.

    Attributes:
        files: inputs read, including standard input and Hub data sets.
        documents: documents yielded.
        empty: documents without text, which are skipped.
        characters: characters of the documents yielded.
        split_documents: documents that were split because they were too long.
        errors: number of errors by reason.
        error_examples: the first errors of each reason, with file and line.
    """

    files: int = 0
    documents: int = 0
    empty: int = 0
    characters: int = 0
    split_documents: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    error_examples: list[str] = field(default_factory=list)


class DocumentReader:
    """Iterates over the documents of inputs in a fixed order and bounded memory.

    Args:
        inputs: files, folders, globs, ``-`` or ``hf://`` addresses; see :func:`expand_inputs`.
        settings: how text files are split into documents, the field of the text, and whether errors are raised.
        progress: gets, in the first pass, what was skipped and why and the mode that ``auto`` chose.
        log_errors: whether errors are logged; :attr:`stats` counts them in any case.

    Attributes:
        inputs: files, standard input and Hub data sets, in reading order.
        stats: counts of the current or last pass.

    Raises:
        DataError: on construction, an input does not exist; while iterating, the first error in the text if the
            settings are ``strict``; at the end, there was no text at all.
    """

    def __init__(
        self,
        inputs: str | Path | Sequence[str | Path],
        settings: DocumentSettings = _DEFAULTS,
        *,
        progress: Progress = Progress(),
        log_errors: bool = True,
    ) -> None:
        self.settings = settings
        self.stats = ReadStats()
        self._progress = progress
        self._logged_modes: set[Mode] = set()
        self._log_errors = log_errors  # in the first pass
        self._stdin_read = False
        self._errors = ReadErrors(progress, strict=settings.strict, log_errors=log_errors)
        self.inputs = expand_inputs(inputs, errors=self._errors)
        self._input_errors = self._errors

    def __iter__(self) -> Iterator[Document]:
        errors = self._errors = self._next_pass()
        self.stats = ReadStats(errors=errors.counts, error_examples=errors.examples)
        for item in self.inputs:
            self.stats.files += 1
            errors.begin_file()
            before = self.stats.documents, errors.total
            try:
                # Only in plain text are the lines of a document lines of its file.
                is_text = isinstance(item, Path) and format_of(item).kind == "text"
                yield from self._counted(str(item), self._parts(item), is_text)
            except TextError as error:
                errors.note(error)
            if before == (self.stats.documents, errors.total):
                what = "holds no text, expected at least one document"
                errors.note(TextError("no text", what, path=str(item), kept=True))
        errors.log_summary()
        if self.stats.documents == 0:
            errors.raise_first()
            names = ", ".join(str(item) for item in self.inputs[:3]) + (" …" if len(self.inputs) > 3 else "")
            raise DataError(f"the inputs hold no text; expected at least one document in {names}")

    def _next_pass(self) -> ReadErrors:
        """Return the errors of a new pass, which begin with those of the inputs themselves."""
        errors = ReadErrors(self._progress, strict=self.settings.strict, log_errors=self._log_errors)
        errors.counts |= self._input_errors.counts
        errors.examples += self._input_errors.examples
        errors.first = self._input_errors.first
        self._log_errors = False
        return errors

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
                yield Document(text, name, line)

    def _checked(self, text: str, source: str, line: int, whole_lines: bool) -> tuple[int, str]:
        """Return the line and the text of a document; the text is empty if it is undecodable."""
        error = undecodable_error(text, "the text", source, line, whole_lines=whole_lines)
        if error is not None:
            self._errors.note(error)
            return line, ""
        clean, noted = without_controls(text, source, line, whole_lines=whole_lines)
        for control in noted:
            self._errors.note(control)
        if clean is text:
            return line, text
        begin, clean = _trim(clean, line)
        return begin if whole_lines else line, clean

    def _parts(self, item: Input) -> Iterator[Part]:
        if isinstance(item, HubInput):
            return _split_rows(_hub_rows(item, self.settings, self._errors))
        if isinstance(item, StdinInput):
            return self._stdin_parts()
        return self._file_parts(item)

    def _file_parts(self, path: Path) -> Iterator[Part]:
        kind, source, field = format_of(path).kind, str(path), self.settings.text_field
        errors = self._errors
        with _note_changes(path, errors):
            if kind in ("parquet", "arrow"):
                yield from _split_rows(column_rows(path, field, errors))
                return
            with open_bytes(path) as stream:
                # CSV rows end in CRLF by the standard, and fields may hold LF.
                chunks = decode(stream, source, errors, one_line_end=kind not in ("csv", "tsv"))
                if kind == "text":
                    yield from self._text_parts(chunks, source)
                elif kind == "jsonl":
                    yield from _split_rows(jsonl_rows(chunks, field, source, errors))
                elif kind == "json":
                    yield from _split_rows(json_rows(chunks, field, source, errors))
                else:
                    delimiter = "\t" if kind == "tsv" else ","
                    yield from _split_rows(csv_rows(chunks, field, source, delimiter, errors))

    def _stdin_parts(self) -> Iterator[Part]:
        if sys.stdin is None or sys.stdin.closed:
            raise DataError("standard input is closed; expected text there because of '-'", path=STDIN_NAME)
        if self._stdin_read:
            raise DataError("standard input can be read only once; save it to a file first", path=STDIN_NAME)
        self._stdin_read = True
        chunks = decode(sys.stdin.buffer, STDIN_NAME, self._errors)
        begin, size = [""], 0
        while begin[-1].strip() == "" and size < SNIFF and (chunk := next(chunks, "")):
            begin.append(chunk)
            size += len(chunk)
        chunks = chain(begin, chunks)
        if begin[-1].lstrip().startswith("{"):
            self._progress.log(f"{STDIN_NAME} begins with '{{': read as JSON Lines")
            field = self.settings.text_field
            return _split_rows(jsonl_rows(chunks, field, STDIN_NAME, self._errors))
        return self._text_parts(chunks, STDIN_NAME)

    def _text_parts(self, chunks: Iterable[str], source: str) -> Iterator[Part]:
        lines = text_lines(chunks)
        if self.settings.documents != "auto":
            return _join_lines(lines, self.settings.documents)
        mode, lines = _choose_mode(lines)
        if mode not in self._logged_modes:
            self._logged_modes.add(mode)
            self._progress.log(f"{source} {_MODES[mode]}; the same in files like it; change with --documents")
        return _join_lines(lines, mode)


@contextmanager
def _note_changes(path: Path, errors: ReadErrors) -> Iterator[None]:
    """Note an error if a file changes while it is read."""
    before = readable_stat(path)
    yield
    after = readable_stat(path)
    versions = [(found.st_size, found.st_mtime_ns, found.st_ino) for found in (before, after)]
    if versions[0] != versions[1]:
        sizes = f"{before.st_size:,} bytes before, {after.st_size:,} after"
        what = f"the file changed while it was read ({sizes}); another run may read other text"
        errors.note(TextError("changed while read", what, path=path, kept=True))


# -------------------------------------------------------------------------------- lines → documents


def _choose_mode(lines: Iterator[Line]) -> tuple[Mode, Iterator[Line]]:
    """Choose ``block`` if an empty line separates text near the beginning, else ``line``."""
    held: list[Line] = []
    size, text, gap = 0, False, False
    for item in lines:
        held.append(item)
        size += len(item[1])
        if item[1].isspace():
            gap = text
        elif gap:
            return "block", chain(held, lines)
        else:
            text = True
        if size > SNIFF:
            break
    return "line", chain(held, lines)


def _join_lines(lines: Iterable[Line], mode: Mode) -> Iterator[Part]:
    """Join lines, or parts of long lines, into documents; at most about twice the limit is in memory."""
    held: list[str] = []
    first, size, fresh = 1, 0, True
    for number, line in lines:
        # An empty line ends a block; before any text it is not part of a document.
        between = fresh and line.isspace() and (mode == "block" or (mode == "file" and not held))
        fresh = line.endswith("\n")
        if not between:
            first = first if held else number
            held.append(line)
            size += len(line)
        if held and (between or (mode == "line" and fresh)):
            yield from _split_document("".join(held), first)
            held, size = [], 0
        elif size > 2 * DOCUMENT_LIMIT:
            text = "".join(held)
            *ready, (begin, _) = _spans(text)
            yield from (_part(text, span, first, True) for span in ready)
            first += text.count("\n", 0, begin)
            held, size = [text[begin:]], len(text) - begin
    if held or mode == "file":
        yield from _split_document("".join(held), first)


def _split_rows(rows: Iterable[TextRow]) -> Iterator[Part]:
    """Yield the documents of rows; all parts of a long one have the line of its row."""
    for line, text in rows:
        text = (text or "").replace("\r\n", "\n").replace("\r", "\n")
        for _, part, more in _split_document(text, 1):
            yield line, part, more


def _split_document(text: str, first: int) -> Iterator[Part]:
    """Yield the parts of one document, each within the limit."""
    first, text = _trim(text, first)
    spans = _spans(text)
    for number, span in enumerate(spans, 1):
        yield _part(text, span, first, number < len(spans))


def _part(text: str, span: tuple[int, int], first: int, more: bool) -> Part:
    begin, end = span
    return *_trim(text[begin:end], first + text.count("\n", 0, begin)), more


def _trim(text: str, first: int) -> tuple[int, str]:
    """Return the first line and the text without leading empty lines and trailing white space."""
    text = text.rstrip()
    if not text[:1].isspace():
        return first, text
    begin = text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1
    return first + text.count("\n", 0, begin), text[begin:]


def _spans(text: str) -> list[tuple[int, int]]:
    """Return begin and end of the parts of a text: each within the limit, ending after white space if possible."""
    spans, begin = [], 0
    while len(text) - begin > DOCUMENT_LIMIT:
        limit = begin + DOCUMENT_LIMIT
        space = max(text.rfind(mark, begin, limit + 1) for mark in _SPACES)
        end = space + 1 if space > begin else limit
        spans.append((begin, end))
        begin = end
    return [*spans, (begin, len(text))]


# ------------------------------------------------------------------------------------- Hub data sets


def _hub_rows(item: HubInput, settings: DocumentSettings, errors: ReadErrors) -> Iterator[TextRow]:
    column = item.column or settings.text_field
    records = hub_records(item, column, item.split or settings.split, offline=settings.offline)
    for row, record in enumerate(records, 1):
        if column not in record:
            raise no_such_field("column", column, record, item.address, None)
        yield from texts_of([(row, record)], column, item.address, errors)
