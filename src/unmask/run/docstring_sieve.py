"""Let each docstring through once, without boilerplate; find those that share most of their text with others.

Worker processes import this module, so it imports nothing heavy.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_CHARACTERS = 40
"""Shorter docstrings ("Return the name.") teach nothing about context."""
MAX_REPEATS = 3
"""How often a paragraph of at least ``GRAM`` words may occur in the corpus; more copies are boilerplate."""
GRAM = 8
"""Words and marks of a shingle, by which near-duplicates are found: tables and signatures consist of marks for the most part."""


class Source(NamedTuple):
    """A file to read, and the dotted name of its module."""

    path: str
    module: str


class Found(NamedTuple):
    """A docstring as a worker hands it over.

    Attributes:
        counts: of the words in each paragraph.
        words: a 32-bit hash of every word.
        unit_counts: of the words and marks in each paragraph.
        units: a 32-bit hash of every word and mark.
    """

    source: Source
    name: str
    paragraphs: list[str]
    counts: list[int]
    words: bytes
    unit_counts: list[int]
    units: bytes


class Sieve:
    """Lets each docstring through once, and each long paragraph ``MAX_REPEATS`` times; the words decide."""

    def __init__(self) -> None:
        self.duplicates = 0
        self.boilerplate = 0
        self._seen: set[bytes] = set()
        self._paragraphs: Counter[bytes] = Counter()

    def admit(self, found: Found) -> Found | None:
        """Return the docstring without its boilerplate, or ``None`` if nothing new is left of it."""
        if found.words in self._seen:
            self.duplicates += 1
            return None
        self._seen.add(found.words)
        kept = self._without_boilerplate(found)
        if kept is found:
            return found
        if kept.words in self._seen or sum(map(len, kept.paragraphs)) < MIN_CHARACTERS:
            self.duplicates += 1
            return None
        self._seen.add(kept.words)
        return kept

    def _without_boilerplate(self, found: Found) -> Found:
        parts: list[tuple[str, int, bytes, int, bytes]] = []
        texts = zip(
            found.paragraphs,
            found.counts,
            _cut(found.words, found.counts),
            found.unit_counts,
            _cut(found.units, found.unit_counts),
            strict=True,
        )
        for part in texts:
            _, count, words, _, _ = part
            if count >= GRAM:
                self._paragraphs[words] += 1
            if self._paragraphs[words] <= MAX_REPEATS:
                parts.append(part)
        if len(parts) == len(found.paragraphs):
            return found
        self.boilerplate += len(found.paragraphs) - len(parts)
        return found._replace(
            paragraphs=[part[0] for part in parts],
            counts=[part[1] for part in parts],
            words=b"".join(part[2] for part in parts),
            unit_counts=[part[3] for part in parts],
            units=b"".join(part[4] for part in parts),
        )


def _cut(hashes: bytes, counts: list[int]) -> Iterator[bytes]:
    """Yield the hashes of each paragraph."""
    width, start = array("I").itemsize, 0
    for count in counts:
        yield hashes[start * width : (start + count) * width]
        start += count


def shared_shares(documents: list[bytes], others: list[bytes]) -> list[float]:
    """Return for each document, of hashed words and marks, the share of its shingles that occur in the others (0 if it has none)."""
    import numpy as np

    mine, owner = _shingles(documents)
    theirs, _ = _shingles(others)
    if not len(theirs):
        return [0.0] * len(documents)
    theirs.sort()  # a sort and a search take a tenth of the time of np.isin
    place = np.minimum(np.searchsorted(theirs, mine), len(theirs) - 1)
    common = theirs[place] == mine
    total = np.bincount(owner, minlength=len(documents))
    shared = np.bincount(owner[common], minlength=len(documents))
    shares: list[float] = (shared / np.maximum(total, 1)).tolist()
    return shares


def _shingles(documents: list[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return a 64-bit hash of each run of ``GRAM`` words and marks inside a document, and the document's number."""
    import numpy as np

    words = np.frombuffer(b"".join(documents), dtype=np.uintc).astype(np.uint64)
    lengths = [len(document) // array("I").itemsize for document in documents]
    owner = np.repeat(np.arange(len(documents)), lengths)
    count = max(len(words) - GRAM + 1, 0)
    hashed = np.zeros(count, dtype=np.uint64)
    for offset in range(GRAM):  # a polynomial modulo 2**64; array arithmetic wraps in silence
        hashed *= np.uint64(0x9E3779B97F4A7C15)
        hashed += words[offset : offset + count]
    inside = owner[:count] == owner[GRAM - 1 : GRAM - 1 + count]
    return hashed[inside], owner[:count][inside]
