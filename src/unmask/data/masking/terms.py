"""Domain terms: load, save and find the terms that masking prefers.

A file of terms is plain text with one term, of one or more words, per line. A number after a tab is the weight of the
term: its chance of being masked relative to other words. Empty lines, lines that begin with ``# `` and text after a
second tab are ignored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.masking.phrases import WordNumbers, atoms_of, words_in
from unmask.data.words import WordTables
from unmask.errors import ConfigError, DataError
from unmask.storage import write_atomically

if TYPE_CHECKING:
    from unmask.data.corpus import Corpus


@dataclass(frozen=True)
class Term:
    """A salient word of a domain.

    Attributes:
        text: the word, in lower case and without accents.
        weight: odds ratio of the word, domain to general text, bounded; for masking.
        log_odds: logarithm of the odds ratio.
        z: ``log_odds`` in standard deviations.
        documents: documents of the domain with the word.
    """

    text: str
    weight: float
    log_odds: float
    z: float
    documents: int


MOST_WEIGHT = 10.0
"""The bound of the weight of a term."""
_LEAST_DOCUMENTS = 3
_GENERAL_RATE = 2e-4


def load_terms(path: Path, weight: float) -> dict[tuple[str, ...], float]:
    """Load a file of terms.

    Args:
        path: the file.
        weight: weight of terms without their own.

    Returns:
        The weight of each term by its atoms (see :func:`~unmask.data.masking.phrases.atoms_of`); the higher weight of a
        term that occurs twice.

    Raises:
        ConfigError: the file cannot be read or has no terms, or a weight is not a positive number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"{path}: the terms cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected a term in UTF-8 on each line ({error.reason})") from None
    found: dict[tuple[str, ...], float] = {}
    for number, line in enumerate(lines, start=1):
        text, _, rest = line.partition("\t")
        atoms = atoms_of(text)
        if atoms and not line.startswith("# "):
            own = rest.partition("\t")[0].strip()
            found[atoms] = max(found.get(atoms, 0.0), _weight(own, f"{path}:{number}") if own else weight)
    if not found:
        raise ConfigError(f"{path}: expected a term on each line, found none")
    return found


def save_terms(path: Path, terms: Iterable[Term]) -> None:
    """Write terms as :func:`load_terms` reads them."""
    lines = ["# term\tweight\tlog-odds\tz\tdocuments"]
    lines += [
        f"{term.text}\t{term.weight:.3g}\t{term.log_odds:.3f}\t{term.z:.2f}\t{term.documents}"
        for term in terms
    ]
    write_atomically(path, "\n".join(lines) + "\n")


def find_salient_terms(
    domain: Mapping[str, int],
    general: Mapping[str, int],
    documents: Mapping[str, int] | None = None,
    *,
    min_count: int = 5,
    min_ratio: float = 2.0,
    confidence: float = 1.96,
    most: int = 10_000,
) -> list[Term]:
    """Find the words that set domain text apart: more frequent there, rare in general text, in several documents.

    The odds ratio must be at least ``min_ratio`` at the lower end of its interval; it is computed with an informative
    Dirichlet prior from both texts together ("Fightin' Words", Monroe, Colaresi & Quinn 2008). Words are ranked by this
    lower end, by the documents that have them, and by how rare they are in general text: a z score alone would rank
    function words first, whose large counts make small differences significant.

    Args:
        domain: word counts of domain text; see :func:`count_words`.
        general: word counts of general text. A word that occurs there more than 200 times in a million is no term.
        documents: documents of the domain with each word; by default they do not count.
        min_count: fewest occurrences in the domain.
        min_ratio: lowest odds ratio.
        confidence: standard deviations from the log-odds to the lower end; 1.96 is the 95% level.
        most: most terms to return.

    Raises:
        DataError: there are no salient words.
    """
    words = [word for word, count in domain.items() if count >= min_count and any(map(str.isalpha, word))]
    if not words or not sum(general.values()):
        raise DataError("salient terms need words in the domain text and in the general text")
    odds, deviation = _odds_of(words, domain, general)
    low = odds - confidence * deviation
    there, there_all = _counts_of(words, general), sum(general.values())
    spread = _counts_of(words, domain if documents is None else documents)
    least = min(_LEAST_DOCUMENTS, 1 + int(spread.max()) // 10)  # of a text of few documents, one is enough
    # The rate in general text may be as low as two standard deviations below the one counted.
    usual = (there - 2 * np.sqrt(there)) / there_all > _GENERAL_RATE
    good = (low >= math.log(min_ratio)) & ~usual & (spread >= least)
    rarity = np.sqrt(np.log1p(_GENERAL_RATE * (there_all + 1) / (there + 0.5)))
    score = np.where(good, low * np.log1p(spread) * rarity, -np.inf)
    order = [int(place) for place in np.lexsort((np.array(words), -score)) if good[place]][:most]
    if not order:
        raise DataError(
            f"no word is rare in general text and at least {min_ratio:g} times as frequent in the domain; give more text, "
            f"or general text of other subjects"
        )
    z = odds / deviation
    return [Term(words[i], _weight_of(odds[i]), float(odds[i]), float(z[i]), int(spread[i])) for i in order]


def odds_ratios(domain: Mapping[str, int], general: Mapping[str, int]) -> dict[str, float]:
    """Return the odds ratio of each word of a domain, at most 10, with the prior of :func:`find_salient_terms`."""
    words = list(domain)
    if not words or not sum(general.values()):
        return {}
    return dict(zip(words, map(_weight_of, _odds_of(words, domain, general)[0]), strict=True))


def _odds_of(
    words: list[str], domain: Mapping[str, int], general: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-odds ratio of words, and its standard deviation."""
    here, there = _counts_of(words, domain), _counts_of(words, general)
    here_all, there_all = sum(domain.values()), sum(general.values())
    # The prior counts as much as a tenth of the smaller text.
    strength = 0.1 * min(here_all, there_all)
    prior = strength * (here + there) / (here_all + there_all)
    odds = _log_odds(here, prior, here_all + strength) - _log_odds(there, prior, there_all + strength)
    return odds, np.sqrt(1.0 / (here + prior) + 1.0 / (there + prior))


def _counts_of(words: list[str], counts: Mapping[str, int]) -> np.ndarray:
    return np.array([counts.get(word, 0) for word in words], dtype=np.float64)


def _weight_of(odds: float) -> float:
    return min(MOST_WEIGHT, math.exp(min(odds, MOST_WEIGHT)))


def count_words(
    corpus: Corpus, words: WordTables, documents: np.ndarray | None = None
) -> tuple[Counter[str], Counter[str]]:
    """Return how often each word of a corpus occurs, and in how many documents, in lower case and without accents.

    Args:
        corpus: the tokenised documents.
        words: word tables of its tokenizer.
        documents: ``int64`` numbers of those to count; by default all.
    """
    numbers = WordNumbers(words)
    totals = np.zeros((2, 0), dtype=np.int64)
    chosen = np.arange(len(corpus)) if documents is None else documents
    for input_ids, first, owners in words_in(corpus, words, chosen):
        found = numbers(input_ids, first)
        size = max(len(numbers.texts), totals.shape[1])
        totals = np.pad(totals, ((0, 0), (0, size - totals.shape[1])))
        totals[0] += np.bincount(found, minlength=size)
        totals[1] += np.bincount(np.unique(owners * size + found) % size, minlength=size)
    occurrences, spread = (dict(zip(numbers.texts[1:], row[1:].tolist(), strict=False)) for row in totals)
    return Counter(occurrences), Counter(spread)


def _log_odds(count: np.ndarray, prior: np.ndarray, total: float) -> np.ndarray:
    return np.log(count + prior) - np.log(np.maximum(total - count - prior, 1e-9))


def _weight(text: str, where: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0.0 < weight < math.inf:
        raise ConfigError(f"{where}: the weight after the tab must be a positive number, not '{text}'")
    return weight
