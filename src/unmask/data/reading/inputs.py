"""Inputs of a command: files, the files of folders and globs, standard input, Hub data sets."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from unmask.data.reading.errors import Log, ReadErrors, TextError
from unmask.data.reading.files import cannot_open, format_of, holds_text, readable_stat
from unmask.errors import DataError, did_you_mean, on_one_line

STDIN_NAME = "<stdin>"
_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class StdinInput:
    """Standard input, written ``-``."""

    def __str__(self) -> str:
        return STDIN_NAME


@dataclass(frozen=True, slots=True)
class HubInput:
    """A Hub data set, written ``hf://org/name[:config][?config=…&split=…&column=…]``."""

    address: str
    name: str
    config: str | None = None
    split: str | None = None
    column: str | None = None

    def __str__(self) -> str:
        return self.address

    @classmethod
    def parse(cls, address: str) -> HubInput:
        """Read an address.

        Raises:
            DataError: it has another shape or an unknown option.
        """
        path, _, query = address.removeprefix("hf://").partition("?")
        name, _, config = path.removeprefix("datasets/").strip("/").partition(":")
        if not name or name.count("/") > 1:
            raise DataError("expected hf://org/name[:config][?split=…&column=…]", path=address)
        options = {"config": config} if config else {}
        for option in filter(None, query.split("&")):
            key, _, value = option.partition("=")
            if key not in ("config", "split", "column") or not value:
                near = did_you_mean(key, ["config", "split", "column"])
                what = f"'{option}'{near}: expected config=…, split=… or column=… after the '?'"
                raise DataError(what, path=address)
            options[key] = unquote(value)
        return cls(address, name, **options)


Input = Path | HubInput | StdinInput


def listed(inputs: str | Path | Iterable[str | Path]) -> list[str | Path]:
    """Return inputs as a list; a string is one input, not its letters."""
    return [inputs] if isinstance(inputs, str | Path) else list(inputs)


def expand_inputs(
    inputs: str | Path | Iterable[str | Path], *, log: Log | None = None, errors: ReadErrors | None = None
) -> list[Input]:
    """Return files, standard input and Hub data sets in the order given; folders and globs become their files by name.

    Hidden entries of a folder and files that hold no text are skipped and logged; what cannot be read (a device, a loop
    of links) is skipped and counted in ``errors``. A :class:`~pathlib.Path` is always a
    file or folder, never a glob.

    Raises:
        DataError: an input itself does not exist, matches nothing, or can never be read.
    """
    say = log or (lambda text: None)
    errors = errors or ReadErrors(log)
    found = [item for given in listed(inputs) for item in _expanded(given, say, errors)]
    if not found:
        raise DataError("no inputs; give files, folders, globs, '-' or hf://org/name")
    if sum(isinstance(item, StdinInput) for item in found) > 1:
        raise DataError("'-' is given more than once; standard input can be read only once")
    repeated = [item for item, count in Counter(found).items() if count > 1]
    if repeated:
        say(f"{repeated[0]} is named more than once and is read each time{_and_more(repeated)}")
    return found


def describe_inputs(inputs: str | Path | Iterable[str | Path]) -> list[dict[str, str | int]]:
    """Return, ready for JSON, what tells whether inputs are still the same: sizes and times of all their files.

    Standard input is never the same twice. The content of a Hub data set is not looked at.
    """
    return [_described(given) for given in listed(inputs)]


def _described(given: str | Path) -> dict[str, str | int]:
    files = [item for item in _expanded(given, lambda text: None, ReadErrors()) if isinstance(item, Path)]
    if str(given) == "-":
        return {"input": "-", "time_ns": time.time_ns()}
    shown = str(given).encode("utf-8", "backslashreplace").decode("utf-8")
    if not files:
        return {"input": shown}
    digest, size = hashlib.sha256(), 0
    for path in files:
        found = readable_stat(path)
        size += found.st_size
        digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return {"input": shown, "files": len(files), "bytes": size, "names_sizes_times": digest.hexdigest()}


def _expanded(given: str | Path, say: Log, errors: ReadErrors) -> list[Input]:
    if isinstance(given, str):
        if given == "-":
            return [StdinInput()]
        if given.startswith("hf://"):
            return [HubInput.parse(given)]
        if not given.strip():
            raise DataError("an empty input; give a file, a folder, a glob, '-' or hf://org/name")
        if "://" in given:
            raise DataError("only hf:// addresses can be read; download it first", path=given)
        if "\0" in given:
            raise DataError("a name with a NUL character, which no file can have", path=given)
    path = Path(given).expanduser() if str(given).startswith("~/") else Path(given)
    if not os.path.lexists(path) and isinstance(given, str) and glob.has_magic(given):
        return list(_glob_files(str(path), say, errors))
    return list(_files_of(path, say, errors))


def _files_of(path: Path, say: Log, errors: ReadErrors) -> list[Path]:
    """Return the file itself, or the files of the folder."""
    return _folder_files(path, say, errors) if stat.S_ISDIR(readable_stat(path).st_mode) else [path]


def _glob_files(pattern: str, say: Log, errors: ReadErrors) -> list[Path]:
    recursive = "**" in pattern
    if recursive:
        # glob follows a link that leads back to a folder above it for ever: walk there first, which finds it.
        root = Path(os.path.dirname(re.split(r"[*?[]", pattern, maxsplit=1)[0]))
        _walk(root, [], ReadErrors(strict=True))
    matches = sorted(Path(match) for match in glob.iglob(pattern, recursive=True))
    files: dict[Path, None] = {}
    for match in matches:
        # What a folder holds is matched by ** itself; elsewhere a folder stands for its files, as in a shell.
        if not (recursive and os.path.isdir(match)):
            try:
                files.update(dict.fromkeys(_files_of(match, say, errors)))
            except DataError as error:
                errors.note(error)
    if not files:
        errors.raise_first()
        raise DataError("the glob matches no file; expected at least one", path=pattern)
    return list(files)


def _folder_files(folder: Path, say: Log, errors: ReadErrors) -> list[Path]:
    hidden: list[Path] = []
    files: list[Path] = []
    foreign: list[Path] = []
    for path in _walk(folder, hidden, errors):
        try:
            readable_stat(path)
            (files if format_of(path).known or holds_text(path) else foreign).append(path)
        except DataError as error:
            errors.note(error)
    for left_out, why in ((hidden, "hidden"), (foreign, "not text, by its first bytes")):
        if left_out:
            names = ", ".join(on_one_line(str(path.relative_to(folder))) for path in left_out[:5])
            say(f"{folder}: left out {len(left_out)} ({why}): {names}{_and_more(left_out, 5)}")
    if not files:
        errors.raise_first()
        what = f"no text among {len(hidden)} hidden and {len(foreign)} binary entries"
        what = what if hidden or foreign else "an empty folder"
        raise DataError(f"{what}; expected text, JSONL, CSV, TSV or Parquet files", path=folder)
    return files


def _walk(folder: Path, hidden: list[Path], errors: ReadErrors) -> list[Path]:
    """Return the files below a folder, depth first in the order of the names; links are followed.

    Raises:
        DataError: the folder itself cannot be listed.
    """
    files: list[Path] = []
    pending: list[tuple[Path, frozenset[_Identity]]] = [(folder, frozenset())]
    while pending:
        path, above = pending.pop()
        if path != folder and not os.path.isdir(path):
            files.append(path)
            continue
        try:
            inside, names = _entered(path, above)
        except DataError as error:
            if path == folder:
                raise
            errors.note(error)
            continue
        hidden += [path / name for name in names if name.startswith(".")]
        seen = (path / name for name in reversed(names) if not name.startswith("."))
        pending += [(entry, inside) for entry in seen]
    return files


def _entered(folder: Path, above: frozenset[_Identity]) -> tuple[frozenset[_Identity], list[str]]:
    """Return the folders above what lies in a folder, itself among them, and the names in it, in order."""
    found = readable_stat(folder)
    if (found.st_dev, found.st_ino) in above:
        what = "a loop of symbolic links: the folder lies inside itself; remove the link"
        raise TextError("loop of links", what, path=folder)
    try:
        return above | {(found.st_dev, found.st_ino)}, sorted(os.listdir(folder))
    except OSError as error:
        raise cannot_open(folder, error) from None


def _and_more(items: list[Path] | list[Input], shown: int = 1) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
