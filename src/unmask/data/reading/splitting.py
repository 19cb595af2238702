"""Split the lines of plain text, and the texts of rows, into documents of at most ``DOCUMENT_LIMIT`` characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

from unmask.data.reading.files import Line
from unmask.data.reading.formats import TextRow

DOCUMENT_LIMIT = 1_000_000
"""Characters of the longest document; a longer one is split at white space."""
SNIFF = 1_000_000
"""Characters of a text file in which ``auto`` looks for an empty line."""

Mode = Literal["file", "block", "line"]
Part = tuple[int, str, bool]  # line where it begins, text, whether its document continues in the next part
_SPACES = [chr(code) for code in range(0x3001) if chr(code).isspace()]


def choose_mode(lines: Iterator[Line]) -> tuple[Mode | None, Iterator[Line]]:
    """Choose ``block`` if an empty line separates text near the beginning, else ``line``; ``None`` where there is no text."""
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
            return "line", chain(held, lines)
    return "line" if text else None, iter(held)


def join_lines(lines: Iterable[Line], mode: Mode) -> Iterator[Part]:
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


def split_rows(rows: Iterable[TextRow]) -> Iterator[Part]:
    """Yield the documents of rows; all parts of a long one have the line of its row."""
    for line, text in rows:
        text = (text or "").replace("\r\n", "\n").replace("\r", "\n")
        for _, part, more in _split_document(text, 1):
            yield line, part, more


def _split_document(text: str, first: int) -> Iterator[Part]:
    """Yield the parts of one document, each within the limit."""
    first, text = trim(text, first)
    spans = _spans(text)
    for number, span in enumerate(spans, 1):
        yield _part(text, span, first, number < len(spans))


def _part(text: str, span: tuple[int, int], first: int, more: bool) -> Part:
    begin, end = span
    return *trim(text[begin:end], first + text.count("\n", 0, begin)), more


def trim(text: str, first: int) -> tuple[int, str]:
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
