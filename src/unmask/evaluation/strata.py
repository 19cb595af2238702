"""Strata of the targets: tables by token frequency, by place in the word and by part of the document.

Every target belongs to one row of each of these tables, so their rows sum to the whole. The table by replacement has
targets of its own: the same ones, of part of the text, replaced as in training.

Shapes: T tokens, N sequences, M targets, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.config.settings import MaskingSettings
from unmask.data.batches import Batch, TextSource

Ids = NDArray[np.int64]

EDGES = (1, 10, 100, 1_000, 10_000, 100_000)
PARTS = 5
REPLACEMENTS = ("mask token", "random token", "unchanged", "all, as in training")
"""What a model sees at a target that is replaced as in training."""


class Places(NamedTuple):
    """Where the M targets of a batch occur.

    Attributes:
        document: ``int64 [M]``, number within the documents of the source.
        position: ``int64 [M]``, token of the document, from 0.
        length: ``int64 [M]``, tokens of the document.
        begins_word: ``bool [M]``, or ``None`` where the tokenizer does not mark where words begin.
    """

    document: Ids
    position: Ids
    length: Ids
    begins_word: NDArray[np.bool_] | None


def places(source: TextSource, batch: Batch) -> Places:
    """Locate the targets of a batch of ``source``."""
    document, start, _ = source.sequences.locate(batch.sequence_ids)
    sequence = np.searchsorted(batch.cu_seqlens, batch.target_index, side="right") - 1
    front = len(source.vocabulary.prefix)
    position = start[sequence] + batch.target_index - batch.cu_seqlens[sequence] - front
    lengths = source.corpus.lengths[source.documents[document]]
    return Places(
        document[sequence], position, lengths[sequence], _begins_word(source, batch, document, start)
    )


def _begins_word(source: TextSource, batch: Batch, document: Ids, start: Ids) -> NDArray[np.bool_] | None:
    words = source.vocabulary.words
    if words is None:
        return None
    ids = batch.input_ids.copy()
    ids[batch.target_index] = batch.target_ids
    continued = np.flatnonzero(start > 0)
    if source.vocabulary.prefix and len(continued):
        # A sequence may continue in the middle of a word: whether its first token begins one depends on the token before.
        ones = np.ones(len(continued), dtype=np.int64)
        before = source.corpus.gather(source.documents[document[continued]], start[continued] - 1, ones)
        ids[batch.cu_seqlens[continued] + len(source.vocabulary.prefix) - 1] = before
    starts: NDArray[np.bool_] = words.starts(ids)[batch.target_index]
    return starts


def replacements(batch: Batch, mask_id: int) -> Ids:
    """Return ``int64 [M]``: what the model sees at each target, as an index into :data:`REPLACEMENTS`."""
    shown = batch.input_ids[batch.target_index]
    return np.where(shown == mask_id, 0, np.where(shown == batch.target_ids, 2, 1))


def replaced_as(masking: MaskingSettings) -> str:
    """Say how training replaces the targets."""
    kept = 1 - masking.mask_share - masking.random_share
    return (
        f"{masking.mask_share:.0%} of the targets replaced by the mask token, {masking.random_share:.0%} by a random "
        f"token, {kept:.0%} unchanged"
    )


@dataclass(frozen=True)
class Table:
    """One way to divide the targets.

    Attributes:
        key: its name in JSON.
        title: its name for people.
        labels: of its rows.
        note: a remark for the reader.
    """

    key: str
    title: str
    labels: tuple[str, ...]
    note: str


class Strata:
    """The tables of an evaluation.

    Args:
        counts: ``int64 [V]``, how often each token occurs in the text that frequency is counted on.
        counted_on: a description of that text.
        words: whether the tokenizer marks where words begin.
        masking: of training, for the table by replacement; without it there is none.

    Attributes:
        tables: those that the tokenizer allows.
        replaced: whether there is a table by replacement.
        groups: number of rows of all tables, end to end.
    """

    def __init__(
        self, counts: Ids, counted_on: str, *, words: bool = True, masking: MaskingSettings | None = None
    ) -> None:
        self._level = np.searchsorted(np.array(EDGES), counts, side="right")
        self.tables = [
            Table("by_frequency", "By frequency of the token", _levels(EDGES), f"times seen in {counted_on}"),
            Table(
                "by_piece",
                "By place in the word",
                ("word-initial", "continuation"),
                "as the tokenizer marks it",
            ),
            Table(
                "by_position",
                "By part of the document",
                _parts(PARTS),
                "the first to the last fifth of its tokens",
            ),
        ]
        if not words:
            self.tables = [table for table in self.tables if table.key != "by_piece"]
        self.replaced = masking is not None and masking.mask_share < 1
        if masking is not None and self.replaced:
            note = f"on part of the text, masked as in training: {replaced_as(masking)}"
            self.tables.append(
                Table("by_replacement", "By what the model sees at the target", REPLACEMENTS, note)
            )
        self.groups = sum(len(table.labels) for table in self.tables)

    def rows_of(self, at: Places, target_ids: Ids) -> list[Ids]:
        """Return ``int64 [M]`` for each table but that by replacement: which of all ``groups`` rows each target belongs to."""
        found = {
            "by_frequency": self._level[target_ids],
            "by_piece": None if at.begins_word is None else 1 - at.begins_word.astype(np.int64),
            "by_position": at.position * PARTS // at.length,
        }
        rows, before = [], 0
        for table in self.tables[:-1] if self.replaced else self.tables:
            row = found[table.key]
            assert row is not None
            rows.append(row + before)
            before += len(table.labels)
        return rows

    def replaced_rows(self, batch: Batch, mask_id: int) -> list[Ids]:
        """Return ``int64 [M]``, twice: the row of each target in the table by replacement, and the row of all targets."""
        kind = replacements(batch, mask_id)
        last = len(REPLACEMENTS) - 1
        return [self.groups - 1 - last + kind, np.full(len(kind), self.groups - 1)]

    def spans(self) -> list[tuple[Table, slice]]:
        """Return each table with where its rows lie among all groups."""
        ends = np.cumsum([len(table.labels) for table in self.tables])
        return [
            (table, slice(end - len(table.labels), end)) for table, end in zip(self.tables, ends, strict=True)
        ]


def _levels(edges: Sequence[int]) -> tuple[str, ...]:
    inside = (f"{low:,}–{high - 1:,}" for low, high in pairwise(edges))
    return ("never", *inside, f"{edges[-1]:,} or more")


def _parts(count: int) -> tuple[str, ...]:
    return tuple(f"{100 * part // count}–{100 * (part + 1) // count}%" for part in range(count))
