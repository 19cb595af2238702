"""Find phrases from a list, of one or more words, in tokenised text.

Phrases are plain text. Phrases and tokens are split by one rule into atoms: a run of letters and digits, one Chinese
character, or one other sign, without case and accents. So a list fits any tokenizer; a phrase matches only from the
beginning of a word of the tokenizer to the end of one, apart from signs.

Each distinct word is decoded once and cached, so no Python loop runs over tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unmask.data.masking.random_bits import run_hashes
from unmask.data.round_trip import mark_pattern
from unmask.data.words import IDEOGRAPHS, WordTables

if TYPE_CHECKING:
    from unmask.data.corpus import Corpus

_PORTION = 1 << 21  # tokens
_UNKNOWN = -1
_OTHER_ATOM = 0
_ATOM_BITS = np.uint64(32)


class Matches(NamedTuple):
    """``P`` matches of phrases, which do not overlap.

    Attributes:
        word: ``int64 [P]``, index of the first word, ascending.
        words: ``int64 [P]``, number of words.
        weight: ``float64 [P]``, weight of the phrase.
    """

    word: np.ndarray
    words: np.ndarray
    weight: np.ndarray


def atoms_of(text: str) -> tuple[str, ...]:
    """Split a text into runs of letters and digits, Chinese characters and signs, without case and accents.

    Accents are diacritics of European letters and the vowel points of Hebrew and Arabic; other marks are letters.
    """
    plain = unicodedata.normalize("NFKD", text).casefold()
    kept = "".join(
        c for c in plain if not ("\u0300" <= c <= "\u036f" or 10 <= unicodedata.combining(c) <= 36)
    )
    return tuple(_atoms().findall(unicodedata.normalize("NFC", kept)))


@lru_cache(maxsize=1)
def _atoms() -> re.Pattern[str]:
    return re.compile(rf"[{IDEOGRAPHS}]|(?:[^\W_{IDEOGRAPHS}]|{mark_pattern()})+|[^\s]")


def words_in(
    corpus: Corpus, words: WordTables, documents: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the words of documents, a few million tokens at a time.

    Yields:
        ``int64 [T]`` token ids of concatenated documents, ``int64 [W]`` where words begin among them, and ``int64 [W]``
        the document of each word, from 0 in each portion.
    """
    documents = documents[corpus.lengths[documents] > 0]
    bounds = np.flatnonzero(np.diff(np.cumsum(corpus.lengths[documents]) // _PORTION)) + 1
    for portion in np.split(documents, bounds):
        sizes = corpus.lengths[portion]
        if not len(sizes):
            continue
        input_ids = corpus.gather(portion, np.zeros_like(sizes), sizes)
        starts = words.starts(input_ids)
        starts[np.cumsum(sizes) - sizes] = True
        first = np.flatnonzero(starts)
        yield input_ids, first, np.repeat(np.arange(len(sizes)), sizes)[first]


class WordCache:
    """Caches a function of the text of words by their token ids.

    Args:
        words: word tables of the tokenizer.
        resolve: a pure function from the text of a word to one or more numbers.
    """

    def __init__(self, words: WordTables, resolve: Callable[[str], list[int]]) -> None:
        self._words, self._resolve = words, resolve
        self._single = np.full(len(words.flags), _UNKNOWN, dtype=np.int64)
        self._several = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        self._rows: dict[tuple[int, ...], int] = {}
        self._flat: list[int] = []
        self._begins: list[int] = [0]
        self._table = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)

    def rows(self, input_ids: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Return ``int64 [W]`` rows of :meth:`table` for the words that begin at ``first`` among ``int64 [T]`` ids."""
        rows = self._single[input_ids[first]]
        several = np.flatnonzero(np.diff(first, append=len(input_ids)) > 1)
        hashes = run_hashes(input_ids, first)[several] if len(several) else np.zeros(0, dtype=np.uint64)
        rows[several] = self._known(hashes)
        unknown = np.flatnonzero(rows == _UNKNOWN)
        if len(unknown):
            self._add(input_ids, first, unknown, hashes[np.isin(several, unknown)])
            return self.rows(input_ids, first)
        return rows

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the concatenated numbers of all rows, and ``int64 [rows + 1]`` where each row begins."""
        if len(self._table[1]) != len(self._begins):
            self._table = np.array(self._flat, dtype=np.int64), np.array(self._begins)
        return self._table

    def _known(self, hashes: np.ndarray) -> np.ndarray:
        keys, rows = self._several
        if not len(keys):
            return np.full(len(hashes), _UNKNOWN)
        place = np.minimum(np.searchsorted(keys, hashes), len(keys) - 1)
        return np.where(keys[place] == hashes, rows[place], _UNKNOWN)

    def _add(self, input_ids: np.ndarray, first: np.ndarray, unknown: np.ndarray, hashes: np.ndarray) -> None:
        """Resolve unknown words; ``hashes`` are those of the words of several tokens among them."""
        ends = np.append(first[1:], len(input_ids))
        single = ends[unknown] - first[unknown] == 1
        for number in np.unique(input_ids[first[unknown[single]]]).tolist():
            self._single[number] = self._row([number])
        keys, where = np.unique(hashes, return_index=True)
        words = unknown[~single][where]
        rows = [self._row(input_ids[a:b].tolist()) for a, b in zip(first[words], ends[words], strict=True)]
        keys = np.append(self._several[0], keys)
        order = np.argsort(keys, kind="stable")
        self._several = keys[order], np.append(self._several[1], np.array(rows, dtype=np.int64))[order]

    def _row(self, input_ids: list[int]) -> int:
        numbers = tuple(self._resolve(self._words.text(input_ids)))
        if numbers not in self._rows:
            self._rows[numbers] = len(self._rows)
            self._flat.extend(numbers)
            self._begins.append(len(self._flat))
        return self._rows[numbers]


class WordNumbers:
    """Numbers words by their text without case and accents; words without text, such as special tokens, are 0."""

    def __init__(self, words: WordTables) -> None:
        self._numbers = {"": 0}
        self._cache = WordCache(words, self._resolve)

    @property
    def texts(self) -> list[str]:
        """The text of each number."""
        return list(self._numbers)

    def __call__(self, input_ids: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Return ``int64 [W]`` numbers of the words that begin at ``first`` among ``int64 [T]`` ids."""
        rows = self._cache.rows(input_ids, first)
        return self._cache.table()[0][rows]

    def _resolve(self, text: str) -> list[int]:
        return [self._numbers.setdefault(" ".join(atoms_of(text)), len(self._numbers))]


class Phrases:
    """Finds phrases in tokenised text.

    Args:
        weights: weight of each phrase by its atoms (see :func:`atoms_of`), of which it has at least one.
        words: word tables of the tokenizer.
        pattern: words that it matches are phrases too.
        pattern_weight: their weight.
    """

    def __init__(
        self,
        weights: Mapping[tuple[str, ...], float],
        words: WordTables,
        pattern: re.Pattern[str] | None = None,
        pattern_weight: float = 1.0,
    ) -> None:
        atoms = sorted({atom for phrase in weights for atom in phrase})
        self._numbers = {atom: number for number, atom in enumerate(atoms, start=1)}
        self._pattern, self._pattern_weight = pattern, pattern_weight
        self._cache = WordCache(words, self._resolve)
        numbered = [([self._numbers[atom] for atom in phrase], weight) for phrase, weight in weights.items()]
        self._trie = _Trie(numbered, len(atoms))

    def find(self, input_ids: np.ndarray, first: np.ndarray, sequence: np.ndarray) -> Matches:
        """Match phrases from left to right, the longest first.

        Args:
            input_ids: ``int64 [T]``.
            first: ``int64 [W]`` where words begin.
            sequence: ``int64 [W]`` the sequence of each word; a phrase lies in one.
        """
        rows = self._cache.rows(input_ids, first)
        flat, begins = self._cache.table()
        counts = np.diff(begins)[rows]
        word = np.repeat(np.arange(len(first)), counts)
        place = _ramp(counts)
        atoms = flat[begins[rows[word]] + place]
        # The last number of a row is not an atom, but whether the pattern matches the word.
        is_atom = place < counts[word] - 1
        found = self._match(atoms[is_atom], word[is_atom], sequence)
        hits = np.flatnonzero(atoms[~is_atom])
        return found if not len(hits) else self._with_pattern(found, hits)

    def _match(self, numbers: np.ndarray, word: np.ndarray, sequence: np.ndarray) -> Matches:
        """Match numbers of :meth:`_resolve`, given the word of each.

        A match may omit signs, but not letters, at the edges of its first and last word, since some tokenizers join a
        full stop to letters in one token.
        """
        letters = np.cumsum(np.append(0, ~numbers & 1))
        edge = np.flatnonzero(np.diff(word, prepend=-1, append=-1))
        sizes = np.diff(edge)
        opens = letters[:-1] == np.repeat(letters[edge[:-1]], sizes)
        closes = letters[1:] == np.repeat(letters[edge[1:]], sizes)
        begin, length, weight = self._trie.longest(numbers >> 1, opens, closes, sequence[word])
        first, end = word[begin], word[begin + length - 1] + 1
        kept = _leftmost(first, end)
        return Matches(first[kept], (end - first)[kept], weight[kept])

    def _with_pattern(self, found: Matches, hits: np.ndarray) -> Matches:
        """Add words that the pattern matches and that are not part of a phrase."""
        covered = np.repeat(found.word, found.words) + _ramp(found.words)
        alone = np.setdiff1d(hits, covered)
        word = np.append(found.word, alone)
        order = np.argsort(word, kind="stable")
        words = np.append(found.words, np.ones(len(alone), dtype=np.int64))
        weight = np.append(found.weight, np.full(len(alone), self._pattern_weight))
        return Matches(word[order], words[order], weight[order])

    def _resolve(self, text: str) -> list[int]:
        """Return twice the number of each atom of a word, plus one for signs; then whether the pattern matches."""
        numbers = [
            self._numbers.get(atom, _OTHER_ATOM) << 1 | (not atom[0].isalnum()) for atom in atoms_of(text)
        ]
        return [*(numbers or [_OTHER_ATOM]), int(bool(text and self._pattern and self._pattern.search(text)))]


class _Trie:
    """A trie of phrases over atoms; state 0 is the root."""

    def __init__(self, phrases: list[tuple[list[int], float]], atoms: int) -> None:
        steps: dict[tuple[int, int], int] = {}
        weights = {}
        for phrase, weight in phrases:
            state = 0
            for atom in phrase:
                state = steps.setdefault((state, atom), len(steps) + 1)
            weights[state] = weight
        keys = np.array([(state << 32) | atom for state, atom in steps], dtype=np.uint64)
        order = np.argsort(keys)
        self._keys = keys[order]
        self._states = np.array(list(steps.values()), dtype=np.int64)[order]
        self._weights = np.full(len(steps) + 1, np.nan)
        self._weights[list(weights)] = list(weights.values())
        # These two tables rule out most words without a search.
        self._first = np.full(atoms + 1, _UNKNOWN)
        self._later = np.zeros(atoms + 1, dtype=bool)
        for (state, atom), follows in steps.items():
            if state == 0:
                self._first[atom] = follows
            else:
                self._later[atom] = True

    def longest(
        self, atoms: np.ndarray, opens: np.ndarray, closes: np.ndarray, sequence: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where phrases begin among ``int64 [A]`` atoms, and length and weight of the longest one there."""
        length = np.zeros(len(atoms), dtype=np.int64)
        weight = np.zeros(len(atoms))
        continues = np.append(self._later[atoms[1:]] & (sequence[1:] == sequence[:-1]), False)
        begin = np.flatnonzero(opens & (self._first[atoms] != _UNKNOWN))
        at, state = begin, self._first[atoms[begin]]
        while len(begin):
            done = closes[at] & ~np.isnan(self._weights[state])
            length[begin[done]] = (at - begin + 1)[done]
            weight[begin[done]] = self._weights[state[done]]
            on = continues[at]
            begin, at, state = begin[on], at[on] + 1, self._step(state[on], atoms[at[on] + 1])
            alive = state != _UNKNOWN
            begin, at, state = begin[alive], at[alive], state[alive]
        found = np.flatnonzero(length)
        return found, length[found], weight[found]

    def _step(self, state: np.ndarray, atom: np.ndarray) -> np.ndarray:
        wanted = (state.astype(np.uint64) << _ATOM_BITS) | atom.astype(np.uint64)
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[place] == wanted, self._states[place], _UNKNOWN)


def _leftmost(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the intervals, sorted by beginning, that a greedy choice of non-overlapping ones takes from left to right.

    Each interval points to the first one that begins after its end. Pointer doubling marks the chain of the first.
    """
    count = len(begin)
    follows = np.append(np.searchsorted(begin, end), count)
    taken = np.zeros(count + 1, dtype=bool)
    taken[0] = True
    for _ in range(count.bit_length()):
        taken[follows[np.flatnonzero(taken)]] = True
        follows = follows[follows]
    return np.flatnonzero(taken[:count])


def _ramp(lengths: np.ndarray) -> np.ndarray:
    """Return 0 to n - 1 for each n of ``lengths``, concatenated."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
