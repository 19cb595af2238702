"""Reading and writing files: JSON, atomic writes of files and of whole folders, SHA-256, locks between processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError, DataError, DiskError
from unmask.remote.systems import refuse_url

JsonDict = Mapping[str, Any]
"""A JSON object that is only read."""
LFS_POINTER = "this is a Git LFS pointer, not the file; run git lfs pull"
_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
_POLL = 0.05
_FAR = 1 << 30  # Windows locks bytes, which others cannot read then: one behind the end of any such file


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


_flock, _msvcrt = _module("fcntl"), _module("msvcrt")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or ``None`` where there is none.

    Raises:
        DataError: the file is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # broken, not UTF-8, an endless number, too deep
        raise DataError(f"not valid JSON ({error})", path=path, line=getattr(error, "lineno", None)) from None


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; a last line without its newline, of a killed process, is left out.

    Raises:
        DataError: another line is not a JSON object.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"not a JSON object ({error})", path=path, line=number) from None
        if not isinstance(row, dict):
            raise DataError(f"expected a JSON object, not {type(row).__name__}", path=path, line=number)
        rows.append(row)
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one object to a JSON-lines file in a single write."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(row) + "\n")


def keep_rows(path: Path, step: int) -> None:
    """Drop the metrics that a resumed run will write again: those after ``step``, and an incomplete last line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_atomically(path, "".join(kept))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``, text as UTF-8: a reader sees the old content or the new, never a part."""
    refuse_url(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it is forced to disk and becomes ``path`` when the block ends without an error.

    What was at ``path`` is replaced. If the block or the replacement fails, it stays as it was. A process killed
    between the two renames leaves it as ``.NAME.replaced``, which the next call or :func:`restore_folder` renames back.

    Raises:
        OSError: the folder could not be written.
    """
    refuse_url(path)
    path = path.resolve()
    partial = partial_folder(path)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        restore_folder(path)
        partial.mkdir(parents=True)
        yield partial
        readable = partial.stat().st_mode & 0o666  # some libraries write files that nobody else may read
        for folder, _, files in os.walk(partial):
            for name in files:
                Path(folder, name).chmod(readable)
            for name in (*files, "."):
                sync_to_disk(Path(folder, name))
        if path.exists():
            path.rename(_replaced(path))
        partial.rename(path)
        sync_to_disk(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        restore_folder(path)
        raise
    shutil.rmtree(_replaced(path), ignore_errors=True)


def partial_folder(path: Path) -> Path:
    """Return the folder in which a folder is made before it gets its name."""
    path = path.absolute()
    return path.with_name(f".{path.name}.partial")


def require_new(path: Path) -> None:
    """Find out before the work whether a folder can be written.

    Raises:
        ConfigError: something is there already.
        DiskError: no folder can be made there.
    """
    refuse_url(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path}: exists already and is not an empty folder; choose another name")
    place = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not place.is_dir():
        raise DiskError(f"{path}: {place} is a file, not a folder; choose another place")
    if not os.access(place, os.W_OK):
        raise DiskError(
            f"{path}: nothing can be written in {place}; choose another place, or change its permissions"
        )


def restore_folder(path: Path) -> None:
    """Rename a folder back that a killed :func:`new_folder` had moved away, unless the new one is in its place."""
    replaced = _replaced(path)
    if path.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        with contextlib.suppress(
            FileNotFoundError, NotADirectoryError
        ):  # there is none, or another process renamed it first
            replaced.rename(path)


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a loss of power; Windows has no such call for folders."""
    try:
        handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file holds only the pointer that a Git repository keeps in place of a large file."""
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS_HEAD)) == _LFS_HEAD
    except OSError:
        return False


def sha256(content: bytes | Path) -> str:
    """Return the SHA-256 of bytes, or of the file at a path, in hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock_file(handle: int, *, wait: bool) -> None:
    """Lock an open file for this process alone; the system releases it when the process ends, however it ends.

    Args:
        handle: its descriptor, which holds the lock until it is closed.
        wait: for another process that holds it.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file system, or the system, has no locks.
    """
    if _flock is not None:
        _flock.flock(handle, _flock.LOCK_EX if wait else _flock.LOCK_EX | _flock.LOCK_NB)
        return
    if _msvcrt is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    while True:
        place = os.lseek(handle, 0, os.SEEK_CUR)
        try:
            os.lseek(handle, _FAR, os.SEEK_SET)
            _msvcrt.locking(handle, _msvcrt.LK_NBLCK, 1)
            return
        except OSError as error:
            if not wait:
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK)) from error
        finally:
            os.lseek(handle, place, os.SEEK_SET)
        time.sleep(_POLL)
