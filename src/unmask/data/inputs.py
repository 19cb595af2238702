"""What the inputs of a command stand for: files, the files of folders and globs, standard input, Hub data sets."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

from unmask.data.files import cannot_open, format_of, holds_text, readable_stat
from unmask.errors import DataError, did_you_mean

STDIN_NAME = "<stdin>"
Notice = Callable[[str], None]
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


def expand_inputs(inputs: Iterable[str | Path], *, notice: Notice | None = None) -> list[Input]:
    """Return what the inputs stand for, in their order; folders and globs become their files, sorted by name.

    Of a folder, hidden entries and files that hold no text are left out, which ``notice`` is told. A
    :class:`~pathlib.Path` is always a file or folder, never a glob.

    Raises:
        DataError: an input does not exist, matches nothing, or can never be read (a device, a loop of links).
    """
    say = notice or (lambda text: None)
    found = [item for given in inputs for item in _expanded(given, say)]
    if not found:
        raise DataError("no inputs; give files, folders, globs, '-' or hf://org/name")
    if sum(isinstance(item, StdinInput) for item in found) > 1:
        raise DataError("'-' stands among the inputs more than once; standard input can be read only once")
    repeated = [item for item, count in Counter(found).items() if count > 1]
    if repeated:
        say(f"{repeated[0]} is named more than once and is read each time{_and_more(repeated)}")
    return found


def describe_inputs(inputs: Iterable[str | Path]) -> list[dict[str, str | int]]:
    """Return, ready for JSON, what tells whether inputs are still the same: sizes and times of all their files.

    Standard input is never the same twice. The content of a Hub data set is not looked at.
    """
    return [_described(given) for given in inputs]


def _described(given: str | Path) -> dict[str, str | int]:
    files = [item for item in _expanded(given, lambda text: None) if isinstance(item, Path)]
    if str(given) == "-":
        return {"input": "-", "time_ns": time.time_ns()}
    if not files:
        return {"input": str(given)}
    digest, size = hashlib.sha256(), 0
    for path in files:
        found = readable_stat(path)
        size += found.st_size
        digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return {"input": str(given), "files": len(files), "bytes": size, "names_sizes_times": digest.hexdigest()}


def _expanded(given: str | Path, say: Notice) -> list[Input]:
    if isinstance(given, str):
        if given == "-":
            return [StdinInput()]
        if given.startswith("hf://"):
            return [HubInput.parse(given)]
        if not given.strip():
            raise DataError("an empty input; give a file, a folder, a glob, '-' or hf://org/name")
        if "://" in given:
            raise DataError("only hf:// addresses can be read; download it first", path=given)
    path = Path(given).expanduser() if str(given).startswith("~/") else Path(given)
    if not os.path.lexists(path) and isinstance(given, str) and glob.has_magic(given):
        return list(_glob_files(str(path), say))
    return list(_files_of(path, say))


def _files_of(path: Path, say: Notice) -> list[Path]:
    """Return the file itself, or the files of the folder."""
    return _folder_files(path, say) if stat.S_ISDIR(readable_stat(path).st_mode) else [path]


def _glob_files(pattern: str, say: Notice) -> list[Path]:
    recursive = "**" in pattern
    if recursive:
        # glob follows a link that leads back to a folder above it for ever: walk there first, which finds it.
        root = os.path.dirname(re.split(r"[*?[]", pattern, maxsplit=1)[0])
        deque(_walk(Path(root), set(), []), maxlen=0)
    matches = sorted(Path(match) for match in glob.iglob(pattern, recursive=True))
    # What a folder holds is matched by ** itself; elsewhere a folder stands for its files, as in a shell.
    found = (_files_of(match, say) for match in matches if not (recursive and os.path.isdir(match)))
    files = list(dict.fromkeys(chain.from_iterable(found)))
    if not files:
        raise DataError("the glob matches no file; expected at least one", path=pattern)
    return files


def _enter(folder: Path, above: set[_Identity]) -> None:
    found = readable_stat(folder)
    if (found.st_dev, found.st_ino) in above:
        raise DataError(
            "a loop of symbolic links: the folder lies inside itself; remove the link", path=folder
        )
    above.add((found.st_dev, found.st_ino))


def _folder_files(folder: Path, say: Notice) -> list[Path]:
    hidden: list[Path] = []
    files: list[Path] = []
    foreign: list[Path] = []
    for path in _walk(folder, set(), hidden):
        readable_stat(path)
        (files if format_of(path).known or holds_text(path) else foreign).append(path)
    for left_out, why in ((hidden, "hidden"), (foreign, "not text, by its first bytes")):
        if left_out:
            names = ", ".join(str(path.relative_to(folder)) for path in left_out[:5])
            say(f"{folder}: left out {len(left_out)} ({why}): {names}{_and_more(left_out, 5)}")
    if not files:
        what = f"no text among {len(hidden)} hidden and {len(foreign)} binary entries"
        what = what if hidden or foreign else "an empty folder"
        raise DataError(f"{what}; expected text, JSONL, CSV, TSV or Parquet files", path=folder)
    return files


def _walk(folder: Path, above: set[_Identity], hidden: list[Path]) -> Iterator[Path]:
    """Yield the files below a folder, depth first in the order of the names; links are followed."""
    above = set(above)
    _enter(folder, above)
    try:
        names = sorted(os.listdir(folder))
    except OSError as fault:
        raise cannot_open(folder, fault) from None
    for name in names:
        path = folder / name
        if name.startswith("."):
            hidden.append(path)
        elif os.path.isdir(path):
            yield from _walk(path, above, hidden)
        else:
            yield path


def _and_more(items: list[Path] | list[Input], shown: int = 1) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
