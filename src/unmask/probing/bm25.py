"""BM25: the scores of passages by the words that they share with a query, the baseline of retrieval without a model.

Robertson & Zaragoza (2009), "The Probabilistic Relevance Framework", with the idf that is never negative, as in Lucene.

Shapes: N passages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

K1, B = 1.2, 0.75
"""The usual parameters."""

_NO_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # written without spaces: each character is a word
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]+")


class BM25:
    """An index of passages by their words.

    Args:
        passages: N texts.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        words = [Counter(_words(text)) for text in passages]
        self._size = len(passages)
        length = np.array([sum(counts.values()) for counts in words], dtype=np.float64)
        norm = K1 * (1 - B + B * length / max(float(length.mean()), 1.0))
        postings: dict[str, tuple[list[int], list[int]]] = {}
        for number, counts in enumerate(words):
            for word, times in counts.items():
                numbers, frequencies = postings.setdefault(word, ([], []))
                numbers.append(number)
                frequencies.append(times)
        self._weights: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for word, (numbers, frequencies) in postings.items():
            rows, found = np.array(numbers), np.array(frequencies, dtype=np.float64)
            idf = np.log1p((self._size - len(rows) + 0.5) / (len(rows) + 0.5))
            self._weights[word] = rows, idf * found * (K1 + 1) / (found + norm[rows])

    def scores(self, query: str) -> Floats:
        """Return ``[N]`` scores; words count as often as the query has them."""
        found = np.zeros(self._size)
        for word, times in sorted(Counter(_words(query)).items()):
            if word in self._weights:
                rows, weights = self._weights[word]
                found[rows] += times * weights
        return found.astype(np.float32)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
