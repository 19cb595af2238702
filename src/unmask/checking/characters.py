"""Classes of characters and hashes of words and word n-grams, for many documents at once, as arrays.

Hashes are polynomials modulo 2^64 over prefix sums, so those of all words, or of all n-grams, of a chunk are computed in
a few vectorised passes; they are the same on every machine.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from unmask.data.masking.random_bits import mix
from unmask.data.reading.documents import Document

CONTROL, REPLACEMENT, INVISIBLE, MARK, DIGIT = 1, 2, 3, 4, 5
"""Classes of characters other than letters; 0 is everything else."""
FIRST_SCRIPT = 6
SCRIPTS = (
    "Latin Greek Cyrillic Armenian Hebrew Arabic Devanagari Bengali Gurmukhi Gujarati Tamil Telugu Kannada Malayalam "
    "Sinhala Thai Lao Tibetan Myanmar Georgian Ethiopic Khmer Mongolian Hangul Hiragana Katakana Han Other"
).split()
"""Names of scripts; their classes follow one another from ``FIRST_SCRIPT``."""
CLASSES = FIRST_SCRIPT + len(SCRIPTS)
_HAN = FIRST_SCRIPT + SCRIPTS.index("Han")
_TABLE_SIZE = 0x20000
_INVISIBLE = (0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF)
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_WORD_SIZE = 1 << 64


@lru_cache(maxsize=1)
def class_table() -> np.ndarray:
    """Return ``uint8 [0x20000]``: the class of each code point; all beyond are Chinese characters or nothing."""
    table = np.zeros(_TABLE_SIZE, dtype=np.uint8)
    known = {name.upper(): FIRST_SCRIPT + number for number, name in enumerate(SCRIPTS)} | {"CJK": _HAN}
    for code in range(_TABLE_SIZE):
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] == "L":
            name = unicodedata.name(character, "OTHER").split()[0]
            table[code] = known.get(name, CLASSES - 1)
        elif category[0] == "M":
            table[code] = MARK
        elif category[0] == "N":
            table[code] = DIGIT
        elif category == "Cc" and character not in "\t\n\r\x85":
            table[code] = CONTROL
    table[0xFFFD] = REPLACEMENT
    table[list(_INVISIBLE)] = INVISIBLE
    return table


@lru_cache(maxsize=2)
def _powers(size: int, base: int) -> np.ndarray:
    """Return ``uint64 [size]`` powers of a base modulo 2^64."""
    factors = np.full(size, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def span_hashes(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return ``uint64 [S]`` hashes of the spans ``[begin, end)`` of ``uint64 [N]`` values, independent of their position."""
    size = 1 << max(12, len(values).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * _powers(size, _BASE)[: len(values)], out=sums[1:])
    shift = _powers(size, pow(_BASE, -1, _WORD_SIZE))[begins]
    # The length is hashed too: leading zeros would not change the sum.
    return mix((sums[ends] - sums[begins]) * shift + (ends - begins).astype(np.uint64))


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some documents, as arrays.

    Attributes:
        documents: at least one.
        first: the number of the first of them among all.
    """

    documents: Sequence[Document]
    first: int

    @cached_property
    def lowered(self) -> list[str]:
        """The texts in lower case."""
        return [document.text.lower() for document in self.documents]

    @cached_property
    def codes(self) -> np.ndarray:
        """``uint32 [C]``: the code points of the lower-cased texts, a line feed behind each text."""
        order = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
        return np.frombuffer(("\n".join(self.lowered) + "\n").encode(order, "surrogatepass"), dtype=np.uint32)

    @cached_property
    def bounds(self) -> np.ndarray:
        """``int64 [D + 1]``: where each text begins in :attr:`codes`, and at the end ``C``."""
        return np.cumsum([0, *(len(text) + 1 for text in self.lowered)])

    @cached_property
    def classes(self) -> np.ndarray:
        """``uint8 [C]``: the class of each character."""
        return (
            class_table()[np.minimum(self.codes, _TABLE_SIZE - 1)] if self._in_table else self._far_classes()
        )

    @property
    def _in_table(self) -> bool:
        return int(self.codes.max()) < _TABLE_SIZE

    def _far_classes(self) -> np.ndarray:
        near = class_table()[np.minimum(self.codes, _TABLE_SIZE - 1)]
        return np.where(self.codes < _TABLE_SIZE, near, np.where(self.codes < 0x32000, _HAN, 0)).astype(
            np.uint8
        )

    @cached_property
    def class_counts(self) -> np.ndarray:
        """``int64 [D, CLASSES]``: characters of each class in each document."""
        number = np.repeat(np.arange(len(self.documents)) * CLASSES, np.diff(self.bounds))
        size = len(self.documents) * CLASSES
        return np.bincount(number + self.classes, minlength=size).reshape(-1, CLASSES)

    @cached_property
    def word_spans(self) -> tuple[np.ndarray, np.ndarray]:
        """``int64 [W]`` each: where words (runs of letters, marks and digits; a Chinese character) begin and end."""
        inside = np.concatenate([[False], self.classes >= MARK, [False]])
        apart = np.concatenate([[False], self.classes == _HAN, [False]])
        edge = inside[1:] != inside[:-1]
        if apart.any():
            edge |= inside[1:] & inside[:-1] & (apart[1:] | apart[:-1])
        marks = np.flatnonzero(edge)
        begins = marks[inside[marks + 1]]
        ends = marks[inside[marks]]
        return begins, ends

    @cached_property
    def words(self) -> np.ndarray:
        """``uint64 [W]``: hashes of the words."""
        return span_hashes(self.codes.astype(np.uint64) + np.uint64(1), *self.word_spans)

    @cached_property
    def word_documents(self) -> np.ndarray:
        """``int64 [W]``: the document of each word, from 0."""
        return np.repeat(np.arange(len(self.documents)), self.word_counts)

    @cached_property
    def word_counts(self) -> np.ndarray:
        """``int64 [D]``: words of each document."""
        return np.diff(np.searchsorted(self.word_spans[0], self.bounds))

    def phrases(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``uint64 [P]`` hashes of all runs of ``size`` words within a document, and ``int64 [P]`` the first word."""
        first = np.arange(max(0, len(self.words) - size + 1))
        first = first[self.word_documents[first] == self.word_documents[first + size - 1]]
        return span_hashes(self.words, first, first + size), first
