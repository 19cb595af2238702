"""Terms: the words of a domain, which masking can prefer.

A file of terms is plain text, one term of one or more words on each line. A tab and a number give a term a weight of
its own: how many times likelier than another word it is masked. Empty lines, and lines that begin with ``# ``, say
nothing; what follows a second tab is for people.

:func:`find_salient_terms` makes such a file from text of a domain and general text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.masking.phrases import Lexicon, atoms_of, words_in
from unmask.data.words import WordTables
from unmask.errors import ConfigError, DataError
from unmask.storage import write_atomically

if TYPE_CHECKING:
    from unmask.data.corpus import Corpus


@dataclass(frozen=True)
class Term:
    """A word that is salient in a domain.

    Attributes:
        text: the word, in lower case and without accents.
        weight: how many times likelier than in general text it is, bounded; for masking.
        log_odds: the logarithm of the odds ratio, domain over general.
        z: the same in standard deviations; 1.96 is the usual bound of chance.
    """

    text: str
    weight: float
    log_odds: float
    z: float


def load_terms(path: Path, weight: float) -> dict[tuple[str, ...], float]:
    """Read a file of terms.

    Args:
        path: the file.
        weight: of terms without one of their own.

    Returns:
        The weight of each term, by its atoms (see :func:`~unmask.data.masking.phrases.atoms_of`); of a term that is there
        twice, the higher one.

    Raises:
        ConfigError: the file cannot be read or holds no term, or a weight is no positive number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
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
    """Find words that are more frequent in a domain than elsewhere, the surest first.

    The score is the log-odds ratio with an informative Dirichlet prior, which is the two texts together, and its
    standard deviation ("Fightin' Words", Monroe, Colaresi & Quinn 2008).

    Args:
        domain: word counts of the domain's text; see :func:`count_words`.
        general: word counts of general text.
        min_count: occurrences in the domain, at least.
        min_z: standard deviations, at least.
        most: how many to return.
        most_weight: the bound of their weights.

    Raises:
        DataError: no word stands out.
    """
    words = [word for word, count in domain.items() if count >= min_count and any(map(str.isalpha, word))]
    here = np.array([domain[word] for word in words], dtype=np.float64)
    there = np.array([general.get(word, 0) for word in words], dtype=np.float64)
    here_all, there_all = sum(domain.values()), sum(general.values())
    if not words or not there_all:
        raise DataError("salient terms need words of the domain's text and of general text")
    # The prior weighs a tenth of the smaller text.
    strength = 0.1 * min(here_all, there_all)
    prior = strength * (here + there) / (here_all + there_all)
    odds = _log_odds(here, prior, here_all + strength) - _log_odds(there, prior, there_all + strength)
    z = odds / np.sqrt(1.0 / (here + prior) + 1.0 / (there + prior))
    order = [int(place) for place in np.lexsort((words, -z)) if z[place] >= min_z][:most]
    if not order:
        raise DataError(
            f"no word of the domain stands out from general text by {min_z:g} standard deviations"
        )
    weights = np.minimum(np.exp(np.minimum(odds, math.log(most_weight))), most_weight)
    return [Term(words[i], float(weights[i]), float(odds[i]), float(z[i])) for i in order]


def count_words(corpus: Corpus, words: WordTables, documents: np.ndarray | None = None) -> Counter[str]:
    """Count the words of a corpus, in lower case and without accents.

    Args:
        corpus: the tokenised documents.
        words: word tables of the tokenizer that made it.
        documents: ``int64`` numbers of those to count; by default all.
    """
    texts: dict[str, int] = {}
    lexicon = Lexicon(words, lambda text: [texts.setdefault(" ".join(atoms_of(text)), len(texts))])
    totals = np.zeros(0, dtype=np.int64)
    for input_ids, first, _ in words_in(
        corpus, words, np.arange(len(corpus)) if documents is None else documents
    ):
        rows = lexicon.rows(input_ids, first)
        counts = np.bincount(lexicon.table()[0][rows], minlength=len(totals))
        counts[: len(totals)] += totals
        totals = counts
    names = list(texts)
    return Counter({names[number]: int(count) for number, count in enumerate(totals) if names[number]})


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
