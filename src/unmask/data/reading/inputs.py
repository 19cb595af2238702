"""Expand inputs: files, folders, globs, standard input and Hub data sets."""

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

from unmask.data.reading.errors import ReadErrors, TextError
from unmask.data.reading.files import cannot_open, format_of, holds_text, readable_stat
from unmask.errors import DataError, did_you_mean, on_one_line
from unmask.progress import Progress

STDIN_NAME = "<stdin>"
_FileId = tuple[int, int]  # device and inode


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
        """Parse an address; :class:`DataError` if it is malformed or has an unknown option."""
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


def as_list(inputs: str | Path | Iterable[str | Path]) -> list[str | Path]:
    """Return inputs as a list; a string or path is one input."""
    return [inputs] if isinstance(inputs, str | Path) else list(inputs)


def expand_inputs(
    inputs: str | Path | Iterable[str | Path],
    *,
    progress: Progress = Progress(),
    errors: ReadErrors | None = None,
) -> list[Input]:
    """Return files, standard input and Hub data sets in the order given; folders and globs give their files by name.

    Hidden entries of a folder and files without text are skipped, logged and counted in ``errors``, by default new ones
    that log to ``progress``; what cannot be read (a device, a loop of links) is an error unless they skip it. A
    :class:`~pathlib.Path` is always a file or folder, never a glob.

    Raises:
        DataError: an input itself does not exist, matches nothing, or can never be read; or a file of a folder cannot.
    """
    errors = errors or ReadErrors(progress)
    found = [item for given in as_list(inputs) for item in _expanded(given, errors)]
    if not found:
        raise DataError("no inputs; give files, folders, globs, '-' or hf://org/name")
    if sum(isinstance(item, StdinInput) for item in found) > 1:
        raise DataError("'-' is given more than once; standard input can be read only once")
    repeated = [item for item, count in Counter(found).items() if count > 1]
    if repeated:
        errors.progress.log(
            f"{repeated[0]} is given more than once and is read each time{_and_more(repeated)}"
        )
    return found


def describe_inputs(inputs: str | Path | Iterable[str | Path]) -> list[dict[str, str | int]]:
    """Return a fingerprint of inputs for JSON, from the names, sizes and times of their files.

    Standard input never has the same one twice. The content of a Hub data set is not part of it.
    """
    return [_described(given) for given in as_list(inputs)]


def _described(given: str | Path) -> dict[str, str | int]:
    files = [item for item in _expanded(given, ReadErrors(skip_unreadable=True)) if isinstance(item, Path)]
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


def _expanded(given: str | Path, errors: ReadErrors) -> list[Input]:
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
        return list(_glob_files(str(path), errors))
    return list(_files_of(path, errors))


def _files_of(path: Path, errors: ReadErrors) -> list[Path]:
    return _folder_files(path, errors) if stat.S_ISDIR(readable_stat(path).st_mode) else [path]


def _glob_files(pattern: str, errors: ReadErrors) -> list[Path]:
    recursive = "**" in pattern
    if recursive:
        # glob does not terminate in a loop of links: walk the folder first, which raises on one.
        root = Path(os.path.dirname(re.split(r"[*?[]", pattern, maxsplit=1)[0]))
        _walk(root, [], ReadErrors(strict=True))
    matches = sorted(Path(match) for match in glob.iglob(pattern, recursive=True))
    files: dict[Path, None] = {}
    for match in matches:
        # ** matches the files of folders itself; without it a matched folder gives its files.
        if not (recursive and os.path.isdir(match)):
            try:
                files.update(dict.fromkeys(_files_of(match, errors)))
            except DataError as error:
                errors.skip_file(error)
    if not files:
        errors.raise_first()
        raise DataError("the glob matches no file; expected at least one", path=pattern)
    return list(files)


def _folder_files(folder: Path, errors: ReadErrors) -> list[Path]:
    hidden: list[Path] = []
    files: list[Path] = []
    foreign: list[Path] = []
    for path in _without_metadata(_walk(folder, hidden, errors)):
        try:
            readable_stat(path)
            (files if format_of(path).known or holds_text(path) else foreign).append(path)
        except DataError as error:
            errors.skip_file(error)
    for skipped, why in ((hidden, "hidden"), (foreign, "not text, by its first bytes")):
        if skipped:
            counts = errors.counts.skipped_files
            counts[why] = counts.get(why, 0) + len(skipped)
            names = ", ".join(on_one_line(str(path.relative_to(folder))) for path in skipped[:5])
            message = f"{folder}: skipped {len(skipped)} ({why}): {names}{_and_more(skipped, 5)}"
            errors.progress.log(message)
    if not files:
        errors.raise_first()
        what = f"no text among {len(hidden)} hidden and {len(foreign)} binary entries"
        what = what if hidden or foreign else "an empty folder"
        raise DataError(f"{what}; expected text, JSONL, CSV, TSV, Parquet or Arrow files", path=folder)
    return files


def _without_metadata(files: list[Path]) -> list[Path]:
    """Leave out what ``save_to_disk`` of the datasets library writes beside the text.

    Raises:
        DataError: it saved several splits, and none was chosen.
    """
    names = set(files)
    for path in files:
        if path.name == "dataset_dict.json" and (splits := _splits(path.parent, names)):
            what = (
                f"a saved data set with {len(splits)} splits; give one of them: {', '.join(map(str, splits))}"
            )
            raise DataError(what, path=path.parent)
    saved = {path.parent for path in files if path.name == "state.json"}
    saved = {path for path in saved if path / "dataset_info.json" in names}
    return [
        path
        for path in files
        if path.parent not in saved or (path.suffix == ".arrow" and not path.name.startswith("cache-"))
    ]


def _splits(folder: Path, names: set[Path]) -> list[Path]:
    return sorted(path.parent for path in names if path.name == "state.json" and path.parent.parent == folder)


def _walk(folder: Path, hidden: list[Path], errors: ReadErrors) -> list[Path]:
    """Return the files below a folder, depth first by name, and add hidden entries to ``hidden``; links are followed."""
    files: list[Path] = []
    pending: list[tuple[Path, frozenset[_FileId]]] = [(folder, frozenset())]
    while pending:
        path, above = pending.pop()
        if path != folder and not os.path.isdir(path):
            files.append(path)
            continue
        try:
            inside, names = _list_folder(path, above)
        except DataError as error:
            if path == folder:
                raise
            is_loop = isinstance(error, TextError) and error.reason == "loop of links"
            (errors.note if is_loop else errors.skip_file)(error)  # a loop leaves nothing out
            continue
        hidden += [path / name for name in names if name.startswith(".")]
        seen = (path / name for name in reversed(names) if not name.startswith("."))
        pending += [(entry, inside) for entry in seen]
    return files


def _list_folder(folder: Path, above: frozenset[_FileId]) -> tuple[frozenset[_FileId], list[str]]:
    """Return the ids of a folder and those above it, and the sorted names in it; raise on a loop of links."""
    found = readable_stat(folder)
    if (found.st_dev, found.st_ino) in above:
        what = "a loop of symbolic links: the folder contains itself; remove the link"
        raise TextError("loop of links", what, path=folder)
    try:
        return above | {(found.st_dev, found.st_ino)}, sorted(os.listdir(folder))
    except OSError as error:
        raise cannot_open(folder, error) from None


def _and_more(items: list[Path] | list[Input], shown: int = 1) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
