"""Read tagged tokens: a token and its tag per line, an empty line between sentences."""

from __future__ import annotations

import re
from pathlib import Path

from unmask.data.reading.files import format_of
from unmask.errors import DataError, plural
from unmask.probing.examples import Examples
from unmask.probing.tables import read_lines

_ENTITY_TAG = re.compile(r"O|[BIESLUM]-\S+")
_CONLL_SUFFIXES = (".conll", ".bio", ".iob", ".iob2", ".bioes")
_SNIFF_LINES = 2_000  # to decide whether a file is CoNLL


def is_conll(path: Path) -> bool:
    """Return whether a file holds tagged tokens: by its suffix, its tags, or two columns in blocks."""
    if path.is_dir() or format_of(path).kind not in ("text", "tsv"):
        return False
    if path.suffix.lower() in _CONLL_SUFFIXES:
        return True
    fields, empty = [], 0
    for number, line in read_lines(path):
        if number > _SNIFF_LINES:
            break
        parts = _fields(line)
        empty += not parts
        fields.extend([parts] if parts else [])
    if not fields:
        return False
    tagged = sum(len(parts) > 1 and bool(_ENTITY_TAG.fullmatch(parts[-1])) for parts in fields)
    short = sum(len(parts) <= 4 and " " not in "".join(parts) for parts in fields)
    return tagged >= 0.5 * len(fields) or (empty >= 2 and short >= 0.9 * len(fields))


def _fields(line: str) -> list[str]:
    """Split at tabs if there are any, else at white space."""
    if "\t" in line.strip():
        return line.split("\t")
    return line.split()


def read_conll(path: Path) -> Examples:
    """Read sentences; the first column is the token, the last its tag. ``-DOCSTART-`` lines are skipped."""
    if path.is_dir():
        raise DataError("is a folder; train holds tagged tokens, so expected such a file", path=path)
    words: list[list[str]] = [[]]
    labels: list[list[str]] = [[]]
    lines: list[int | None] = [None]
    width = None
    for number, line in read_lines(path):
        parts = [part.strip() for part in _fields(line)]
        if not any(parts) or parts[0] == "-DOCSTART-":
            if words[-1]:
                words.append([])
                labels.append([])
                lines.append(None)
            continue
        width = width or len(parts)
        _check_token(parts, width, path, number)
        lines[-1] = lines[-1] or number
        words[-1].append(parts[0])
        labels[-1].append(parts[-1])
    if not words[-1]:
        del words[-1], labels[-1], lines[-1]
    if not words:
        raise DataError("no examples; expected a token and its tag per line", path=path)
    return Examples(str(path), [" ".join(sentence) for sentence in words], words, labels, lines)


def _check_token(parts: list[str], width: int, path: Path, line: int) -> None:
    if len(parts) < 2 or not parts[0] or not parts[-1]:
        raise DataError(
            f"expected a token and its tag, found '{' '.join(parts)}'; an empty line ends a sentence",
            path=path,
            line=line,
        )
    if len(parts) != width:
        raise DataError(
            f"{plural(len(parts), 'column')}, expected {width} as in the first line", path=path, line=line
        )


def marks_entities(labels: list[list[str]]) -> bool:
    return all(_ENTITY_TAG.fullmatch(tag) for tag in {tag for tags in labels for tag in tags})
