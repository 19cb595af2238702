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
    """

    text: str
    weight: float
    log_odds: float
    z: float


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
    lines = ["# term\tweight\tlog-odds\tz"]
    lines += [f"{term.text}\t{term.weight:.3g}\t{term.log_odds:.3f}\t{term.z:.2f}" for term in terms]
    write_atomically(path, "\n".join(lines) + "\n")


def find_salient_terms(
    domain: Mapping[str, int],
    general: Mapping[str, int],
    *,
    min_count: int = 5,
    min_z: float = 1.96,
    most: int = 10_000,
    most_weight: float = 10.0,
) -> list[Term]:
    """Find words that are more frequent in domain text than in general text, by descending z score.

    The score is the log-odds ratio with an informative Dirichlet prior, from both texts together, over its standard
    deviation ("Fightin' Words", Monroe, Colaresi & Quinn 2008).

    Args:
        domain: word counts of domain text; see :func:`count_words`.
        general: word counts of general text.
        min_count: fewest occurrences in the domain.
        min_z: lowest z score; 1.96 is the 95% level.
        most: most terms to return.
        most_weight: highest weight.

    Raises:
        DataError: there are no salient words.
    """
    words = [word for word, count in domain.items() if count >= min_count and any(map(str.isalpha, word))]
    here = np.array([domain[word] for word in words], dtype=np.float64)
    there = np.array([general.get(word, 0) for word in words], dtype=np.float64)
    here_all, there_all = sum(domain.values()), sum(general.values())
    if not words or not there_all:
        raise DataError("salient terms need words in the domain text and in the general text")
    # The prior counts as much as a tenth of the smaller text.
    strength = 0.1 * min(here_all, there_all)
    prior = strength * (here + there) / (here_all + there_all)
    odds = _log_odds(here, prior, here_all + strength) - _log_odds(there, prior, there_all + strength)
    z = odds / np.sqrt(1.0 / (here + prior) + 1.0 / (there + prior))
    order = [int(place) for place in np.lexsort((words, -z)) if z[place] >= min_z][:most]
    if not order:
        raise DataError(
            f"no word is more frequent in the domain than in general text by {min_z:g} standard deviations"
        )
    weights = np.minimum(np.exp(np.minimum(odds, math.log(most_weight))), most_weight)
    return [Term(words[i], float(weights[i]), float(odds[i]), float(z[i])) for i in order]


def count_words(corpus: Corpus, words: WordTables, documents: np.ndarray | None = None) -> Counter[str]:
    """Count the words of a corpus, in lower case and without accents.

    Args:
        corpus: the tokenised documents.
        words: word tables of its tokenizer.
        documents: ``int64`` numbers of those to count; by default all.
    """
    numbers = WordNumbers(words)
    totals = np.zeros(0, dtype=np.int64)
    chosen = np.arange(len(corpus)) if documents is None else documents
    for input_ids, first, _ in words_in(corpus, words, chosen):
        counts = np.bincount(numbers(input_ids, first), minlength=len(totals))
        counts[: len(totals)] += totals
        totals = counts
    counted = zip(numbers.texts[1:], totals[1:].tolist(), strict=True)
    return Counter(dict(counted))


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
