"""Files of minimal pairs: BLiMP's JSON lines, and any JSONL, TSV or CSV with a column for each side."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from unmask.data.reading.files import format_of
from unmask.data.reading.formats import text_of
from unmask.data.reading.inputs import STDIN_NAME, Given, HubInput, StdinInput, expand_inputs
from unmask.data.reading.records import Record, RecordReader
from unmask.errors import ConfigError, DataError, did_you_mean
from unmask.progress import Progress
from unmask.remote.files import RemoteFile
from unmask.scoring.pairs import Pair

KNOWN = (
    ("sentence_good", "sentence_bad"),
    ("good", "bad"),
    ("acceptable", "unacceptable"),
    ("grammatical", "ungrammatical"),
)
_NAME = re.compile(r"\w{1,40}")
_PARADIGM, _TERM = "UID", "linguistics_term"


@dataclass
class PairReader:
    """Iterates over the pairs of a file, of the files of a folder or glob, or of standard input.

    In place of a pair that cannot be read comes its :class:`DataError`.

    Args:
        given: file, folder, glob, URL, or ``-``.
        good, bad: fields or columns of the sides, or numbers of the columns of a table without names; by default
            those of :data:`KNOWN` that are there, or the only two.
        by: field or column that makes the rows of the table, of all files; by default ``UID``, or the name of the
            file, with its folders where several files have one name.
        max_bytes: pairs with a longer side are not read.
        progress: gets what was chosen.

    Attributes:
        blank_lines: lines without any text, which are skipped.

    Raises:
        DataError: on construction, there is no such file, or no file of pairs in the folder.
        ConfigError: only one of the sides is named.
    """

    given: str
    good: str | None = None
    bad: str | None = None
    by: str | None = None
    max_bytes: int = 500_000
    progress: Progress = Progress()
    names: dict[str, str] = field(default_factory=dict, init=False)
    """A name of each file."""
    _files: list[Given] = field(default_factory=list, init=False)
    _current: RecordReader | None = field(default=None, init=False)
    _begun: int = field(default=0, init=False)
    blank_lines: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if (self.good is None) != (self.bad is None):
            raise ConfigError("--good and --bad go together: name the column of each side, or of neither")
        if self.good is not None and self.good == self.bad:
            raise ConfigError(f"--good and --bad are the same column, '{self.good}'")
        self._files = self._found()
        self.names = _names([str(file) for file in self._files])
        for file in self._files:
            RecordReader(
                file, text_as="tsv"
            )  # complains about what cannot be read at all, before a model is loaded

    def share(self) -> float | None:
        """Return the share that was read, 0 to 1, or ``None`` where it is not known."""
        part = self._current.share() if self._current else 0.0
        return None if part is None else (self._begun - 1 + part) / len(self._files)

    def __iter__(self) -> Iterator[Pair | DataError]:
        for number, file in enumerate(self._files, 1):
            sides = _Sides(self, STDIN_NAME if file == "-" else str(file))
            self._begun = number
            self._current = RecordReader(
                file, text_as="tsv", has_names=sides.has_names, skip_blank=True, progress=self.progress
            )
            try:
                yield from (sides.pair(read) for read in self._current)
            except DataError as error:
                yield error  # the whole file is at error; the others are read
            self.blank_lines += self._current.blank_lines

    def _found(self) -> list[Given]:
        found = expand_inputs([self.given], progress=self.progress)
        if isinstance(found[0], HubInput):
            raise DataError("pairs are read from files; download it first", path=self.given)
        if isinstance(found[0], StdinInput):
            return ["-"]
        paths = [item for item in found if isinstance(item, Path | RemoteFile)]
        if [str(path) for path in paths] == [str(Path(self.given))]:
            return [self.given]
        fitting = [path for path in paths if format_of(path).kind in ("jsonl", "tsv", "csv")]
        if len(fitting) < len(paths):
            others = ", ".join(PurePath(str(path)).name for path in paths if path not in fitting)
            self.progress.log(f"{self.given}: skipped {len(paths) - len(fitting)} without pairs: {others}")
        if not fitting:
            raise DataError("no file of pairs; expected .jsonl, .tsv or .csv", path=self.given)
        return [str(path) if isinstance(path, Path) else path for path in fitting]


class _Sides:
    """Which columns of one file hold the sides, and the pairs made of them."""

    def __init__(self, reader: PairReader, source: str) -> None:
        self.reader, self.source = reader, source
        self._chosen = None if reader.good is None or reader.bad is None else (reader.good, reader.bad)

    def has_names(self, row: Sequence[str]) -> bool:
        """Say whether the first row of a table holds the names of its columns.

        Raises:
            DataError: the table has no columns for the sides.
        """
        named = self._named(row)
        columns = list(row) if named else [str(place) for place in range(1, len(row) + 1)]
        good, bad = self._choose(columns)
        for name in (good, bad):
            if name not in columns:
                raise DataError(_no_side(name, columns), path=self.source, line=1)
        return named

    def _named(self, row: Sequence[str]) -> bool:
        if self._chosen:
            return set(self._chosen) <= set(row) or not all(name.isdigit() for name in self._chosen)
        if len(row) != 2 or _known(row):
            return True
        named = all(_NAME.fullmatch(name) for name in row) and row[0] != row[1]
        if named:
            self.reader.progress.log(
                f"the first row, '{row[0]}' and '{row[1]}', is taken for names (--good 1 --bad 2: not)"
            )
        return named

    def pair(self, read: Record | DataError) -> Pair | DataError:
        """Return the pair of a record, or its error."""
        if isinstance(read, DataError):
            return read
        try:
            return self._made(read)
        except DataError as error:
            return error

    def _made(self, record: Record) -> Pair:
        good, bad = (self._side(record, name) for name in self._choose(list(record.values), record.line))
        name = self.reader.names.get(record.source, "")
        by, term = self.reader.by or _PARADIGM, record.values.get(_TERM)
        if self.reader.by and by not in record.values:
            raise _error(record, f"no field '{by}'{did_you_mean(by, record.values)}; choose with --by")
        return Pair(
            good,
            bad,
            paradigm=str(record.values.get(by, name)),
            term=None if term is None or self.reader.by else str(term),
            source=record.source,
            line=record.line,
        )

    def _choose(self, names: Sequence[str], line: int = 1) -> tuple[str, str]:
        """Return, and remember, the names of the sides among those that are there."""
        if self._chosen is None and (known := _known(names)):
            self._chosen = known
        elif self._chosen is None and len(names) == 2:
            self._chosen = names[0], names[1]
            if names != ["1", "2"]:
                self.reader.progress.log(
                    f"{self.source}: '{names[0]}' is taken for the good side, '{names[1]}' for the bad"
                )
        elif self._chosen is None:
            raise DataError(_no_side(KNOWN[0][0], names), path=self.source, line=line)
        return self._chosen

    def _side(self, record: Record, name: str) -> str:
        values: dict[str, Any] = dict(record.values)
        if name not in values:
            raise _error(record, _no_side(name, values))
        text = text_of(values, name, record.source, record.line)
        if text is None or not text.strip():
            raise _error(
                record,
                f"the side '{name}' of the pair is missing: it is {'null' if text is None else 'empty'}",
            )
        size = len(text.encode("utf-8"))
        if size > self.reader.max_bytes:
            raise _error(record, f"the side '{name}' has {size:,} bytes, more than {self.reader.max_bytes:,}")
        return text


def _names(files: Sequence[str]) -> dict[str, str]:
    """Return a name for each file: that without its ending, after as many of its folders as make it unique."""
    parts = {
        file: (*Path(file).parts[:-1], Path(file).name.partition(".")[0]) for file in files if file != "-"
    }
    for count in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {file: str(Path(*path[-count:])) for file, path in parts.items()}
        if len({*names.values()}) == len(files):
            return names
    return {file: file for file in parts}


def _known(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the known pair of names of which at least one is there."""
    return next((pair for pair in KNOWN if pair[0] in names or pair[1] in names), None)


def _no_side(name: str, there: Iterable[str]) -> str:
    listed = ", ".join(f"'{known}'" for known in there) or "none"
    return f"the pair has no side '{name}'{did_you_mean(name, there)}; there are {listed}; choose with --good and --bad"


def _error(record: Record, what: str) -> DataError:
    return DataError(what, path=record.source, line=record.line)
