"""Find, save and load collocations: n-grams that occur far more often than by chance.

They are the units of PMI-Masking (Levine et al. 2021, "PMI-Masking: Principled masking of correlated spans"). The score
is their pointwise mutual information for n-grams: the log ratio of the probability of an n-gram to that of its most
probable segmentation into parts. So "New York City of" scores low, since it is "New York City" and "of".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.data.masking.phrases import WordNumbers, atoms_of, words_in
from unmask.data.masking.random_bits import EVALUATION_KEY, shuffled
from unmask.data.words import WordTables
from unmask.errors import ConfigError, DataError
from unmask.progress import Progress
from unmask.storage import read_json, write_json

if TYPE_CHECKING:
    from unmask.data.corpus import Corpus

FORMAT = 1
_BOUNDARY = 0  # also the number of words without text, such as special tokens


@dataclass(frozen=True)
class Collocation:
    """An n-gram and its score.

    Attributes:
        text: the words in lower case and without accents, separated by spaces.
        count: number of occurrences.
        score: pointwise mutual information in nats.
    """

    text: str
    count: int
    score: float

    @cached_property
    def atoms(self) -> tuple[str, ...]:
        """The text as atoms of a phrase; see :func:`~unmask.data.masking.phrases.atoms_of`."""
        return atoms_of(self.text)


def find_collocations(
    corpus: Corpus,
    words: WordTables,
    *,
    documents: np.ndarray | None = None,
    longest: int = 5,
    min_count: int = 10,
    min_score: float = 3.0,
    most: int = 50_000,
    tokens: int = 20_000_000,
    progress: Progress = Progress(),
) -> list[Collocation]:
    """Find the collocations of a corpus, by descending score.

    Args:
        corpus: the tokenised documents.
        words: word tables of its tokenizer.
        documents: ``int64`` numbers of those to use; by default all.
        longest: most words of a collocation.
        min_count: fewest occurrences; rare n-grams have high scores by accident.
        min_score: lowest score in nats; 3 means 20 times as often as by chance.
        most: most collocations to return.
        tokens: most tokens to count, in a fixed random sample of the documents.

    Raises:
        ConfigError: ``longest`` is below 2, or another number below 1.
        DataError: there are no collocations.
    """
    if longest < 2 or min(min_count, most, tokens) < 1:
        raise ConfigError(
            "collocations need at least 2 words, and at least 1 occurrence, 1 result and 1 token"
        )
    chosen = _choose(corpus, np.arange(len(corpus)) if documents is None else documents, tokens)
    numbers = WordNumbers(words)
    progress.begin("collocations")
    portions = []
    for input_ids, first, document in words_in(corpus, words, chosen):
        begins = np.flatnonzero(np.diff(document, prepend=-1))
        portions.append(np.insert(numbers(input_ids, first), begins, _BOUNDARY))
    stream = np.concatenate([*portions, np.array([_BOUNDARY])])
    counted = _count_ngrams(stream, longest, min_count)
    scores = _scores(counted, int((stream != _BOUNDARY).sum()))
    found = list(_collocations(counted, scores, stream, numbers.texts, min_score))
    progress.end()
    if not found:
        raise DataError(
            f"no words occur together {min_count} times or more with a score of {min_score:g} or more; give more "
            f"text, or lower these bounds"
        )
    return sorted(found, key=lambda item: (-item.score, item.text))[:most]


def save_collocations(path: Path, found: Sequence[Collocation], **about: Any) -> None:
    """Write collocations as JSON, with other values ``about`` how they were found."""
    rows = [{"text": item.text, "count": item.count, "score": round(item.score, 4)} for item in found]
    write_json(path, {"format": FORMAT, **about, "collocations": rows})


def load_collocations(path: Path) -> list[Collocation]:
    """Load a file of :func:`save_collocations`.

    Raises:
        ConfigError: the file does not exist, has another format, or has no collocation of two or more words.
    """
    try:
        content = read_json(path)
    except DataError as error:
        raise ConfigError(str(error)) from None
    if content is None:
        raise ConfigError(f"{path}: there is no such file; expected the collocations of a corpus (JSON)")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path}: expected collocations in format {FORMAT}; find them again")
    try:
        found = [
            Collocation(str(row["text"]), int(row["count"]), float(row["score"]))
            for row in content["collocations"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: a collocation needs text, count and score ({error!r}); find them again"
        ) from None
    found = [item for item in found if len(item.atoms) > 1]
    if not found:
        raise ConfigError(f"{path}: expected collocations, the list is empty")
    return found


def _choose(corpus: Corpus, documents: np.ndarray, tokens: int) -> np.ndarray:
    """Return documents in random order, until they hold enough tokens."""
    order = documents[shuffled(len(documents), EVALUATION_KEY)]
    return order[: 1 + int(np.searchsorted(np.cumsum(corpus.lengths[order]), tokens))]


@dataclass
class _NGrams:
    """The frequent n-grams of one length.

    Attributes:
        at: ``int64 [G]``, first occurrence of each.
        count: ``int64 [G]``.
        number: ``int64 [S]``, the n-gram at each position of the stream, or -1.
    """

    at: np.ndarray
    count: np.ndarray
    number: np.ndarray


def _count_ngrams(stream: np.ndarray, longest: int, min_count: int) -> list[_NGrams]:
    """Count n-grams of 1 to ``longest`` words, those of n words where both (n - 1)-grams in them are frequent."""
    places = np.flatnonzero(stream != _BOUNDARY)
    found = [_frequent(places, stream[places], len(stream), min_count)]
    for _ in range(1, longest):
        shorter = found[-1].number
        here = np.flatnonzero((shorter[:-1] >= 0) & (shorter[1:] >= 0))
        keys = shorter[here] * len(found[-1].at) + shorter[here + 1]
        found.append(_frequent(here, keys, len(stream), min_count))
    return found


def _frequent(here: np.ndarray, keys: np.ndarray, length: int, min_count: int) -> _NGrams:
    """Count ``int64 [K]`` keys of n-grams at ``int64 [K]`` positions, and number the frequent ones."""
    _, where, number, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    kept = count >= min_count
    renumbered = np.where(kept, np.cumsum(kept) - 1, -1)
    numbers = np.full(length, -1, dtype=np.int64)
    numbers[here] = renumbered[number]
    return _NGrams(here[where[kept]], count[kept], numbers)


def _scores(counted: list[_NGrams], total: int) -> list[np.ndarray]:
    """Return the scores, ``float64 [G]``, of bigrams, trigrams and so on."""
    # The log probability of the most probable segmentation of each n-gram, itself included.
    best = [np.log(counted[0].count / total)]
    scores = []
    for words, ngrams in enumerate(counted[1:], start=2):
        whole = np.log(ngrams.count / total)
        parts = np.full(len(whole), -math.inf)
        for left in range(1, words):
            right = words - left
            front = best[left - 1][counted[left - 1].number[ngrams.at]]
            back = best[right - 1][counted[right - 1].number[ngrams.at + left]]
            parts = np.maximum(parts, front + back)
        best.append(np.maximum(whole, parts))
        scores.append(whole - parts)
    return scores


def _collocations(
    counted: list[_NGrams], scores: list[np.ndarray], stream: np.ndarray, texts: list[str], min_score: float
) -> Iterator[Collocation]:
    """Yield the n-grams of at least ``min_score`` that begin and end with a letter or digit."""
    for words, (ngrams, score) in enumerate(zip(counted[1:], scores, strict=True), start=2):
        for run in np.flatnonzero(score >= min_score).tolist():
            at = int(ngrams.at[run])
            text = " ".join(texts[number] for number in stream[at : at + words].tolist())
            if text[0].isalnum() and text[-1].isalnum():
                yield Collocation(text, int(ngrams.count[run]), float(score[run]))
