"""Read labelled texts, or pairs of texts, from tables and folders, and find the columns of text and label."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unmask.data.reading.fields import has_field
from unmask.data.reading.files import cannot_open
from unmask.data.reading.formats import no_such_field, text_of
from unmask.data.reading.records import Record, RecordReader
from unmask.errors import DataError
from unmask.progress import Progress

TEXTS = ("text", "sentence", "content", "review", "abstract", "question", "body", "document")
LABELS = ("label", "labels", "class", "category", "intent", "target", "sentiment", "tag")
PAIRS = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
)
"""Names of the columns of two texts."""


class LabelledRow(NamedTuple):
    """An example as it is read.

    Attributes:
        text: the text, or the first of a pair.
        second: the second text of a pair.
        label: the label, or several.
        line: the number of its first line.
    """

    text: str
    second: str | None
    label: str | list[str]
    line: int | None


_NAME = re.compile(r"[A-Za-z_][\w ]{0,39}")


@dataclass
class Columns:
    """The columns of text and label: as given, by known names, else by content; decided once for all parts.

    Args:
        text, label: names, or numbers of the columns of a table without names.
        second: that of the second text of a pair.
        progress: logs what was chosen.
    """

    text: str | None = None
    label: str | None = None
    second: str | None = None
    progress: Progress = field(default_factory=Progress)
    _named: bool | None = field(default=None, init=False)

    def has_names(self, row: Sequence[str]) -> bool:
        """Return whether the first row of a table holds the names of its columns."""
        given = [name for name in (self.text, self.label, self.second) if name is not None]
        if given:
            return any(name in row for name in given) or not all(name.isdigit() for name in given)
        if self._named is None:
            texts = any(name in row for name in TEXTS) or _known_pair(row) is not None
            known = texts and any(name in row for name in LABELS)
            self._named = known or (len(set(row)) == len(row) and all(_NAME.fullmatch(name) for name in row))
        return self._named

    def resolve(self, records: Sequence[Record]) -> tuple[str, str]:
        """Return the names of the columns of text and label, chosen if not given; those of a pair by known names only.

        Raises:
            DataError: the text or label column cannot be found.
        """
        if self.text is None or self.label is None:
            names = list(records[0].values)
            pair = _known_pair(names) if self.text is None and self.second is None else None
            if pair is not None and not any(name in names for name in TEXTS):
                self.text, self.second = pair
                self.progress.log(f"{records[0].source}: pairs of the columns '{pair[0]}' and '{pair[1]}'")
            text, label = self.text or _known(TEXTS, names), self.label or _known(LABELS, names)
            if text is None or label is None:
                text, label = _by_content(records, text, label)
                self.progress.log(f"{records[0].source}: text is column '{text}', label is column '{label}'")
            self.text, self.label = text, label
        return self.text, self.label


def _known(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _known_pair(names: Sequence[str]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if set(pair) <= set(names)), None)


def _by_content(records: Sequence[Record], text: str | None, label: str | None) -> tuple[str, str]:
    """Take the column with the longest values as the text, and that with the fewest distinct values as the label."""
    names = [name for name in records[0].values if all(name in record.values for record in records)]
    values = {name: [str(record.values[name] or "").strip() for record in records] for name in names}
    if text is None:
        rest = [name for name in names if name != label]
        text = max(rest, key=lambda name: sum(map(len, values[name])), default=None)
    if label is None:
        full = [name for name in names if name != text and all(values[name]) and len(set(values[name])) > 1]
        label = min(full, key=lambda name: len(set(values[name])), default=None)
    if text is None or label is None:
        there = ", ".join(f"'{name}'" for name in records[0].values) or "none"
        what = f"no field for the {'text' if text is None else 'label'} of examples; there are {there}; choose with "
        raise DataError(what + "--text-field and --label-field", path=records[0].source, line=records[0].line)
    return text, label


def read_table(path: Path, columns: Columns) -> Iterator[LabelledRow]:
    """Yield the rows of a JSONL, CSV or TSV file.

    Raises:
        DataError: a row that cannot be read, or has no text or no label, with its line.
        ConfigError: the file format holds no records.
    """
    records = []
    for read in RecordReader(
        path, has_names=columns.has_names, text_as="tsv", skip_blank=True, progress=columns.progress
    ):
        if isinstance(read, DataError):
            raise read
        records.append(read)
    if not records:
        return
    yield from labelled(records, columns)


def labelled(records: Sequence[Record], columns: Columns) -> Iterator[LabelledRow]:
    """Yield the text or texts and the label of records.

    Raises:
        DataError: a record has no text or no label.
    """
    text, label = columns.resolve(records)
    for record in records:
        second = None if columns.second is None else _text(record, columns.second, "--pair-field")
        yield LabelledRow(_text(record, text), second, _label(record, label), record.line)


def _text(record: Record, name: str, option: str = "--text-field") -> str:
    if not has_field(record.values, name):
        raise no_such_field("field", name, record.values, record.source, record.line, option)
    found = text_of(dict(record.values), name, record.source, record.line)
    if found is None or not found.strip():
        raise DataError(f"the text in '{name}' is empty", path=record.source, line=record.line)
    return found


def _label(record: Record, name: str) -> str | list[str]:
    if name not in record.values:
        raise no_such_field("field", name, record.values, record.source, record.line, "--label-field")
    value: Any = record.values[name]
    if isinstance(value, list):
        return [_one_label(label, name, record) for label in value]
    return _one_label(value, name, record)


def _one_label(value: object, name: str, record: Record) -> str:
    if not isinstance(value, str | int | float) or not str(value).strip():
        shown = "empty" if value in (None, "") else f"{value!r:.40}"
        what = f"the label in '{name}' is {shown}; expected a class, a number, or a list of classes"
        raise DataError(what, path=record.source, line=record.line)
    return str(value).strip()


def read_label_folders(folder: Path) -> Iterator[LabelledRow]:
    """Yield the files of a folder's subfolders, whose names are the labels.

    Raises:
        DataError: there are no subfolders, or a file is empty or no text.
    """
    labels = [entry for entry in _entries(folder) if entry.is_dir()]
    if not labels:
        raise DataError("expected a subfolder of text files for each label", path=folder)
    for label in labels:
        for path in _entries(label):
            text = "\n".join(line for _, line in read_lines(path))
            if not text.strip():
                raise DataError("the file is empty", path=path)
            yield LabelledRow(text, None, label.name, None)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers, from 1.

    Raises:
        DataError: a line that is no text.
    """
    for read in RecordReader(path, kind="text"):
        if isinstance(read, DataError):
            raise read
        yield read.line, read.values["text"]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise cannot_open(folder, error) from None
