"""Expand inputs: files, folders and globs, here or by URL, standard input and Hub data sets."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from unmask.data.reading.errors import ReadErrors, TextError
from unmask.data.reading.files import File, cannot_open, format_of, holds_text, readable_stat, text_hint
from unmask.errors import DataError, did_you_mean, on_one_line
from unmask.progress import Progress
from unmask.remote.files import RemoteFile, list_files
from unmask.remote.systems import is_url

STDIN_NAME = "<stdin>"
_FileId = tuple[int, int]  # device and inode
_F = TypeVar("_F", Path, RemoteFile)


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


Input = File | HubInput | StdinInput
Given = str | File


class Expanded(list[Input]):
    """What :func:`expand_inputs` returned before, to be read again as it is."""


def as_list(inputs: Given | Iterable[Given]) -> list[Given]:
    """Return inputs as a list; a string or path is one input."""
    return [inputs] if isinstance(inputs, str | Path | RemoteFile) else list(inputs)


def expand_inputs(
    inputs: Given | Iterable[Given] | Expanded,
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
    if isinstance(inputs, Expanded):
        return inputs
    errors = errors or ReadErrors(progress)
    found = [item for given in as_list(inputs) for item in _expanded(given, errors)]
    if not found:
        raise DataError("no inputs; give files, folders, globs, URLs, '-' or hf://org/name")
    if sum(isinstance(item, StdinInput) for item in found) > 1:
        raise DataError("'-' is given more than once; standard input can be read only once")
    repeated = [item for item, count in Counter(found).items() if count > 1]
    if repeated:
        errors.progress.log(
            f"{repeated[0]} is given more than once and is read each time{_and_more(repeated)}"
        )
    return found


def describe_inputs(inputs: Given | Iterable[Given]) -> list[dict[str, str | int]]:
    """Return a fingerprint of inputs for JSON, from the names, sizes and times (of objects, ETags) of their files.

    Standard input never has the same one twice. The content of a Hub data set is not part of it.
    """
    return [_described(given) for given in as_list(inputs)]


def _described(given: Given) -> dict[str, str | int]:
    expanded = _expanded(given, ReadErrors(skip_unreadable=True))
    files = [item for item in expanded if isinstance(item, Path | RemoteFile)]
    if str(given) == "-":
        return {"input": "-", "time_ns": time.time_ns()}
    shown = str(given).encode("utf-8", "backslashreplace").decode("utf-8")
    if not files:
        return {"input": shown}
    digest, size = hashlib.sha256(), 0
    for path in files:
        if isinstance(path, RemoteFile):
            length, version = path.size, path.version
        else:
            found = readable_stat(path)
            length, version = found.st_size, str(found.st_mtime_ns)
        size += length
        digest.update(f"{path}\0{length}\0{version}\n".encode("utf-8", "surrogateescape"))
    return {"input": shown, "files": len(files), "bytes": size, "names_sizes_times": digest.hexdigest()}


def _expanded(given: Given, errors: ReadErrors) -> list[Input]:
    if isinstance(given, RemoteFile):
        return [given]
    if isinstance(given, str):
        if given == "-":
            return [StdinInput()]
        if given.startswith("hf://"):
            return [HubInput.parse(given)]
        if not given.strip():
            raise DataError("an empty input; give a file, a folder, a glob, a URL, '-' or hf://org/name")
        if is_url(given):
            return list(_remote_files(given, errors))
        if "\0" in given:
            raise DataError("a name with a NUL character, which no file can have", path=given)
    if is_url(given):
        raise DataError("give a URL as a string: as a Path it loses a slash", path=given)
    path = Path(given).expanduser() if str(given).startswith("~/") else Path(given)
    if not os.path.lexists(path) and isinstance(given, str) and glob.has_magic(given):
        return list(_glob_files(str(path), errors))
    return list(_files_of(path, errors))


def _remote_files(url: str, errors: ReadErrors) -> list[RemoteFile]:
    found = list_files(url)
    if found[0].url == url:
        return list(found)
    root = (
        re.split(r"[*?[]", url, maxsplit=1)[0].rpartition("/")[0] if glob.has_magic(url) else url.rstrip("/")
    )
    hidden = [file for file in found if "/." in str(file).removeprefix(root)]
    seen = [file for file in found if file not in set(hidden)]
    return _text_files(root, _without_metadata(seen), hidden, errors)


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
        hint = text_hint(pattern)
        raise DataError(f"the glob matches no file{hint}; expected at least one", path=pattern)
    return list(files)


def _folder_files(folder: Path, errors: ReadErrors) -> list[Path]:
    hidden: list[Path] = []
    return _text_files(folder, _without_metadata(_walk(folder, hidden, errors)), hidden, errors)


def _text_files(folder: Path | str, found: list[_F], hidden: list[_F], errors: ReadErrors) -> list[_F]:
    """Return the files of a folder that hold text, and count the others."""
    files: list[_F] = []
    foreign: list[_F] = []
    for path in found:
        try:
            if isinstance(path, Path):
                readable_stat(path)
            (files if format_of(path).known or _holds_text(path) else foreign).append(path)
        except TextError as error:
            errors.skip_file(error)
    for skipped, why in ((hidden, "hidden"), (foreign, "not text, by its first bytes")):
        if skipped:
            counts = errors.counts.skipped_files
            counts[why] = counts.get(why, 0) + len(skipped)
            names = ", ".join(on_one_line(os.path.relpath(str(path), folder)) for path in skipped[:5])
            message = f"{folder}: skipped {len(skipped)} ({why}): {names}{_and_more(skipped, 5)}"
            errors.progress.log(message)
    if not files:
        errors.raise_first()
        what = f"no text among {len(hidden)} hidden and {len(foreign)} binary entries"
        what = what if hidden or foreign else "an empty folder"
        raise DataError(f"{what}; expected text, JSONL, CSV, TSV, Parquet or Arrow files", path=folder)
    return files


def _holds_text(file: File) -> bool:
    return _object_holds_text(file) if isinstance(file, RemoteFile) else holds_text(file)


@lru_cache(maxsize=1 << 16)
def _object_holds_text(file: RemoteFile) -> bool:
    """As :func:`holds_text`; inputs are described and read, and each object is looked at once."""
    return holds_text(file)


def _without_metadata(files: list[_F]) -> list[_F]:
    """Leave out what ``save_to_disk`` of the datasets library writes beside the text.

    Raises:
        DataError: it saved several splits, and none was chosen.
    """
    named = {PurePosixPath(str(file)): file for file in files}
    for path in named:
        if path.name == "dataset_dict.json" and (splits := _splits(path.parent, named)):
            what = f"a saved data set with {len(splits)} splits; give one of them: {', '.join(splits)}"
            raise DataError(what, path=_shown(path.parent))
    saved = {path.parent for path in named if path.name == "state.json"}
    saved = {path for path in saved if path / "dataset_info.json" in named}
    return [
        file
        for path, file in named.items()
        if path.parent not in saved or (path.suffix == ".arrow" and not path.name.startswith("cache-"))
    ]


def _splits(folder: PurePosixPath, names: Iterable[PurePosixPath]) -> list[str]:
    return sorted(
        _shown(path.parent) for path in names if path.name == "state.json" and path.parent.parent == folder
    )


def _shown(path: PurePosixPath) -> str:
    """Return a path, or the URL that it was made of."""
    return re.sub("^([a-z0-9]{2,}):/", r"\1://", str(path))


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


def _and_more(items: Sequence[object], shown: int = 1) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
