"""Errors in text: each is logged and counted and reading continues; in strict mode the first is raised.

An error loses no more than its document, its record, or the rest of a file that cannot be parsed further. An input that
does not exist, or no text at all, is raised as a plain :class:`DataError`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from os import PathLike

from unmask.errors import DataError

SHOWN = 3
"""Errors of one reason that are logged and kept as examples; the others are only counted."""
MAX_ERRORS = 1000
"""Errors of one file, without a document between them, after which the rest of the file is skipped."""
ESCAPE = "unmask-escape"
"""Error handler for decoding: a byte that is no text becomes U+DC00 + byte, which no text holds, to be found later."""
_NOT_READABLE = "not readable"
_SURROGATE = re.compile("[\ud800-\udfff]")
# Without tab, line feed, vertical tab, form feed and carriage return, which are white space.
_CONTROLS = bytes(code for code in [*range(32), 127] if code not in range(9, 14))
_CONTROL = re.compile(f"[{re.escape(_CONTROLS.decode('ascii'))}]")

Log = Callable[[str], None]


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(ESCAPE, _escape)


class TextError(DataError):
    """Something wrong with text.

    Args:
        reason: what sort of error, in a word or two; errors are counted by it.
        message: what was expected and what came.
        path: the file.
        line: its line, or row, from 1.
        kept: whether the text is used all the same.
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
    """A file of which nothing can be read, it seems."""


class ReadErrors:
    """Says and counts errors; memory does not grow with their number.

    Args:
        log: called with the first of each reason.
        strict: raise the first error instead.

    Attributes:
        counts: how many, by reason.
        examples: the first of each reason, as lines of text.
        first: the first error with which text was lost, if there is one.
    """

    def __init__(self, log: Log | None = None, *, strict: bool = False) -> None:
        self.strict = strict
        self.counts: dict[str, int] = {}
        self.examples: list[str] = []
        self.first: DataError | None = None
        self._notice = log
        self._alone = 0

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
        reason = error.reason if isinstance(error, TextError) else _NOT_READABLE
        count = self.counts[reason] = self.counts.get(reason, 0) + 1
        if count <= SHOWN:
            more = "; more of this sort are only counted" if count == SHOWN else ""
            self.examples.append(str(error))
            self._say(f"{'noticed' if kept else 'left out'}: {error}{more}")
        if not kept:
            self.first = self.first or error
            self._alone += 1
        if self._alone == MAX_ERRORS and not isinstance(error, UnreadableFile):
            what = f"{MAX_ERRORS:,} errors and no text until here; the rest of the file is left out"
            raise UnreadableFile("nothing but errors", what, path=error.path or "", line=error.line)

    def begin_file(self) -> None:
        """A new file begins."""
        self._alone = 0

    def found_text(self) -> None:
        """The file gave a document, so it is of use."""
        self._alone = -1 << 60

    def sum_up(self) -> None:
        """Say how many there were in all."""
        if self.counts:
            listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.counts.items()))
            self._say(f"errors in the text: {self.total:,} ({listed}); --strict refuses such text")

    def raise_first(self) -> None:
        """Raise the first error by which text was lost, where nothing else is left to say."""
        if self.first is None:
            return
        others = self.total - 1
        more = f" (and {others:,} more errors; nothing could be read)" if others else ""
        error = DataError(f"{self.first}{more}")
        error.path, error.line = self.first.path, self.first.line
        raise error

    def _say(self, text: str) -> None:
        if self._notice is not None:
            self._notice(text)


def undecodable(text: str) -> tuple[int, str] | None:
    """Return the position and the name of the first undecodable character; ``None`` if there is none."""
    found = None if text.isascii() else _SURROGATE.search(text)
    if found is None:
        return None
    code = ord(found[0])
    if 0xDC00 <= code < 0xDD00:
        return found.start(), f"byte 0x{code - 0xDC00:02x}"
    return found.start(), f"half of a surrogate pair (\\u{code:04x})"


def undecodable_error(text: str, what: str, source: str, line: int, *, whole_lines: bool) -> TextError | None:
    """Return the error of a text that holds something undecodable, or ``None``.

    Args:
        text: the text.
        what: what it is, for example ``the field 'text'``.
        source: its file.
        line: where it begins.
        whole_lines: whether its lines are those of the file, so that the place can be named.
    """
    found = undecodable(text)
    if found is None:
        return None
    at, came = found
    if came.startswith("byte"):
        reason, hint = "not UTF-8", "; convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8"
        came += " is not UTF-8"
    else:
        reason, hint, came = "lone surrogate", "; remove it", came + " is no text"
    place, line = _place(text, at, what, line, whole_lines)
    return TextError(reason, f"{came} ({place}){hint}", path=source, line=line)


def without_controls(text: str, source: str, line: int, *, whole_lines: bool) -> tuple[str, list[TextError]]:
    """Return a text without NUL characters, and what is to be said of its control characters.

    NUL is taken out, since it is never text and ends strings in many a library; the others stay as they are.
    """
    data = text.encode("utf-8")
    if len(data.translate(None, _CONTROLS)) == len(data):
        return text, []
    errors, nuls = [], text.count("\0")
    others = len(data) - len(data.translate(None, _CONTROLS)) - nuls
    if nuls:
        place, number = _place(text, text.index("\0"), "the text", line, whole_lines)
        what = f"{nuls:,} NUL bytes in a document, the first {place}; they are taken out"
        errors.append(TextError("NUL bytes", what, path=source, line=number, kept=True))
        text = text.replace("\0", "")
    if others and (found := _CONTROL.search(text)):
        place, number = _place(text, found.start(), "the text", line, whole_lines)
        what = f"{others:,} control characters in a document, first U+{ord(found[0]):04X} {place}; they stay"
        errors.append(TextError("control characters", what, path=source, line=number, kept=True))
    return text, errors


def _place(text: str, at: int, what: str, line: int, whole_lines: bool) -> tuple[str, int]:
    """Return the place of a character, in bytes, and its line of the file."""
    begin = text.rfind("\n", 0, at) + 1 if whole_lines else 0
    size = len(text[begin:at].encode("utf-8", "replace"))
    number = line + text.count("\n", 0, at) if whole_lines else line
    return f"after {size:,} bytes of {'the line' if whole_lines else what}", number
