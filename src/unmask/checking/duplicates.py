"""Find exact and near duplicates among documents.

Exact: the same text after Unicode NFKC, in lower case, with white space as single spaces. Near: an estimated Jaccard
similarity of at least 0.8 between the sets of word trigrams, by MinHash (Broder 1997) with locality-sensitive hashing;
the sketches are made by the package rensa.
"""

from __future__ import annotations

import importlib.util
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask.checking.characters import Chunk
from unmask.checking.text import EXAMPLES, DocumentIndex
from unmask.data.corpus import document_key

SIMILARITY = 0.8
NEAR_WORDS = 10
"""Words that a document must have to be compared with others."""
NEAR_DOCUMENTS = 1_000_000
"""Sketches that are kept: 128 bytes each."""
_PHRASE, _PERMUTATIONS, _BANDS, _ROWS = 3, 64, 12, 5
_SEED = 1997


def text_keys(chunk: Chunk) -> np.ndarray:
    """Return ``uint64 [D]``: the key of each document."""
    return np.array([document_key(document.text) for document in chunk.documents], dtype=np.uint64)


def can_compare() -> bool:
    """Return whether the package for near duplicates is installed."""
    return importlib.util.find_spec("rensa") is not None


@dataclass(frozen=True)
class Group:
    """Duplicate documents: the numbers of the first two, and how many there are."""

    first: int
    second: int
    size: int


class Duplicates:
    """Collects a key, and where rensa is installed a sketch, of each document.

    Attributes:
        near: whether near duplicates are searched for.
        compared: documents with a sketch; ``left_out`` came after :data:`NEAR_DOCUMENTS`.
    """

    def __init__(self) -> None:
        self.near = can_compare()
        self.compared = self.left_out = 0
        self._keys = array("Q")
        self._sketches: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    def add(self, chunk: Chunk, keys: np.ndarray) -> None:
        """Add the documents of a chunk, whose keys are ``uint64 [D]``."""
        self._keys.frombytes(keys.tobytes())
        if self.near:
            self._sketch(chunk)

    def _sketch(self, chunk: Chunk) -> None:
        from rensa import RMinHash

        chosen = np.flatnonzero(chunk.word_counts >= NEAR_WORDS)
        room = NEAR_DOCUMENTS - self.compared
        self.left_out += max(0, len(chosen) - room)
        chosen = chosen[:room]
        if not len(chosen):
            return
        hashes, first = chunk.phrases(_PHRASE)
        documents = chunk.word_documents[first]
        taken = np.isin(documents, chosen)
        offsets = np.searchsorted(documents[taken], [*chosen.tolist(), len(chunk.documents)]).astype(
            np.uint64
        )
        found = RMinHash.digest_matrix_from_flat_token_hashes(hashes[taken], offsets, _PERMUTATIONS, _SEED)
        # Half of each value: by chance two agree once in 65,536.
        self._sketches.append(np.array(found.to_rows(), dtype=np.uint32).astype(np.uint16))
        self._rows.append(chunk.first + chosen)
        self.compared += len(chosen)

    def found(self, index: DocumentIndex) -> dict[str, Any]:
        """Return how many documents are exact or near duplicates of an earlier one, with the largest groups."""
        keys = np.array(self._keys, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        fresh = np.concatenate([[True], keys[order][1:] != keys[order][:-1]])
        repeated = np.zeros(len(keys), dtype=bool)
        repeated[order[~fresh]] = True
        begins = np.flatnonzero(fresh)
        sizes = np.diff(np.append(begins, len(keys)))
        big = begins[np.argsort(-sizes, kind="stable")][:EXAMPLES]
        groups = [
            Group(int(order[begin]), int(order[begin + 1]), int(sizes[np.searchsorted(begins, begin)]))
            for begin in big.tolist()
            if begin + 1 < len(keys) and not fresh[begin + 1]
        ]
        count = int(repeated.sum())
        return {
            "exact": count,
            "exact_share": count / len(keys),
            "exact_groups": int((sizes > 1).sum()),
            "exact_examples": [_group(group, index) for group in groups],
            "near": self._near(repeated, index, len(keys)) if self.near else None,
        }

    def _near(self, repeated: np.ndarray, index: DocumentIndex, documents: int) -> dict[str, Any]:
        pairs: dict[int, tuple[int, float]] = {}
        if self._rows:
            rows, sketches = np.concatenate(self._rows), np.concatenate(self._sketches)
            kept = ~repeated[rows]
            pairs = _similar(rows[kept], sketches[kept])
        best = sorted(pairs.items(), key=lambda item: (-item[1][1], item[0]))[:EXAMPLES]
        return {
            "documents": len(pairs),
            "share": len(pairs) / documents,
            "compared": self.compared,
            "left_out": self.left_out,
            "short": documents - self.compared - self.left_out,
            "similarity": SIMILARITY,
            "examples": [
                {"similarity": value, **_group(Group(other, row, 2), index)} for row, (other, value) in best
            ],
        }


def _group(group: Group, index: DocumentIndex) -> dict[str, Any]:
    return {"copies": group.size, "first": index.place(group.first), "second": index.place(group.second)}


def _similar(rows: np.ndarray, sketches: np.ndarray) -> dict[int, tuple[int, float]]:
    """Return, for each near duplicate of an earlier document, that document and the similarity.

    Args:
        rows: ``int64 [N]`` numbers of the documents, rising.
        sketches: ``uint16 [N, 64]``.
    """
    found: dict[int, tuple[int, float]] = {}
    for band in range(_BANDS):
        values = np.ascontiguousarray(sketches[:, band * _ROWS : (band + 1) * _ROWS])
        _, keys = np.unique(values.view([("", np.uint16)] * _ROWS).ravel(), return_inverse=True)
        order = np.argsort(keys, kind="stable")
        fresh = np.concatenate([[True], keys[order][1:] != keys[order][:-1]])
        head = order[np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))]
        # Each candidate against the first of its bucket, and against the one before it.
        for other in (head, np.roll(order, 1)):
            later, earlier = order[~fresh], other[~fresh]
            same = (sketches[later] == sketches[earlier]).mean(axis=1)
            for at in np.flatnonzero(same >= SIMILARITY).tolist():
                row = int(rows[later[at]])
                if row not in found or found[row][1] < same[at]:
                    found[row] = (int(rows[earlier[at]]), float(same[at]))
    return found
