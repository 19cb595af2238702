"""Files of the shards of a prepared corpus, see :mod:`unmask.data.corpus`.

Files are mapped into memory where they are read. A mapped file takes a descriptor, so only those used last stay open.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unmask.errors import DataError
from unmask.storage import sha256

PARTS = ("tokens", "lengths", "keys")
_SHARD_TOKENS = 1 << 29  # a gigabyte of 16-bit ids
_MOST_OPEN, _FEW = 4096, 8


class ArrayFile:
    """A one-dimensional array in a ``.npy`` file.

    Args:
        path: of the file.
        entries: of the array.

    Raises:
        ValueError: the file is damaged: its header or its size is not that of such an array.
    """

    def __init__(self, path: Path, entries: int) -> None:
        self.path, self._entries = path, entries
        self._array: np.ndarray | None = None
        self._used = False
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, self.dtype = np.lib.format.read_array_header_1_0(file)
            self._begin = file.tell()
        size = self._begin + entries * self.dtype.itemsize
        if self.dtype.kind not in "iu":
            raise ValueError(f"expected integers, not {self.dtype}")
        if shape != (entries,) or path.stat().st_size != size:
            raise ValueError(
                f"expected {entries:,} entries in {size:,} bytes, not {shape} in {path.stat().st_size:,}"
            )

    def __len__(self) -> int:
        return self._entries

    def array(self) -> np.ndarray:
        """Return the array, mapped into memory."""
        found = self._array
        if found is None:
            with _lock:
                found = self._array
                if found is None:
                    _make_room()
                    found = self._map()
        self._used = True
        return found

    def _map(self) -> np.ndarray:
        found = np.zeros(0, dtype=self.dtype)
        if self._entries:
            with self.path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            found = np.frombuffer(content, self.dtype, self._entries, self._begin)
        _mapped.append(weakref.ref(self))
        self._array = found
        return found


_lock = threading.Lock()
_mapped: deque[weakref.ref[ArrayFile]] = deque()


def _make_room() -> None:
    """Close files, first those that were not used since the last time, until one more may be mapped."""
    most = _most_open()
    while len(_mapped) >= most:
        reference = _mapped.popleft()
        file = reference()
        if file is not None and file._used:
            file._used = False
            _mapped.append(reference)
        elif file is not None:
            file._array = None


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder in which shards are made: before it is removed their files are closed, as Windows wants it."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix=prefix, ignore_cleanup_errors=True)

    def cleanup(self) -> None:
        with _lock:
            for file in filter(None, [reference() for reference in _mapped]):
                if Path(self.name) in file.path.parents:
                    file._array = None
        super().cleanup()


def _most_open() -> int:
    """Return how many files may be mapped: a quarter of the descriptors that a process may have."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:  # Windows
        return 64
    return _MOST_OPEN if limit < 0 else max(8, min(limit // 4, _MOST_OPEN))


class Lengths:
    """The lengths of all documents, in memory in as few bytes as the longest needs; indexed like an ``int64`` array.

    Args:
        files: of the shards.
        tokens: of each shard.

    Raises:
        DataError: the lengths of a shard do not add up to its tokens.
    """

    def __init__(self, files: Sequence[ArrayFile], tokens: Sequence[int]) -> None:
        self._array = np.empty(sum(len(file) for file in files), dtype=np.uint8)
        begin = 0
        for file, total in zip(files, tokens, strict=True):
            part = file.array()
            longest = int(part.max(initial=0))
            # A damaged length could ask for more memory than there is, before checksums are compared.
            if part.min(initial=0) < 0 or longest > total or part.sum() != total:
                raise DataError(
                    f"the lengths of the documents do not add up to {total:,} tokens: the file is damaged; prepare it again",
                    path=file.path,
                )
            needed = np.promote_types(self._array.dtype, np.min_scalar_type(longest))
            self._array = self._array.astype(needed, copy=False)
            self._array[begin : begin + len(part)] = part
            begin += len(part)

    def __len__(self) -> int:
        return len(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._array.astype(dtype or np.int64)

    def __getitem__(self, at: Any) -> Any:
        """Return the lengths at an index: a number, a slice, ``bool`` or ``int64`` of any shape."""
        return self._array[at if isinstance(at, slice) else np.asarray(at)].astype(np.int64)


class Column:
    """An array of all shards, end to end; indexed like an array."""

    def __init__(self, files: Sequence[ArrayFile], dtype: type[np.generic]) -> None:
        self._files, self.dtype = files, np.dtype(dtype)
        self.begins = np.cumsum([0, *(len(file) for file in files)])

    def __len__(self) -> int:
        return int(self.begins[-1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self[0 : len(self)]
        return found if dtype is None else found.astype(dtype)

    def tolist(self) -> list[int]:
        """Return all entries."""
        entries: list[int] = self[0 : len(self)].tolist()
        return entries

    def __getitem__(self, at: Any) -> Any:
        """Return a copy of the entries at an index: a number, a slice, ``bool`` or ``int64`` of any shape."""
        if isinstance(at, slice):
            return self._slice(*at.indices(len(self)))
        at = np.asarray(at)
        if at.dtype.kind == "b":
            at = np.flatnonzero(at)
        if len(self._files) == 1:
            return self._files[0].array()[at]
        order, parts = self.by_shard(at.reshape(-1))
        places = at.reshape(-1)[order]
        found = [self._files[shard].array()[places[part] - self.begins[shard]] for shard, part in parts]
        out = np.empty(len(order), dtype=self.dtype)
        out[order] = np.concatenate([out[:0], *found])
        return out.reshape(at.shape)[()]

    def by_shard(self, at: np.ndarray) -> tuple[np.ndarray, list[tuple[int, slice]]]:
        """Return the order that sorts ``int64 [N]`` entries by their shards, and the part of it that each shard has."""
        shard = np.searchsorted(self.begins, at, side="right") - 1
        shard = shard.astype(np.min_scalar_type(len(self._files)))  # small numbers are sorted faster
        order = np.argsort(shard, kind="stable")
        shard = shard[order]
        bounds = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(at)]
        return order, [(int(shard[a]), slice(a, b)) for a, b in pairwise(bounds) if b > a]

    def _slice(self, begin: int, end: int, step: int) -> np.ndarray:
        if step != 1:
            return self[np.arange(begin, end, step)]
        out = np.empty(max(0, end - begin), dtype=self.dtype)
        if len(out):
            first, last = (np.searchsorted(self.begins, (begin, end - 1), side="right") - 1).tolist()
            for shard in range(first, last + 1):
                start = int(self.begins[shard])
                part = self._files[shard].array()[max(0, begin - start) : end - start]
                place = max(0, start - begin)
                out[place : place + len(part)] = part  # a copy, so that the file can be closed
        return out


def open_part(folder: Path, shards: Sequence[dict[str, Any]], part: str) -> list[ArrayFile]:
    """Return an array of each shard of a manifest: its ``tokens``, ``lengths`` or ``keys``.

    Raises:
        DataError: a file is damaged.
    """
    entries = "tokens" if part == "tokens" else "documents"
    files = [_open(folder / _file(shard["name"], part), shard[entries]) for shard in shards]
    if (
        len(files) <= _FEW
    ):  # mapped at once, they can be read where their folder is removed, as a temporary one may be
        for file in files:
            file.array()
    return files


def _open(path: Path, entries: int) -> ArrayFile:
    try:
        return ArrayFile(path, entries)
    except (ValueError, EOFError) as error:
        raise DataError(f"this part of a shard is damaged ({error}); prepare it again", path=path) from None


@dataclass
class ShardWriter:
    """Writes documents into shards; ``shards`` describes those that are written. It holds no documents in memory."""

    folder: Path
    dtype: np.dtype[Any]
    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    _files: dict[str, _Growing] = field(default_factory=dict)

    def add(self, texts: list[str], arrays: list[np.ndarray], keys: list[int]) -> None:
        """Add documents: their texts, token ids and hashes."""
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        self.documents += len(arrays)
        self.tokens += int(lengths.sum())
        self.bytes += sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        begin = 0
        while begin < len(arrays):
            held = self._files["tokens"].entries if self._files else 0
            full = np.searchsorted(np.cumsum(lengths[begin:]), _SHARD_TOKENS - held)
            part = slice(begin, begin + int(full) + 1)
            self._write(arrays[part], lengths[part], np.array(keys[part], dtype=np.uint64))
            begin = part.stop

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {
            _file(shard["name"], part): checksum
            for shard in self.shards
            for part, checksum in shard["sha256"].items()
        }

    def close(self) -> None:
        """Write the last shard."""
        if self._files:
            self._finish()

    def _write(self, arrays: list[np.ndarray], lengths: np.ndarray, keys: np.ndarray) -> None:
        if not self._files:
            name, dtypes = self._name, (self.dtype, lengths.dtype, keys.dtype)
            self._files = {
                part: _Growing(self.folder / _file(name, part), dtype)
                for part, dtype in zip(PARTS, dtypes, strict=True)
            }
        parts = np.concatenate(arrays).astype(self.dtype), lengths, keys
        for file, array in zip(self._files.values(), parts, strict=True):
            file.append(array)
        if self._files["tokens"].entries >= _SHARD_TOKENS:
            self._finish()

    def _finish(self) -> None:
        files, self._files = self._files, {}
        sums = {part: file.close() for part, file in files.items()}
        counts = {"documents": files["lengths"].entries, "tokens": files["tokens"].entries}
        self.shards.append({"name": self._name, **counts, "sha256": sums})

    @property
    def _name(self) -> str:
        return f"shard-{len(self.shards):05d}"


class _Growing:
    """A ``.npy`` file that is written piece by piece; its header has room for any number of entries."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype, self.entries = path, dtype, 0
        self._file = path.open("wb")
        self._begin = self._write_header()

    def append(self, array: np.ndarray) -> None:
        self._file.write(array.data)
        self.entries += len(array)

    def close(self) -> str:
        """Complete the file and force it to disk; return its checksum."""
        with self._file:
            self._file.seek(0)
            if self._write_header() != self._begin:
                raise AssertionError("the header of an array grew with its length")
            self._file.flush()
            os.fsync(self._file.fileno())
        return sha256(self.path)

    def _write_header(self) -> int:
        descr = np.lib.format.dtype_to_descr(self.dtype)
        content = {"descr": descr, "fortran_order": False, "shape": (self.entries,)}
        np.lib.format.write_array_header_1_0(self._file, content)
        return self._file.tell()


def _file(shard: str, part: str) -> str:
    return f"{shard}.{part}.npy"
