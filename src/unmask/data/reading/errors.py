"""Errors in text: logged and counted while reading continues, or raised in strict mode.

An error skips its document, its record, or the rest of a file that cannot be parsed further; those of :data:`KEPT` do
not. A file of which nothing or less than half (:data:`MOST_LEFT_OUT`) can be read is raised unless ``skip_unreadable`` is
set. An input that does not exist and inputs without any text raise a plain :class:`DataError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unmask.errors import DataError, plural
from unmask.progress import Progress

SHOWN = 3
"""Errors per reason that are logged and kept as examples; the others are only counted."""
MAX_ERRORS = 1000
"""Errors of a file without any document after which the rest of the file is skipped."""
MOST_LEFT_OUT = 0.5
"""Share of the documents of a file that may be left out; with more, the file is refused: what is left is not its text."""
KEPT = {
    "UTF-16": "decoded by the byte order mark",
    "UTF-32": "decoded by the byte order mark",
    "NUL bytes": "removed",
    "control characters": "kept",
    "mixed line ends": "all are read as line ends",
    "short row": "missing fields are empty",
    "changed while read": "read as it was at that moment",
    "no text": "nothing to read",
}
"""The reasons of errors whose text is used, and what happens to it; for every other reason the text is left out."""
LISTED = 100
"""Unreadable files that are listed; the others are only counted."""


class TextError(DataError):
    """An error in text.

    Args:
        reason: kind of error in a word or two; errors are counted by it.
        message: what was expected and what was found.
        path: the file.
        line: line or row, from 1.
        encoding: what the text may be encoded in, where --encoding can say so.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        path: object,
        line: int | None = None,
        encoding: str | None = None,
    ) -> None:
        self.reason, self.encoding = reason, encoding
        super().__init__(message, path=path, line=line)

    @property
    def kept(self) -> bool:
        """Whether the text is used nevertheless."""
        return self.reason in KEPT


class UnreadableFile(TextError):
    """A file that gave many errors and no text."""


@dataclass
class ErrorCounts:
    """What was left out of some text, and what was changed.

    Attributes:
        errors: number of errors by reason; those of :data:`KEPT` are of text that is used.
        error_examples: the first errors of each reason, with file and line.
        unreadable_files: files of which nothing could be read.
        unreadable: the first of them: ``source``, and the ``error``.
        skipped_files: entries of folders that are not read, by the reason.
    """

    errors: dict[str, int] = field(default_factory=dict)
    error_examples: dict[str, list[str]] = field(default_factory=dict)
    unreadable_files: int = 0
    unreadable: list[dict[str, str]] = field(default_factory=list)
    skipped_files: dict[str, int] = field(default_factory=dict)


@dataclass
class ReadStats(ErrorCounts):
    """Counts of one pass over the inputs, with those of its errors.

    Attributes:
        files: inputs read, including standard input and Hub data sets.
        documents: documents yielded.
        empty: documents without text, which are skipped.
        characters: characters of the documents yielded.
        split_documents: documents that were split because they were too long.
        contents: files by what they hold, such as ``CSV``, ``text``, ``HTML`` or ``source code``.
        splits: files of plain text by what a document of them is: ``file``, ``block`` or ``line``.
    """

    files: int = 0
    documents: int = 0
    empty: int = 0
    characters: int = 0
    split_documents: int = 0
    contents: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)

    def add(self, later: ReadStats) -> None:
        """Count what was read after this; the result is that of reading both in one pass."""
        for name, more in vars(later).items():
            mine = getattr(self, name)
            if isinstance(more, int):
                setattr(self, name, mine + more)
            elif isinstance(more, list):
                mine += more[: LISTED - len(mine)]
            else:
                for key, value in more.items():
                    if isinstance(value, list):
                        mine[key] = [*mine.get(key, []), *value][:SHOWN]
                    else:
                        mine[key] = mine.get(key, 0) + value


@dataclass
class ErrorLog:
    """What was logged of the errors of a text.

    Attributes:
        shown: errors of each reason that were logged.
        waiting: lines that are logged once there is text: where there is none, one error says it all.
        has_text: whether there was any.
        at_once: whether lines do not wait.
    """

    shown: dict[str, int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    has_text: bool = False
    at_once: bool = True


class ReadErrors:
    """Counts errors and logs the first of each reason.

    Args:
        progress: gets log messages.
        strict: raise the first error instead.
        skip_unreadable: read what can be read of a file, even nothing, instead of raising its first error.
        log_errors: whether errors are logged; they are counted in any case.
        counts: where to count.
        log: what was logged before, which is kept up to date.

    Attributes:
        first: the first error that skipped text, if any.
        encodings: how many documents may be in another encoding, by its name.
        passed_over: files that would have been raised without ``skip_unreadable``, and not for their encoding.
    """

    def __init__(
        self,
        progress: Progress = Progress(),
        *,
        strict: bool = False,
        skip_unreadable: bool = False,
        log_errors: bool = True,
        counts: ErrorCounts | None = None,
        log: ErrorLog | None = None,
    ) -> None:
        self.progress, self.strict, self.skip_unreadable = progress, strict, skip_unreadable
        self._log_errors = log_errors
        self._logged = ErrorLog() if log is None else log
        self._waits = False  # whether the file has given no text yet
        self.counts = ErrorCounts() if counts is None else counts
        self.first: DataError | None = None
        self._first_of_file: DataError | None = None
        self._skipped, self._found = 0, False  # documents of the file, and whether any was read
        self.encodings: dict[str, int] = {}
        self.passed_over = 0

    @property
    def total(self) -> int:
        return sum(self.counts.errors.values())

    def note(self, error: DataError) -> None:
        """Count and log an error.

        Raises:
            DataError: the error itself, when strict.
            UnreadableFile: the file has had too many errors, and no text.
        """
        if self.strict:
            raise error
        kept = isinstance(error, TextError) and error.kept
        reason = error.reason if isinstance(error, TextError) else "not readable"
        count = self.counts.errors[reason] = self.counts.errors.get(reason, 0) + 1
        if count <= SHOWN:
            self.counts.error_examples.setdefault(reason, []).append(str(error))
        shown = self._logged.shown[reason] = self._logged.shown.get(reason, 0) + 1
        if shown <= SHOWN:
            more = "; more of this kind are only counted" if shown == SHOWN else ""
            self._log(f"{'note' if kept else 'skipped'}: {error}{more}")
        if not kept:
            self.first = self.first or error
            self._first_of_file = self._first_of_file or error
            self._skipped += 1
            if encoding := getattr(error, "encoding", None):
                self.encodings[encoding] = self.encodings.get(encoding, 0) + 1
        if self._skipped == MAX_ERRORS and not (self._found or isinstance(error, UnreadableFile)):
            what = f"{MAX_ERRORS:,} errors and no text so far; the rest of the file is skipped"
            raise UnreadableFile("nothing but errors", what, path=error.path or "", line=error.line)

    def begin_file(self) -> None:
        """A new file begins."""
        if self._logged.has_text:
            self._flush()
        self._skipped, self._found, self._first_of_file = 0, False, None
        self._waits = not self._logged.at_once

    def found_text(self) -> None:
        """The file gave a document: its errors no longer count towards ``MAX_ERRORS``."""
        if self._waits:
            self._logged.has_text = True
            self._flush()
        self._found = True

    def no_text(self, source: str, *, only: bool) -> None:
        """The file gave no document: it holds none, or none of it can be read.

        Args:
            source: its name.
            only: whether it is the only input, so that no other text is left.

        Raises:
            DataError: its first error, unless unreadable files are to be skipped.
        """
        if self._first_of_file is None:
            what = "holds no text, expected at least one document"
            self.note(TextError("no text", what, path=source))
        elif only or self.skip_unreadable:
            self._count_unreadable(source, self._first_of_file)
        else:
            raise _unreadable(self._first_of_file)

    def end_file(self, documents: int) -> None:
        """The file gave some documents.

        Raises:
            DataError: its first error, where most of it was left out, unless unreadable files are to be skipped.
        """
        share = self._skipped / (documents + self._skipped)
        if self._first_of_file is None or share <= MOST_LEFT_OUT:
            return
        if self.skip_unreadable:
            self.passed_over += getattr(self._first_of_file, "encoding", None) is None
            return
        more = (
            f" (and {plural(self._skipped - 1, 'more error')}): {left_out_share(self._skipped, documents)} of this file, "
            f"more than {MOST_LEFT_OUT:.0%}, cannot be read; --skip-unreadable takes the others all the same"
        )
        raise _with_more(self._first_of_file, more)

    def skip_file(self, error: DataError) -> None:
        """Count a file or folder that cannot be opened.

        Raises:
            DataError: the error, unless unreadable files are to be skipped.
        """
        if not self.skip_unreadable:
            raise error if self.strict else _unreadable(error)
        self.note(error)
        self._count_unreadable(str(error.path), error)

    def _count_unreadable(self, source: str, error: DataError) -> None:
        self.counts.unreadable_files += 1
        self.passed_over += getattr(error, "encoding", None) is None
        if len(self.counts.unreadable) < LISTED:
            self.counts.unreadable.append({"source": source, "error": str(error)})

    def log_summary(self, documents: int) -> None:
        """Log the counts; ``documents`` were read."""
        self._flush()
        if self.counts.errors:
            listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.counts.errors.items()))
            lost = lost_documents(self.counts.errors)
            share = f"; {left_out_share(lost, documents)} are left out" if lost else ""
            self._log(f"errors in the text: {self.total:,} ({listed}){share}; --strict refuses such text")

    def raise_first(self) -> None:
        """Raise the first error that skipped text, if any; of counts that another process made, its example."""
        examples = (found[0] for reason, found in self.counts.error_examples.items() if reason not in KEPT)
        first = self.first or next(map(DataError, examples), None)
        if first is None:
            return
        others, reasons = self.total - 1, sorted(self.counts.errors.items())
        if not others:
            raise first
        listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons) if len(reasons) > 1 else ""
        raise _with_more(
            first,
            f" (and {plural(others, 'more error')}{f', in all {listed}' if listed else ''}; nothing could be read)",
        )

    def _log(self, text: str) -> None:
        if self._waits:
            self._logged.waiting.append(text)
        elif self._log_errors:
            self.progress.log(text)

    def _flush(self) -> None:
        """Log the lines that wait for a text, now that there is one."""
        lines, self._logged.waiting, self._waits = self._logged.waiting, [], False
        for line in lines:
            self._log(line)


def are_whole_files(read: Mapping[str, Any]) -> bool:
    """Return whether a document of plain text was a whole file, from :class:`ReadStats` as a dictionary."""
    return list(read.get("splits", {})) == ["file"]


def lost_documents(errors: Mapping[str, int]) -> int:
    """Return how many documents were left out, from the number of errors by reason."""
    return sum(count for reason, count in errors.items() if reason not in KEPT)


def left_out_share(lost: int, documents: int) -> str:
    """Return ``374 of 397 documents (94.2%)``: how many were left out and read."""
    share = lost / (lost + documents)
    shown = "over 99.9%" if documents and share > 0.999 else f"{share:.1%}"
    return f"{lost:,} of {plural(lost + documents, 'document')} ({shown})"


def _unreadable(error: DataError) -> DataError:
    hint = "; nothing could be read of it: --skip-unreadable leaves such files out, 'unmask check' lists them"
    return _with_more(error, hint)


def _with_more(error: DataError, more: str) -> DataError:
    longer = DataError(f"{error}{more}")
    longer.path, longer.line = error.path, error.line
    return longer
