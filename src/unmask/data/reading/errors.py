"""Errors in text: logged and counted while reading continues, or raised in strict mode.

An error skips its document, its record, or the rest of a file that cannot be parsed further. An input that does not
exist and inputs without any text raise a plain :class:`DataError`.
"""

from __future__ import annotations

import codecs
import re
from os import PathLike

from unmask.errors import DataError
from unmask.progress import Progress

SHOWN = 3
"""Errors per reason that are logged and kept as examples; the others are only counted."""
MAX_ERRORS = 1000
"""Errors of a file without any document after which the rest of the file is skipped."""
ESCAPE = "unmask-escape"
"""Error handler for decoding: an undecodable byte becomes the lone surrogate U+DC00 + byte, to be reported later."""
_SURROGATE = re.compile("[\ud800-\udfff]")
# Without tab, line feed, vertical tab, form feed and carriage return, which are white space.
_CONTROLS = bytes(code for code in [*range(32), 127] if code not in range(9, 14))
_CONTROL = re.compile(f"[{re.escape(_CONTROLS.decode('ascii'))}]")


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(ESCAPE, _escape)


class TextError(DataError):
    """An error in text.

    Args:
        reason: kind of error in a word or two; errors are counted by it.
        message: what was expected and what was found.
        path: the file.
        line: line or row, from 1.
        kept: whether the text is used nevertheless.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        path: str | PathLike[str],
        line: int | None = None,
        kept: bool = False,
    ) -> None:
        self.reason, self.kept = reason, kept
        super().__init__(message, path=path, line=line)


class UnreadableFile(TextError):
    """A file that gave many errors and no text."""


class ReadErrors:
    """Counts errors and logs the first of each reason.

    Args:
        progress: gets log messages.
        strict: raise the first error instead.
        log_errors: whether errors are logged; they are counted in any case.

    Attributes:
        counts: number of errors by reason.
        examples: the first errors of each reason, as text.
        first: the first error that skipped text, if any.
    """

    def __init__(
        self, progress: Progress = Progress(), *, strict: bool = False, log_errors: bool = True
    ) -> None:
        self.progress, self.strict, self._log_errors = progress, strict, log_errors
        self.counts: dict[str, int] = {}
        self.examples: list[str] = []
        self.first: DataError | None = None
        self._skipped = 0

    @property
    def total(self) -> int:
        return sum(self.counts.values())

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
        count = self.counts[reason] = self.counts.get(reason, 0) + 1
        if count <= SHOWN:
            more = "; more of this kind are only counted" if count == SHOWN else ""
            self.examples.append(str(error))
            self._log(f"{'note' if kept else 'skipped'}: {error}{more}")
        if not kept:
            self.first = self.first or error
            self._skipped += 1
        if self._skipped == MAX_ERRORS and not isinstance(error, UnreadableFile):
            what = f"{MAX_ERRORS:,} errors and no text so far; the rest of the file is skipped"
            raise UnreadableFile("nothing but errors", what, path=error.path or "", line=error.line)

    def begin_file(self) -> None:
        """A new file begins."""
        self._skipped = 0

    def found_text(self) -> None:
        """The file gave a document: its errors no longer count towards ``MAX_ERRORS``."""
        self._skipped = -1 << 60

    def log_summary(self) -> None:
        """Log the counts."""
        if self.counts:
            listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.counts.items()))
            self._log(f"errors in the text: {self.total:,} ({listed}); --strict refuses such text")

    def raise_first(self) -> None:
        """Raise the first error that skipped text, if any."""
        if self.first is None:
            return
        others = self.total - 1
        more = f" (and {others:,} more errors; nothing could be read)" if others else ""
        error = DataError(f"{self.first}{more}")
        error.path, error.line = self.first.path, self.first.line
        raise error

    def _log(self, text: str) -> None:
        if self._log_errors:
            self.progress.log(text)


def undecodable_error(text: str, what: str, source: str, line: int, *, whole_lines: bool) -> TextError | None:
    """Return the error of an undecodable text, or ``None``.

    Args:
        text: the text.
        what: its name in the message, for example ``the field 'text'``.
        source: its file.
        line: the line where it begins.
        whole_lines: whether its lines are lines of the file, so that the message can name the exact line.
    """
    found = None if text.isascii() else _SURROGATE.search(text)
    if found is None:
        return None
    code = ord(found[0])
    if 0xDC00 <= code < 0xDD00:  # see ESCAPE
        reason, cause = "not UTF-8", f"byte 0x{code - 0xDC00:02x} is not UTF-8"
        hint = "convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8"
    else:
        reason, cause = "lone surrogate", f"half of a surrogate pair (\\u{code:04x}) is not text"
        hint = "remove it"
    place, line = _place(text, found.start(), what, line, whole_lines)
    return TextError(reason, f"{cause} ({place}); {hint}", path=source, line=line)


def without_controls(text: str, source: str, line: int, *, whole_lines: bool) -> tuple[str, list[TextError]]:
    """Return a text without NUL characters, and the errors for its control characters.

    NUL is removed, since many libraries end strings at it; other control characters are kept.
    """
    data = text.encode("utf-8")
    if len(data.translate(None, _CONTROLS)) == len(data):
        return text, []
    errors, nuls = [], text.count("\0")
    others = len(data) - len(data.translate(None, _CONTROLS)) - nuls
    if nuls:
        place, number = _place(text, text.index("\0"), "the text", line, whole_lines)
        what = f"{nuls:,} NUL bytes in a document, the first {place}; they are removed"
        errors.append(TextError("NUL bytes", what, path=source, line=number, kept=True))
        text = text.replace("\0", "")
    if others and (found := _CONTROL.search(text)):
        place, number = _place(text, found.start(), "the text", line, whole_lines)
        what = (
            f"{others:,} control characters in a document, first U+{ord(found[0]):04X} {place}; they are kept"
        )
        errors.append(TextError("control characters", what, path=source, line=number, kept=True))
    return text, errors


def _place(text: str, at: int, what: str, line: int, whole_lines: bool) -> tuple[str, int]:
    """Return the position of a character as text, in bytes, and its line in the file."""
    begin = text.rfind("\n", 0, at) + 1 if whole_lines else 0
    size = len(text[begin:at].encode("utf-8", "replace"))
    number = line + text.count("\n", 0, at) if whole_lines else line
    return f"after {size:,} bytes of {'the line' if whole_lines else what}", number
