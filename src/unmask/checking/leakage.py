"""Find test texts that occur in the training text: word for word, or in a run of 13 words (Brown et al. 2020).

The test files are read first, as hashes; then the documents of the training text are looked up.
"""

from __future__ import annotations

import os
import re
from array import array
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from unmask.checking.characters import Chunk
from unmask.checking.text import DocumentIndex, shown

RUN = 13
"""Words of a run that counts as an overlap."""
MOSTLY = 0.5
"""Share of the runs of a test text that must occur in the training text to be a problem rather than a warning."""
PAIRS = 1000
"""Pairs of a test text and a training document that are kept for each file."""
_BITS = 22
_PART = r"(?:^|[\W_])(?:{})\d*(?:[\W_]|$)"
_TRAIN = re.compile(_PART.format("train|training"), re.IGNORECASE)
_TEST = re.compile(
    _PART.format("dev|devel|development|val|valid|validation|test|testing|heldout|eval"), re.IGNORECASE
)


def is_train_name(source: str) -> bool:
    """Say whether a file is called like training text: ``train.jsonl``, ``in_domain_train.tsv``."""
    name = PurePath(source).name
    return bool(_TRAIN.search(name)) and not _TEST.search(name)


def is_test_name(source: str) -> bool:
    """Say whether a file is called like text to test on: ``dev.jsonl``, ``test-00000.parquet``, ``valid.txt``."""
    name = PurePath(source).name
    return bool(_TEST.search(name)) and not _TRAIN.search(name)


class _Lookup:
    """A set of ``uint64`` values: where each first occurs in the test texts, and where in the training text."""

    def __init__(self, values: np.ndarray) -> None:
        self.unique, self.first, self.inverse = np.unique(values, return_index=True, return_inverse=True)
        self.seen = np.full(len(self.unique), -1, dtype=np.int64)
        self._sieve = np.zeros(1 << _BITS, dtype=bool)
        self._sieve[self.unique & np.uint64((1 << _BITS) - 1)] = True

    def match(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the values in the set, ``int64 [M]``, and their indices among the unique ones."""
        if not len(self.unique):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        maybe = np.flatnonzero(self._sieve[values & np.uint64((1 << _BITS) - 1)])
        at = np.minimum(np.searchsorted(self.unique, values[maybe]), len(self.unique) - 1)
        sure = self.unique[at] == values[maybe]
        return maybe[sure], at[sure]

    def see(self, at: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Note the first row at which each unique value was seen; return the indices of the first sightings."""
        _, first = np.unique(at, return_index=True)
        first = first[self.seen[at[first]] < 0]
        self.seen[at[first]] = rows[first]
        return first


@dataclass
class LeakIndex:
    """The texts of test files, to be searched for in training text.

    Attributes:
        index: files and lines of the test texts.
        looked: training documents that were looked up; ``repeated``: those equal to a test text.
    """

    index: DocumentIndex = field(default_factory=DocumentIndex)
    looked: int = 0
    repeated: int = 0
    _keys: array[int] = field(default_factory=lambda: array("Q"))
    _runs: list[np.ndarray] = field(default_factory=list)
    _rows: list[np.ndarray] = field(default_factory=list)
    _excerpts: dict[int, str] = field(default_factory=dict)

    def add(self, chunk: Chunk, keys: np.ndarray) -> None:
        """Add test texts, whose keys are ``uint64 [D]``."""
        base = len(self.index)
        self.index.add(chunk)
        self._keys.frombytes(keys.tobytes())
        runs, first = chunk.phrases(RUN)
        self._runs.append(runs)
        self._rows.append(base + chunk.word_documents[first])

    def freeze(self) -> None:
        """Build the lookups, after the last test text."""
        self.texts = _Lookup(np.array(self._keys, dtype=np.uint64))
        self.runs = _Lookup(np.concatenate(self._runs))
        self.run_rows = np.concatenate(self._rows)
        self._runs = []
        self._own = set(map(os.path.realpath, self.index.sources))

    def look(self, chunk: Chunk, keys: np.ndarray) -> None:
        """Look up training documents; those of the test files themselves are skipped."""
        sources = {document.source for document in chunk.documents}
        outside = {source for source in sources if os.path.realpath(source) not in self._own}
        foreign = np.array([document.source in outside for document in chunk.documents])
        self.looked += int(foreign.sum())
        if not outside:
            return
        found, at = self.texts.match(keys)
        at, found = at[foreign[found]], found[foreign[found]]
        self.repeated += len(found)
        for place in self.texts.see(at, chunk.first + found).tolist():
            self._keep(int(self.texts.first[at[place]]), chunk.documents[found[place]].text)
        self._look_for_runs(chunk, foreign)

    def _look_for_runs(self, chunk: Chunk, foreign: np.ndarray) -> None:
        runs, words = chunk.phrases(RUN)
        found, at = self.runs.match(runs)
        documents = chunk.word_documents[words[found]]
        found, at, documents = (part[foreign[documents]] for part in (found, at, documents))
        first = self.runs.see(at, chunk.first + documents)
        rows = self.run_rows[self.runs.first[at[first]]]
        for place in np.unique(rows, return_index=True)[1].tolist():
            word, document = int(words[found[first[place]]]), int(documents[first[place]])
            begin = int(chunk.word_spans[0][word] - chunk.bounds[document])
            end = int(chunk.word_spans[1][word + RUN - 1] - chunk.bounds[document])
            self._keep(int(rows[place]), chunk.documents[document].text[begin:end])

    def _keep(self, row: int, text: str) -> None:
        if len(self._excerpts) < 2 * PAIRS:
            self._excerpts.setdefault(row, shown(text))

    def found(self, training: DocumentIndex) -> dict[str, Any]:
        """Return for each test file how many of its texts occur in the training text, with the lines of both."""
        self._training = training
        total = np.bincount(self.run_rows, minlength=len(self.index))
        hits = self.runs.seen[self.runs.inverse] >= 0
        covered = np.bincount(self.run_rows[hits], minlength=len(self.index)) / np.maximum(total, 1)
        exact = self.texts.seen[self.texts.inverse]
        run = np.full(len(self.index), -1, dtype=np.int64)
        run[self.run_rows[hits][::-1]] = self.runs.inverse[hits][::-1]
        sources = self.index.source_numbers
        files = [
            self._of_file(name, np.flatnonzero(sources == number), exact, covered, run)
            | {"short": int((total[sources == number] == 0).sum())}
            for number, name in enumerate(self.index.sources)
        ]
        return {"files": files, "searched": self.looked, "training_documents": self.repeated, "run": RUN}

    def _of_file(
        self, name: str, rows: np.ndarray, exact: np.ndarray, covered: np.ndarray, run: np.ndarray
    ) -> dict[str, Any]:
        whole = rows[exact[rows] >= 0]
        part = rows[(exact[rows] < 0) & (covered[rows] > 0)]
        pairs = [
            # Of several equal texts, and of several with one run, the first has the excerpt.
            self._pair(row, int(exact[row]), "exact", 1.0, int(self.texts.first[self.texts.inverse[row]]))
            for row in whole[:PAIRS].tolist()
        ]
        for row in part[np.argsort(-covered[part], kind="stable")][: PAIRS - len(pairs)].tolist():
            other, owner = int(self.runs.seen[run[row]]), int(self.run_rows[self.runs.first[run[row]]])
            pairs.append(self._pair(row, other, "overlap", float(covered[row]), owner))
        return {
            "file": name,
            "documents": len(rows),
            "exact": len(whole),
            "exact_share": len(whole) / max(1, len(rows)),
            "overlap": len(part),
            "overlap_share": len(part) / max(1, len(rows)),
            "mostly": int((covered[part] >= MOSTLY).sum()),
            "pairs": pairs,
            "pairs_left_out": len(whole) + len(part) - len(pairs),
        }

    def _pair(self, row: int, other: int, kind: str, share: float, owner: int) -> dict[str, Any]:
        here, there = self.index.place(row), self._training.place(other)
        found = {"line": here.line, "kind": kind, "share": share, "in": there.source, "in_line": there.line}
        return {**found, "text": self._excerpts.get(owner, "")}
