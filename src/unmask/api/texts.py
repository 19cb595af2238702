"""Text from Python: paths, strings, Hugging Face datasets and pandas objects, as inputs of the readers.

What is a path and what is a text:

- A string is a path, a glob, a URL (``s3://…``), ``-`` or an ``hf://`` address; a string that is none of these is an error.
- A :class:`~pathlib.Path`, and a list with one in it, are paths.
- A list of strings is a list of paths if all of them exist (or are globs that match, URLs, ``-`` or ``hf://``), and a list of
  texts if none exists or looks like a path (no white space, and a separator or a suffix such as ``.txt``). In between
  it is an error, so that no mistyped path is taken for a text. Only in a list of over 100 strings may up to half look
  like paths.
- A Series, a column or records (``{"text": ...}``) are always texts.
"""

from __future__ import annotations

import filecmp
import glob
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from unmask.api.progress import ProgressLike, shown
from unmask.api.wording import TEMPORARY
from unmask.data.corpus import Corpus
from unmask.data.reading.fields import find_value, missing_field, top_names
from unmask.data.reading.files import format_of
from unmask.data.reading.files import missing as missing_file
from unmask.errors import ConfigError, DataError, DiskError, plural
from unmask.progress import Progress
from unmask.remote.systems import is_url
from unmask.reporting.results import short

Text: TypeAlias = Any
"""A path, several, or texts: strings, records, a ``datasets.Dataset``, a pandas Series or DataFrame."""

T = TypeVar("T")

MISSING = "the text is missing (None or NaN)"
_SURE = 100
_LONGEST_PATH = 1024
_HELP = (
    "pass texts as a list of strings, a datasets.Dataset or a pandas Series; paths as strings or pathlib.Path"
)


class Paths(list[str]):
    """Paths, globs and addresses, whether they exist or not: strings in such a list are never texts."""


@contextmanager
def text_files(progress: ProgressLike, offline: bool, field: str = "text") -> Iterator[TextFiles]:
    """Show progress while texts are read; see :func:`unmask.api.progress.shown` and :class:`TextFiles`."""
    with shown(progress, offline) as listener, TextFiles(field=field, progress=listener) as files:
        yield files


class TextFiles:
    """Makes inputs of the readers from text of any kind; a context manager. Texts in memory become JSON Lines files.

    Args:
        field: the column of tables and records that holds the text, and of the files that are written.
        folder: where to write the files, which then stay; by default a temporary folder.
        progress: is warned of missing values.

    Attributes:
        progress: as given.
        written: whether texts in memory became a file.
    """

    def __init__(self, *, field: str = "text", folder: Path | None = None, progress: Progress) -> None:
        self._field, self.progress = field, progress
        self.written = False
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix=TEMPORARY)
        self._folder = folder or Path(self._temporary.name if self._temporary else "")

    def __enter__(self) -> TextFiles:
        return self

    def __exit__(self, *error: object) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def inputs(self, text: Text, name: str = "text") -> list[str]:
        """Return paths, globs and addresses for the readers.

        Args:
            text: see the module.
            name: of the argument, for messages and for the file that is written.

        Raises:
            DataError: a string is no path, paths and texts are mixed, or there is nothing.
            ConfigError: an object of another type, or a table without the column.
        """
        if isinstance(text, Paths):
            return text
        if isinstance(text, str | os.PathLike):
            return [_one_path(text, name)]
        if isinstance(text, Corpus):
            return [str(text.folder)]
        values = text_values(text, self._field, name)
        if isinstance(values, list) and (paths := _paths(values, name)):
            return paths
        self.written = True
        return [str(self._write(values, name))]

    def _write(self, values: Iterable[object], name: str) -> Path:
        """Write texts to ``name.jsonl``, missing ones as null; a file that is there must hold the same."""
        path = self._folder / f"{name}.jsonl"
        partial = path.with_name(f".{name}.{os.getpid()}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.writelines(self._lines(values, name))
            if not path.exists():
                partial.rename(path)
            elif not filecmp.cmp(path, partial, shallow=False):
                raise ConfigError(
                    f"{name}: these are not the texts that the run in {self._folder.parent} was started with; pass the "
                    f"same texts to resume it; to train on other or more text, start a run with "
                    f"model={self._folder.parent}/model in another folder"
                )
        except OSError as error:
            raise DiskError(f"{path}: cannot be written: {error.strerror}") from None
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _lines(self, values: Iterable[object], name: str) -> Iterator[bytes]:
        missing = total = 0
        for total, value in enumerate(values, 1):
            text = None if is_missing(value) else _text(value, total, name)
            missing += text is None
            yield _line({self._field: text})
        if missing == total:
            raise DataError(
                f"{name}: " + (f"no text, {plural(total, 'missing value')}" if total else f"no text; {_HELP}")
            )
        if missing:
            self.progress.warning(f"{name}: {missing:,} of {plural(total, 'text')} missing and skipped")


def text_values(text: Text, field: str, name: str) -> Iterable[object]:
    """Return the values of texts in memory: of a list itself, of a table or of records its column.

    Raises:
        ConfigError: an object of another type, or a table without the column.
    """
    package = type(text).__module__.partition(".")[0]
    if package == "datasets":
        return _dataset_column(text, field, name)
    if package == "pandas" and hasattr(text, "columns"):
        names = _columns(field, list(text.columns), name)
        return (
            _field_of(dict(zip(names, row, strict=True)), field, 0, name)
            for row in text[names].itertuples(index=False)
        )
    if package == "pandas" and hasattr(text, "tolist"):
        return iter(text.tolist())
    if isinstance(text, Mapping | bytes) or not isinstance(text, Iterable):
        raise ConfigError(f"{name}: expected text, not an object of type {type(text).__name__}; {_HELP}")
    values = list(text)
    if any(isinstance(value, Mapping) for value in values):
        return (_field_of(value, field, number, name) for number, value in enumerate(values, 1))
    return values


def is_missing(value: object) -> bool:
    """Whether a value is ``None``, NaN, ``pandas.NA`` or ``pandas.NaT``."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def _dataset_column(dataset: Any, field: str, name: str) -> Iterator[object]:
    if isinstance(dataset, Mapping):
        raise ConfigError(
            f"{name}: expected one split, for example dataset['{next(iter(dataset), 'train')}']"
        )
    columns = getattr(dataset, "column_names", None)
    if columns is None:  # a column, or an iterable data set that does not know its columns
        return (_field_of(row, field, number, name) for number, row in enumerate(dataset, 1))
    names = _columns(field, columns, name)
    return (_field_of(row, field, 0, name) for row in dataset.select_columns(names))


def _columns(field: str, columns: Sequence[object], name: str) -> list[str]:
    """Return the columns that hold the field."""
    names = [column for column in top_names(field) if column in columns]
    if not names:
        raise ConfigError(f"{name}: {missing_field('column', field, map(str, columns), 'text_field=')}")
    return names


def _field_of(record: object, field: str, number: int, name: str) -> object:
    if not isinstance(record, Mapping):
        return record
    try:
        return find_value({key: None if is_missing(value) else value for key, value in record.items()}, field)
    except KeyError:
        what = f"{name}, record {number}" if number else name
        raise ConfigError(
            f"{what}: {missing_field('field', field, map(str, record), 'text_field=')}"
        ) from None


def _text(value: object, number: int, name: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name}: texts must be strings; text {number} is of type {type(value).__name__}")
    return value


def _line(record: dict[str, str | None]) -> bytes:
    try:
        return (json.dumps(record, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate, which the reader counts as an error of the text
        return (json.dumps(record) + "\n").encode()


def _one_path(given: str | os.PathLike[str], name: str) -> str:
    if isinstance(given, str) and not _is_path(given) and "://" not in given:
        if _looks_like_path(given):
            raise missing_file(Path(given))
        raise DataError(f"{name}: no such file or folder: '{short(given)}'; pass a text in a list: [text]")
    return os.fspath(given)


def _paths(values: list[object], name: str) -> list[str]:
    """Return the paths in a list, or nothing if it is a list of texts."""
    if any(isinstance(value, os.PathLike) for value in values):
        strange = [value for value in values if not isinstance(value, str | os.PathLike)]
        if strange:
            raise ConfigError(f"{name}: {strange[0]!r} among paths; {_HELP}")
        return [_one_path(value, name) for value in values if isinstance(value, str | os.PathLike)]
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) > _SURE and not any(_is_path(text) or _looks_like_path(text) for text in texts[:_SURE]):
        return []
    there = {text for text in texts if _is_path(text)}
    named = [text for text in texts if text in there or _looks_like_path(text)]
    if not named or (len(values) > _SURE and len(named) <= len(values) / 2):
        return []
    absent = next((text for text in named if text not in there), None)
    if len(named) < len(values):
        other = next(value for value in values if value not in named)
        raise DataError(f"{name}: paths and texts are mixed: '{named[0]}' and {short(repr(other))}; {_HELP}")
    if absent is not None:
        raise DataError(f"{missing_file(Path(absent))} (if it is a text, pass a pandas Series)")
    return texts


def _is_path(text: str) -> bool:
    """Whether a string names something that can be read: a file or folder that exists, a glob that matches."""
    if text == "-" or text.startswith("hf://") or (is_url(text) and not any(map(str.isspace, text))):
        return True
    if not text.strip() or len(text) > _LONGEST_PATH or "\n" in text or "\0" in text:
        return False
    path = os.path.expanduser(text) if text.startswith("~/") else text
    if os.path.lexists(path):
        return True
    return glob.has_magic(path) and next(glob.iglob(path, recursive=True), None) is not None


def _looks_like_path(text: str) -> bool:
    if not text or len(text) > _LONGEST_PATH or any(map(str.isspace, text)) or "://" in text:
        return False
    return os.sep in text or "/" in text or format_of(Path(text)).known
