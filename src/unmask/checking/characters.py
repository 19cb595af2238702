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
from unmask.data.overlap import span_hashes
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
UNSPACED = "Thai Lao Myanmar Khmer Hiragana Katakana Han".split()
"""Scripts that do not mark words."""
_UNSPACED = [FIRST_SCRIPT + SCRIPTS.index(name) for name in UNSPACED]
_LONG, _LONG_UNSPACED = 32, 8
_PIECE = np.uint64(4)


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


def _ranges(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the numbers of all ranges ``[begin, end)``, concatenated."""
    lengths = ends - begins
    return np.repeat(begins - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))


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
    def _written_words(self) -> tuple[np.ndarray, np.ndarray]:
        """``int64 [V]`` each: where runs of letters, marks and digits, or a Chinese character, begin and end."""
        inside = np.concatenate([[False], self.classes >= MARK, [False]])
        apart = np.concatenate([[False], self.classes == _HAN, [False]])
        edge = inside[1:] != inside[:-1]
        if apart.any():
            edge |= inside[1:] & inside[:-1] & (apart[1:] | apart[:-1])
        marks = np.flatnonzero(edge)
        return marks[inside[marks + 1]], marks[inside[marks]]

    @cached_property
    def word_spans(self) -> tuple[np.ndarray, np.ndarray]:
        """``int64 [W]`` each: where words (runs of letters, marks and digits; a Chinese character) begin and end.

        Text without spaces, and text of single letters, such as proteins, is cut into pieces of about 4 letters, at
        places that depend on the letters before them: the same text has the same pieces wherever it stands.
        """
        return self._long_cut(*self._letters_joined(*self._written_words))

    @cached_property
    def pieces(self) -> int:
        """How many of the words are pieces of text that is one letter after another, such as proteins."""
        written, words = (begins << 32 | ends for begins, ends in (self._written_words, self.word_spans))
        pieces = self.word_spans[0][~np.isin(words, written, assume_unique=True)]
        return int((~np.isin(self.classes[pieces], _UNSPACED)).sum())

    @cached_property
    def unmarked(self) -> int:
        """How many of the words are pieces or characters of scripts that do not mark words."""
        return int(np.isin(self.classes[self.word_spans[0]], _UNSPACED).sum())

    def _letters_joined(self, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Join words of one letter into pieces, where many of them follow one another."""
        letter = (ends - begins == 1) & (self.classes[begins] != _HAN)
        joint = letter[:-1] & letter[1:] & (begins[1:] - ends[:-1] == 1) & (self.codes[ends[:-1]] != 10)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], joint, [False]]).astype(np.int8)))
        first, last = edges[::2], edges[1::2]
        many = last - first >= _LONG
        if not many.any():
            return begins, ends
        joined = np.zeros(len(joint), dtype=bool)  # a word with the next
        joined[_ranges(first[many], last[many])] = True
        at = _ranges(first[many] + 2, last[many])
        joined[at[self._ends_piece(begins[at], begins[at - 1], begins[at - 2])]] = False
        return begins[np.append(True, ~joined)], ends[np.append(~joined, True)]

    def _long_cut(self, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut long words, which are text without spaces, into pieces."""
        unspaced = np.isin(self.classes[begins], _UNSPACED)
        long = ends - begins > np.where(unspaced, _LONG_UNSPACED, _LONG)
        if not long.any():
            return begins, ends
        at = _ranges(begins[long] + 2, ends[long] - 1)
        cuts = at[self._ends_piece(at, at - 1, at - 2)] + 1
        return np.sort(np.concatenate([begins, cuts])), np.sort(np.concatenate([ends, cuts]))

    def _ends_piece(self, *places: np.ndarray) -> np.ndarray:
        """Return ``bool [N]``: whether a piece ends after a letter, from it and the two before it."""
        last, *before = (self.codes[place].astype(np.uint64) for place in places)
        mixed: np.ndarray = mix(mix(mix(before[1]) + before[0]) + last) % _PIECE == 0
        return mixed

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
