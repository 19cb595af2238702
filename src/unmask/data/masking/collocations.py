"""Collocations: runs of words that occur together far more often than by chance.

They are the units of PMI-Masking (Levine et al. 2021, "PMI-Masking: Principled masking of correlated spans"). The
score of a run of words is its pointwise mutual information, generalised to more than two words as there: the
logarithm of its probability over that of the likeliest way to put it together from parts. So "New York City of"
scores low, however rare, since "New York City" and "of" make it up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.data.masking.phrases import Lexicon, atoms_of, words_in
from unmask.data.masking.random_bits import EVALUATION_KEY, shuffled
from unmask.data.words import WordTables
from unmask.errors import ConfigError, DataError
from unmask.progress import Progress
from unmask.storage import read_json, write_json

if TYPE_CHECKING:
    from unmask.data.corpus import Corpus

FORMAT = 1
_BOUNDARY = 0


@dataclass(frozen=True)
class Collocation:
    """Words that belong together.

    Attributes:
        text: the words in lower case and without accents, a space between two.
        count: how often they stood together.
        score: pointwise mutual information in nats.
    """

    text: str
    count: int
    score: float

    @cached_property
    def atoms(self) -> tuple[str, ...]:
        """The text as phrases are matched; see :func:`~unmask.data.masking.phrases.atoms_of`."""
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
    """Find the collocations of a corpus, best first.

    Args:
        corpus: the tokenised documents.
        words: word tables of the tokenizer that made it.
        documents: ``int64`` numbers of those to use; by default all.
        longest: words of the longest ones.
        min_count: occurrences of the run, at least; rare runs have high scores by accident.
        min_score: in nats; 3 means 20 times as often as their parts would meet by chance.
        most: how many to return.
        tokens: how much text is counted at most, of documents drawn at random, the same ones every time.

    Raises:
        ConfigError: ``longest`` is below 2, or another number below 1.
        DataError: nothing was found.
    """
    if longest < 2 or min(min_count, most, tokens) < 1:
        raise ConfigError(
            "collocations need at least 2 words, and at least 1 occurrence, 1 result and 1 token"
        )
    chosen = _choose(corpus, np.arange(len(corpus)) if documents is None else documents, tokens)
    numbering = _Numbering(words)
    progress.begin("collocations")
    portions = [numbering.numbers(*portion) for portion in words_in(corpus, words, chosen)]
    stream = np.concatenate([*portions, np.array([_BOUNDARY])])
    counted = _count(stream, longest, min_count)
    scores = _scores(counted, int((stream != _BOUNDARY).sum()))
    found = list(_spelt(counted, scores, stream, numbering.texts, min_score))
    progress.end()
    if not found:
        raise DataError(
            f"no words occur together {min_count} times or more with a score of {min_score:g} or more; give more "
            f"text, or lower these bounds",
            path=corpus.folder,
        )
    return sorted(found, key=lambda item: (-item.score, item.text))[:most]


def save_collocations(path: Path, found: Sequence[Collocation], **about: Any) -> None:
    """Write collocations as JSON, with anything else that is worth knowing of how they were found."""
    rows = [{"text": item.text, "count": item.count, "score": round(item.score, 4)} for item in found]
    write_json(path, {"format": FORMAT, **about, "collocations": rows})


def load_collocations(path: Path) -> list[Collocation]:
    """Read what :func:`save_collocations` wrote.

    Raises:
        ConfigError: the file is absent, not of this format, or holds no collocation of two words or more.
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
    """Return documents in a drawn order, until they hold enough."""
    order = documents[shuffled(len(documents), EVALUATION_KEY)]
    return order[: 1 + int(np.searchsorted(np.cumsum(corpus.lengths[order]), tokens))]


class _Numbering:
    """Numbers words by their text, from 1 on; 0 stands between documents, and for special tokens."""

    def __init__(self, words: WordTables) -> None:
        self.texts = [""]
        self._known: dict[str, int] = {"": _BOUNDARY}
        self._lexicon = Lexicon(words, self._resolve)

    def numbers(self, input_ids: np.ndarray, first: np.ndarray, document: np.ndarray) -> np.ndarray:
        """Return ``int64`` numbers of words, a boundary before each document."""
        rows = self._lexicon.rows(input_ids, first)
        begins = np.flatnonzero(np.diff(document, prepend=-1))
        return np.insert(self._lexicon.table()[0][rows], begins, _BOUNDARY)

    def _resolve(self, text: str) -> list[int]:
        text = " ".join(atoms_of(text))
        if text not in self._known:
            self._known[text] = len(self.texts)
            self.texts.append(text)
        return [self._known[text]]


@dataclass
class _Counted:
    """The frequent runs of ``n`` words.

    Attributes:
        at: ``int64 [G]``, where each occurs first.
        count: ``int64 [G]``.
        number: ``int64 [S]``, the run that begins at each place of the stream, or -1.
    """

    at: np.ndarray
    count: np.ndarray
    number: np.ndarray


def _count(stream: np.ndarray, longest: int, min_count: int) -> list[_Counted]:
    """Count runs of 1 to ``longest`` words; those of n words are looked for where both their parts are frequent."""
    places = np.flatnonzero(stream != _BOUNDARY)
    found = [_frequent(places, stream[places], len(stream), min_count)]
    for _ in range(1, longest):
        shorter = found[-1].number
        here = np.flatnonzero((shorter[:-1] >= 0) & (shorter[1:] >= 0))
        keys = shorter[here] * len(found[-1].at) + shorter[here + 1]
        found.append(_frequent(here, keys, len(stream), min_count))
    return found


def _frequent(here: np.ndarray, keys: np.ndarray, length: int, min_count: int) -> _Counted:
    """Count the ``int64 [K]`` keys at as many places of the stream, and number the frequent ones."""
    _, where, number, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    kept = count >= min_count
    renumbered = np.where(kept, np.cumsum(kept) - 1, -1)
    numbers = np.full(length, -1, dtype=np.int64)
    numbers[here] = renumbered[number]
    return _Counted(here[where[kept]], count[kept], numbers)


def _scores(counted: list[_Counted], total: int) -> list[np.ndarray]:
    """Return ``float64 [G]`` for runs of two words, of three and so on; all parts of a frequent run are known."""
    # The logarithm of the likeliest way to make up each run, itself or from parts.
    likeliest = [np.log(counted[0].count / total)]
    scores = []
    for words, runs in enumerate(counted[1:], start=2):
        whole = np.log(runs.count / total)
        parts = np.full(len(whole), -math.inf)
        for left in range(1, words):
            right = words - left
            front = likeliest[left - 1][counted[left - 1].number[runs.at]]
            back = likeliest[right - 1][counted[right - 1].number[runs.at + left]]
            parts = np.maximum(parts, front + back)
        likeliest.append(np.maximum(whole, parts))
        scores.append(whole - parts)
    return scores


def _spelt(
    counted: list[_Counted], scores: list[np.ndarray], stream: np.ndarray, texts: list[str], min_score: float
) -> Iterator[Collocation]:
    """Yield the runs that score high enough, begin with a letter or digit and end with one."""
    for words, (runs, score) in enumerate(zip(counted[1:], scores, strict=True), start=2):
        for run in np.flatnonzero(score >= min_score).tolist():
            at = int(runs.at[run])
            text = " ".join(texts[number] for number in stream[at : at + words].tolist())
            if text[0].isalnum() and text[-1].isalnum():
                yield Collocation(text, int(runs.count[run]), float(score[run]))
