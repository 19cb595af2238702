"""Sets of documents of a corpus in a bit each, and sums over documents of which only every 16th is kept.

A corpus may have a billion documents, and every process of a run holds its sets and sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_GROUP = 64  # bytes of bits, whose sums are kept
_AT_ONCE = 1 << 17  # documents
_ROWS_AT_ONCE = 1 << 14
_DENSE = 1 << 20
"""Documents up to which all sums are kept."""
_BLOCK = 16
"""Of more documents, every so many-th sum."""
_ONES = np.array([number.bit_count() for number in range(256)], dtype=np.uint8)

At = np.ndarray | slice
"""Documents: any array of ``int64`` numbers, or a slice of all."""


def slices(count: int) -> Iterator[slice]:
    """Yield slices of so many documents, 131,072 at a time."""
    for begin in range(0, count, _AT_ONCE):
        yield slice(begin, min(begin + _AT_ONCE, count))


class DocumentSet:
    """Some documents of a corpus, in ascending order; indexed like an array of their ``int64`` numbers.

    Args:
        size: documents of the corpus.
        bits: ``uint8``, a bit for each document, the first in the lowest; all documents without it.
    """

    def __init__(self, size: int, bits: np.ndarray | None = None) -> None:
        self.size, self._bits = size, None
        if bits is not None:
            padded = np.zeros((max(1, -(-size // (8 * _GROUP))), _GROUP), dtype=np.uint8)
            padded.reshape(-1)[: len(bits)] = bits
            self._ends = np.cumsum(_ONES[padded].sum(axis=1, dtype=np.int64))
            self._bits = padded.reshape(-1) if self._ends[-1] < size else None

    @staticmethod
    def of(numbers: Any, size: int) -> DocumentSet:
        """Return the set of ``int64`` numbers in ascending order, or all where there are none given."""
        if numbers is None or isinstance(numbers, DocumentSet):
            return DocumentSet(size) if numbers is None else numbers
        numbers = np.asarray(numbers, dtype=np.int64)
        if len(numbers) and ((np.diff(numbers) <= 0).any() or numbers[0] < 0 or numbers[-1] >= size):
            raise ValueError(f"expected ascending numbers of documents below {size}")
        chosen = np.zeros(size, dtype=bool)
        chosen[numbers] = True
        return DocumentSet(size, np.packbits(chosen, bitorder="little"))

    def __len__(self) -> int:
        return self.size if self._bits is None else int(self._ends[-1])

    def __invert__(self) -> DocumentSet:
        if self._bits is None:
            return DocumentSet(self.size, np.zeros(0, dtype=np.uint8))
        bits = ~self._bits[: -(-self.size // 8)]
        if self.size % 8:
            bits[-1] &= np.uint8((1 << self.size % 8) - 1)
        return DocumentSet(self.size, bits)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype=np.int64), *self.blocks()]).astype(
            dtype or np.int64, copy=False
        )

    def __iter__(self) -> Iterator[int]:
        for block in self.blocks():
            yield from block.tolist()

    def tolist(self) -> list[int]:
        """Return the numbers."""
        numbers: list[int] = np.asarray(self).tolist()
        return numbers

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the numbers, some at a time."""
        for part in slices(self.size):
            yield np.flatnonzero(self.has(part)) + part.start

    def has(self, documents: At) -> np.ndarray:
        """Return for each document whether it is in the set."""
        if self._bits is None:
            count = documents.stop - documents.start if isinstance(documents, slice) else documents.shape
            return np.ones(count, dtype=bool)
        if isinstance(documents, slice):
            first = documents.start >> 3
            bits = np.unpackbits(self._bits[first : -(-documents.stop // 8)], bitorder="little").view(bool)
            return bits[documents.start - 8 * first : documents.stop - 8 * first]
        found: np.ndarray = (self._bits[documents >> 3] >> (documents & 7).astype(np.uint8) & 1).astype(bool)
        return found

    def __getitem__(self, places: Any) -> np.ndarray:
        """Return the numbers at places of the set."""
        if isinstance(places, slice):
            return np.asarray(self)[places]
        places = np.asarray(places)
        if places.dtype.kind == "b":
            return np.asarray(self)[places]
        if self._bits is None:
            return places
        return _in_parts(self._select, places.reshape(-1)).reshape(places.shape)

    def _select(self, places: np.ndarray) -> np.ndarray:
        group = np.searchsorted(self._ends, places, side="right")
        before = self._ends[group] - _ONES[self._rows(group)].sum(axis=1, dtype=np.int64)
        ones = np.cumsum(np.unpackbits(self._rows(group), axis=1, bitorder="little"), axis=1, dtype=np.int16)
        return group * 8 * _GROUP + (ones <= (places - before)[:, None]).sum(axis=1)

    def places(self, documents: np.ndarray) -> np.ndarray:
        """Return the places in the set of documents that are in it."""
        return documents if self._bits is None else _in_parts(self._places, documents)

    def _places(self, documents: np.ndarray) -> np.ndarray:
        group = documents // (8 * _GROUP)
        bits = np.unpackbits(self._rows(group), axis=1, bitorder="little")
        behind = np.arange(8 * _GROUP) >= (documents % (8 * _GROUP))[:, None]
        return self._ends[group] - (bits.view(bool) & behind).sum(axis=1)

    def _rows(self, groups: np.ndarray) -> np.ndarray:
        assert self._bits is not None
        return self._bits.reshape(-1, _GROUP)[groups]


class RunningSums:
    """The sums of a number of each document over all documents before it.

    Args:
        count: documents.
        values: returns ``int64`` numbers of documents, which are read again where a sum is needed that is not kept.
    """

    def __init__(self, count: int, values: Callable[[At], np.ndarray]) -> None:
        self.count, self._values = count, values
        self.block = 1 if count <= _DENSE else _BLOCK
        self._ends = np.zeros(-(-count // self.block), dtype=np.int64)
        total = 0
        for part in slices(count):
            ends = total + np.cumsum(values(part))
            last = np.minimum(
                np.arange(self.block - 1, len(ends) + self.block - 1, self.block), len(ends) - 1
            )
            self._ends[part.start // self.block :][: len(last)] = ends[last]
            total = int(ends[-1])

    @property
    def total(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def before(self, documents: np.ndarray) -> np.ndarray:
        """Return ``int64 [N]``: the sums before ``int64 [N]`` documents."""
        return _in_parts(self._before, documents)

    def _before(self, documents: np.ndarray) -> np.ndarray:
        block = documents // self.block
        before = self._block_before(block)
        if self.block == 1:
            return before
        inside = np.arange(self.block) < (documents % self.block)[:, None]
        return before + (self._values(self._members(block)) * inside).sum(axis=1)

    def find(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the last documents before which the sums are at most ``int64 [N]``, and the sums before them."""
        if self.block == 1:
            return self._find(sums)
        parts = [self._find(sums[at : at + _ROWS_AT_ONCE]) for at in range(0, len(sums), _ROWS_AT_ONCE)]
        return _joined([part[0] for part in parts]), _joined([part[1] for part in parts])

    def _find(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        block = np.searchsorted(self._ends, sums, side="right")
        before = self._block_before(block)
        if self.block == 1:
            return block, before
        members = self._members(block)
        values = self._values(members)
        ends = np.cumsum(values, axis=1)
        ends += before[:, None]
        at = np.arange(len(sums)), (ends <= sums[:, None]).sum(axis=1)
        return members[at], ends[at] - values[at]

    def _block_before(self, block: np.ndarray) -> np.ndarray:
        return np.where(block > 0, self._ends[block - 1], 0)

    def _members(self, block: np.ndarray) -> np.ndarray:
        return np.minimum(block[:, None] * self.block + np.arange(self.block), self.count - 1)


def _in_parts(function: Callable[[np.ndarray], np.ndarray], items: np.ndarray) -> np.ndarray:
    """Apply a function that needs memory for each of ``[N]`` items to some of them at a time."""
    if len(items) <= _ROWS_AT_ONCE:
        return function(items)
    return _joined([function(items[at : at + _ROWS_AT_ONCE]) for at in range(0, len(items), _ROWS_AT_ONCE)])


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.int64), *parts])
