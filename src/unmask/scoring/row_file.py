"""A file of JSON lines that is written row by row and can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from unmask.errors import ConfigError, DataError, DiskError

_BLOCK = 1 << 16


class RowFile:
    """A file of JSON lines that is written from its beginning or resumed; a context manager.

    Every row is handed to the system as soon as it is written, so that a stop loses the row it cuts and no other.

    Args:
        path: the file; only an incomplete last line is changed before the context is entered.
        resume: append to the whole lines that it has; an incomplete last line is removed.
        replace: write over what it has.

    Attributes:
        kept: how many lines it had that stay.

    Raises:
        ConfigError: it exists, and neither of the two is set; or its folder does not.
        DiskError: it cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool = False, replace: bool = False) -> None:
        self.path, self.kept = path, 0
        if not path.parent.is_dir():
            raise ConfigError(
                f"{path}: the folder {path.parent} does not exist; make it, or name another file"
            )
        if not resume and not replace and path.exists() and (not path.is_file() or path.stat().st_size):
            raise ConfigError(
                f"{path}: exists already; continue with --resume, replace it with --force, or name another"
            )
        if resume and path.exists():
            with self._writing():
                self.kept = _cut_torn_line(path)

    def __enter__(self) -> RowFile:
        with self._writing():
            self._file: TextIO = self.path.open("a" if self.kept else "w", encoding="utf-8", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that stay.

        Raises:
            DataError: one of them is no JSON object.
        """
        if not self.kept:
            return
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if number > self.kept:
                    return
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    what = "not a row of this command, so it cannot be resumed; name another file with -o"
                    raise DataError(what, path=self.path, line=number)
                yield row

    def write(self, row: dict[str, Any]) -> None:
        """Append a row.

        Raises:
            DiskError: there is no room.
        """
        with self._writing():
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be written: {error.strerror or error}") from None


def _cut_torn_line(path: Path) -> int:
    """Cut a file behind its last line end and return how many lines it has."""
    lines = end = 0
    with path.open("r+b") as file:
        while block := file.read(_BLOCK):
            if b"\n" in block:
                lines += block.count(b"\n")
                end = file.tell() - len(block) + block.rindex(b"\n") + 1
        if end < file.seek(0, os.SEEK_END):
            file.truncate(end)
    return lines
