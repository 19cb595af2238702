"""Files by URL: list them, and read them in blocks."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from glob import has_magic
from typing import Any, BinaryIO, cast

from unmask.errors import DataError, DiskError
from unmask.remote.systems import LOCAL, changed, explained, open_system

BLOCK = 8 << 20
"""Bytes requested at once; a request that fails is tried again, so that this much is read twice at most."""

_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "content_md5", "mtime", "created", "last_modified")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file by URL, as it was listed.

    Attributes:
        url: its URL.
        size: its bytes.
        version: its ETag or whatever else changes with its content.
    """

    url: str
    size: int
    version: str

    def __str__(self) -> str:
        return self.url

    def open(self) -> BinaryIO:
        """Open it for reading in blocks; it is an error if it is no longer what was listed.

        Raises:
            DataError: here or while it is read, what prevents it.
        """
        return cast(BinaryIO, _Stream(self))

    def read(self) -> bytes:
        """Return the content of a small file."""
        with self.open() as file:
            return file.read(self.size)


@lru_cache(maxsize=64)
def list_files(url: str) -> tuple[RemoteFile, ...]:
    """Return the files of a folder, of a glob or of one file, by name; a second call lists nothing.

    A glob matches as one of local files does: ``*`` within a name, ``**`` any folders, and a folder gives its files.

    Raises:
        DataError: there is nothing, or it cannot be listed.
    """
    files = listed(url)
    if not files:
        what = (
            "the glob matches no object; expected at least one"
            if has_magic(url)
            else "no such object or folder"
        )
        raise DataError(what, path=url)
    return files


def listed(url: str, kind: type[DataError] | type[DiskError] = DataError) -> tuple[RemoteFile, ...]:
    """As :func:`list_files`, but anew, and none where there is nothing; errors are of a ``kind``."""
    system, path = open_system(url, writing=kind is DiskError)
    url, path = url.rstrip("/"), path.rstrip("/")
    magic = re.search(r"[*?[]", path)
    base, shown = path, url
    with explained(url, kind):
        if magic:
            base, _, stem = path[: magic.start()].rpartition("/")
            shown = url[: len(url) - len(path) + len(base)]
            options = {"prefix": stem} if stem and not url.startswith(LOCAL) else {}
            found = system.find(base, detail=True, **options)
            found = {name: info for name, info in found.items() if _matches(name, path)}
        else:
            try:
                found = system.find(path, detail=True)
            except PermissionError:  # one object may be read without the right to list its bucket
                found = {path: system.info(path)}
        found = {name: info or system.info(name) for name, info in found.items()}
    return tuple(
        RemoteFile(shown + name[len(base) :], int(info["size"] or 0), _version(info))
        for name, info in sorted(found.items())
        if info["type"] == "file" and not name.endswith("/")
    )


def _matches(name: str, pattern: str) -> bool:
    """Return whether a glob matches a name, or the name of a folder above it."""
    from fsspec.utils import glob_translate

    expression = re.compile(glob_translate(pattern))
    above = [name[: match.start()] for match in re.finditer("/", name)]
    return any(map(expression.match, [name] if "**" in pattern else [*above, name]))


def _version(info: dict[str, Any]) -> str:
    found = next((info[key] for key in _VERSIONS if info.get(key)), "")
    return str(found.timestamp() if isinstance(found, datetime) else found)  # fsspec's memory has both


class _Stream(io.RawIOBase):
    """Reads a :class:`RemoteFile` in blocks that are tried again by its library."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._listed = file
        system, path = open_system(file.url)
        with explained(file.url):
            self._file = system.open(path, "rb", block_size=BLOCK)
            self._info = lambda: system.info(path)
            self._check(getattr(self._file, "details", None) or self._info())
        self._checked = file.size <= BLOCK  # with one request

    def _check(self, info: dict[str, Any]) -> None:
        if (info["size"], _version(info)) != (self._listed.size, self._listed.version):
            raise changed(self._listed.url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        with explained(self._listed.url):
            data = self._file.read(len(buffer))
            if not data and len(buffer) and not self._checked and self.tell() == self._listed.size:
                self._check(self._info())
                self._checked = True
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
