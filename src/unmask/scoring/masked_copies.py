"""Masked copies of a text: what is masked, what is predicted, and the window of text around it.

Pure: token ids and beginnings of words in, arrays out. Every token of a text is predicted exactly once. A text that is
longer than the model takes is divided into windows, one around each masked place, so that as much text stands on either
side as fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from unmask.data.batches import Batch
from unmask.data.packing import frame_positions
from unmask.data.tokenizer import Vocabulary
from unmask.errors import ConfigError, did_you_mean

Method = Literal["original", "within_word_l2r", "whole_word", "estimate"]
METHODS: tuple[Method, ...] = get_args(Method)


def method_named(name: str) -> Method:
    """Return the method of this name, in which hyphens do for underscores.

    Raises:
        ConfigError: there is no such method.
    """
    for method in METHODS:
        if name.lower().replace("-", "_") == method:
            return method
    near = did_you_mean(name, METHODS)
    raise ConfigError(f"no scoring method '{name}'{near}; there are {', '.join(METHODS)}")


@dataclass(frozen=True)
class Copies:
    """``C`` copies of parts of a row of tokens, an input of the model each; all are ``int64 [C]``, places in the row.

    Attributes:
        begin, end: the window that is shown.
        mask_begin, mask_end: what is masked in it; nothing where both are equal.
        target_begin, target_end: what is predicted.
    """

    begin: np.ndarray
    end: np.ndarray
    mask_begin: np.ndarray
    mask_end: np.ndarray
    target_begin: np.ndarray
    target_end: np.ndarray

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def sizes(self) -> np.ndarray:
        """``int64 [C]``: text tokens of each window."""
        return self.end - self.begin

    @property
    def targets(self) -> np.ndarray:
        """``int64 [C]``: how many tokens are predicted."""
        return self.target_end - self.target_begin

    def take(self, which: np.ndarray | slice) -> Copies:
        """Return some of the copies."""
        return Copies(*(column[which] for column in self._columns))

    def shifted(self, by: int) -> Copies:
        """Return the copies of a text that begins at place ``by`` of a longer row."""
        return Copies(*(column + by for column in self._columns))

    @staticmethod
    def joined(parts: Sequence[Copies]) -> Copies:
        """Return the copies of all parts, in order."""
        return Copies(
            *(np.concatenate(columns) for columns in zip(*(part._columns for part in parts), strict=True))
        )

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


def copies_of(starts: np.ndarray, method: Method, room: int, most_targets: int) -> Copies:
    """Plan the copies that score one text.

    Args:
        starts: ``bool [n]``, whether a word begins at each of the text's tokens.
        method: see :mod:`unmask.scoring.scorer`.
        room: text tokens that fit into a window, at least 1.
        most_targets: tokens that may be predicted at once.
    """
    n, places = len(starts), np.arange(len(starts))
    longest = max(1, room // 2)  # what is masked never takes more than half of a window
    words = np.append(np.flatnonzero(_cut_long(starts, longest)), n)
    if method == "original":
        targets = masked = places, places + 1
    elif method == "within_word_l2r":
        targets = places, places + 1
        masked = places, words[np.searchsorted(words, places, side="right")]
    elif method == "whole_word":
        targets = masked = words[:-1], words[1:]
    else:
        step = min(n if n <= room else longest, most_targets)
        cuts = np.append(np.arange(0, n, step), n)
        targets, masked = (cuts[:-1], cuts[1:]), (cuts[:-1], cuts[:-1])
    middle = (targets[0] + np.maximum(targets[1], masked[1])) // 2
    begin = np.clip(middle - room // 2, 0, max(0, n - room))
    return Copies(begin, np.minimum(begin + room, n), *masked, *targets)


def _cut_long(starts: np.ndarray, longest: int) -> np.ndarray:
    """Return ``bool [n]``: where words begin when those of more than ``longest`` tokens are split."""
    places = np.arange(len(starts))
    first = np.maximum.accumulate(np.where(starts, places, 0))
    return (places - first) % longest == 0


def masked_batch(row: np.ndarray, copies: Copies, vocabulary: Vocabulary) -> tuple[Batch, np.ndarray]:
    """Write copies out as one batch; those that mask two texts to the same input are computed once.

    Args:
        row: ``int64``, the tokens of all texts without special tokens.
        copies: the longest first.
        vocabulary: of the model.

    Returns:
        The batch, and ``int64 [M]``: the place in the row of each of its targets.
    """
    batch, places = _written(row, copies, vocabulary)
    bounds = pairwise(batch.cu_seqlens.tolist())
    numbers: dict[bytes, int] = {}
    same = [
        numbers.setdefault(batch.input_ids[a:b].tobytes(), number) for number, (a, b) in enumerate(bounds)
    ]
    if len(numbers) == len(copies):
        return batch, places
    return _merged(batch, places, np.array(same), np.repeat(np.arange(len(copies)), copies.targets))


def _written(row: np.ndarray, copies: Copies, vocabulary: Vocabulary) -> tuple[Batch, np.ndarray]:
    prefix, suffix = np.array(vocabulary.prefix), np.array(vocabulary.suffix)
    sizes, numbers = copies.sizes, np.arange(len(copies))
    cu_seqlens = np.concatenate([[0], np.cumsum(sizes + vocabulary.overhead)])
    text = cu_seqlens[:-1] + len(prefix)  # where each window's text begins in the batch
    input_ids = np.empty(cu_seqlens[-1], dtype=np.int64)
    input_ids[cu_seqlens[:-1, None] + np.arange(len(prefix))] = prefix
    input_ids[(text + sizes)[:, None] + np.arange(len(suffix))] = suffix
    copy, place = _spread(copies.begin, copies.end)
    masked = (place >= copies.mask_begin[copy]) & (place < copies.mask_end[copy])
    shift = text - copies.begin
    input_ids[place + shift[copy]] = np.where(masked, vocabulary.mask_id, row[place])
    copy, place = _spread(copies.target_begin, copies.target_end)
    lengths = cu_seqlens.astype(np.int32)
    batch = Batch(input_ids, frame_positions(cu_seqlens), lengths, place + shift[copy], row[place], numbers)
    return batch, place


def _spread(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write ``[C]`` stretches out: the number of the stretch, and the place, of everything in them."""
    sizes = end - begin
    number = np.repeat(np.arange(len(begin)), sizes)
    before = np.cumsum(sizes) - sizes
    return number, np.arange(len(number)) + (begin - before)[number]


def _merged(batch: Batch, places: np.ndarray, same: np.ndarray, copy: np.ndarray) -> tuple[Batch, np.ndarray]:
    """Drop the copies that repeat an earlier one; their targets move to that one.

    Args:
        batch: with all copies.
        places: ``int64 [M]``, handed on in the order of the new targets.
        same: ``int64 [C]``, the first copy that is like each.
        copy: ``int64 [M]``, whose target each is.
    """
    lengths, kept = np.diff(batch.cu_seqlens), same == np.arange(len(same))
    new_begin = np.concatenate([[0], np.cumsum(lengths[kept])])
    moved = new_begin[np.cumsum(kept)[same] - 1] - batch.cu_seqlens[:-1]
    target_index = batch.target_index + moved[copy]
    order = np.argsort(target_index, kind="stable")
    shown = np.repeat(kept, lengths)
    merged = replace(
        batch,
        input_ids=batch.input_ids[shown],
        position_ids=batch.position_ids[shown],
        cu_seqlens=new_begin.astype(np.int32),
        target_index=target_index[order],
        target_ids=batch.target_ids[order],
        sequence_ids=batch.sequence_ids[kept],
    )
    return merged, places[order]
