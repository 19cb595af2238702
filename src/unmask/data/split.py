"""Split documents into those to train on and those held out, by the hash of their text.

The held-out documents are those with the least hashes: a share of all, and of a short text a few more, so that its metrics
can have an interval. Which they are depends on the text alone, not on its order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from unmask.data.corpus import Corpus, document_key
from unmask.data.document_set import DocumentSet
from unmask.data.heldout_size import PART, held_out_texts


def is_held_out(keys: Any, share: float) -> Any:
    """Return whether a share holds out a document by its key, :func:`document_key`; of an array, for each of them."""
    return keys < np.uint64(int(share * 2.0**64))


def split_documents(corpus: Corpus, share: float, minimum: int) -> tuple[DocumentSet, DocumentSet | None]:
    """Return the documents to train on, and those held out: at least one where there are two."""
    least = corpus.least_keys(max(2, PART * minimum))
    if len(least) < 2:
        return DocumentSet(len(corpus)), None
    heldout = corpus.where(lambda keys: is_held_out(keys, share))
    has_both = 0 < len(heldout) < len(corpus)
    by_share = int(is_held_out(least, share).sum()) if has_both else 1
    count = held_out_texts(by_share, len(least), minimum)
    if not has_both or count > by_share:
        bound = least[count - 1]
        heldout = corpus.where(lambda keys: keys <= bound)
    return ~heldout, heldout


def split_texts(texts: Iterable[str], share: float, minimum: int) -> Iterator[tuple[str, bool]]:
    """Yield texts, and whether :func:`split_documents` holds them out, without knowing all of them.

    The few that could be held out or not are kept, and come once it is known, at the latest in the end.
    """
    bound, most = int(share * 2.0**64), max(2, PART * minimum)
    least: list[int] = []  # of the keys so far, in ascending order
    undecided: dict[int, list[str]] = {}
    has_other = False  # a text that the share does not hold out

    def decision(key: int) -> bool | None:
        if key < bound:
            return True if has_other else None
        return False if len(least) >= minimum and key > least[minimum - 1] else None

    for text in texts:
        key = document_key(text)
        place = bisect_left(least, key)
        if place == len(least) or least[place] != key:
            insort(least, key)
            del least[most:]
        has_other |= key >= bound
        undecided.setdefault(key, []).append(text)
        for each in [each for each in undecided if decision(each) is not None]:
            yield from ((text, each < bound) for text in undecided.pop(each))
    count = 0
    if len(least) > 1:
        by_share = bisect_left(least, bound) if has_other and least[0] < bound else 1
        count = held_out_texts(by_share, len(least), minimum)
    for key in sorted(undecided):
        yield from ((text, key in least[:count]) for text in undecided[key])


def training_texts(texts: Iterable[str], share: float, minimum: int) -> Iterator[str]:
    """Yield the texts that are not held out."""
    return (text for text, is_held in split_texts(texts, share, minimum) if not is_held)
