"""The endless stream of training batches: the resumable cursor, and the sequences of a step.

The batch of a step depends on the cursor alone; it is split over processes and micro-batches afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from unmask.data.batches import EMPTY, Batch, MakeBatch, join, masked_batch
from unmask.data.masking.random_bits import MaskKey
from unmask.data.order import ORDER, Order, Text
from unmask.data.packing import deal, split_evenly


@dataclass(frozen=True)
class Cursor:
    """Position in the stream of batches.

    Attributes:
        epoch: completed passes over the text.
        used: sequences of the current pass that were used.
        replay_epoch: completed passes over the replay text.
        replay_used: sequences of its current pass that were used.
        tokens: tokens of the training text before it, where they are known; they follow from ``epoch`` and ``used``.
        replay_tokens: tokens of the replay text before it.
        order: version of the order.
    """

    epoch: int = 0
    used: int = 0
    replay_epoch: int = 0
    replay_used: int = 0
    tokens: int | None = field(default=None, compare=False)
    replay_tokens: int | None = field(default=None, compare=False)
    order: int = ORDER

    @staticmethod
    def of(content: Mapping[str, int]) -> Cursor:
        """Return the cursor of its fields; those of earlier versions have no ``order``."""
        return Cursor(**{"order": 1, **content})


class StepSource(Text, Protocol):
    """What a stream takes the sequences of its steps from."""

    @property
    def longest(self) -> int:
        """The most tokens that a sequence can have."""

    def documents_of(self, numbers: np.ndarray) -> list[int]:
        """Return the documents of ``int64 [N]`` sequences, each once."""

    def batch(self, numbers: np.ndarray, key: MaskKey, rate: float, *, make: MakeBatch) -> Batch:
        """Make the batch of ``int64 [N]`` sequences."""


class TrainingStream:
    """The endless stream of training batches, addressed by a cursor.

    Sequences of the replay text are numbered after those of the training text.

    Args:
        source: the training text.
        batch_tokens: tokens of one optimizer step.
        seed: seed of order and masks.
        replay: general text to mix in.
        replay_share: its share of the tokens.
    """

    def __init__(
        self,
        source: StepSource,
        batch_tokens: int,
        seed: int,
        replay: StepSource | None = None,
        replay_share: float = 0.0,
    ) -> None:
        self.source, self.replay, self.batch_tokens, self.seed = source, replay, batch_tokens, seed
        self.replay_share = replay_share if replay is not None else 0.0
        self._order = Order(source, seed)
        self._replay_order = None if replay is None else Order(replay, seed)

    def take(self, cursor: Cursor) -> tuple[np.ndarray, Cursor]:
        """Return the ``int64 [N]`` sequences of the step at ``cursor``, longest first, and the next cursor."""
        before = _known_tokens(cursor.tokens, cursor.epoch, cursor.used)
        if self._replay_order is not None and before is None:
            before = self._order.tokens_before(cursor.order, (cursor.epoch, cursor.used))
        general, general_sizes, replay = self._take_replay(cursor, before or 0)
        left = self.batch_tokens - int(general_sizes.sum())
        at = cursor.epoch, cursor.used
        numbers, sizes, at = self._order.take(cursor.order, at, left, at_least_one=not len(general))
        tokens = None if before is None else before + int(sizes.sum())
        numbers, sizes = np.concatenate([numbers, general]), np.concatenate([sizes, general_sizes])
        following = replace(replay, epoch=at[0], used=at[1], tokens=tokens)
        return numbers[np.lexsort((numbers, -sizes))], following

    def _take_replay(self, cursor: Cursor, before: int) -> tuple[np.ndarray, np.ndarray, Cursor]:
        """Take as much replay text as makes ``replay_share`` of all tokens up to and including this step.

        A sequence that does not fit is used in a later step, so the share also holds for small steps.
        """
        if self._replay_order is None:
            none = np.zeros(0, dtype=np.int64)
            return none, none, cursor
        at = cursor.replay_epoch, cursor.replay_used
        done = _known_tokens(cursor.replay_tokens, *at)
        if done is None:
            done = self._replay_order.tokens_before(cursor.order, at)
        owed = self.replay_share * (before + done + self.batch_tokens) - done
        budget = min(int(owed), self.batch_tokens)
        numbers, sizes, at = self._replay_order.take(cursor.order, at, budget, at_least_one=False)
        following = replace(
            cursor, replay_epoch=at[0], replay_used=at[1], replay_tokens=done + int(sizes.sum())
        )
        return numbers + len(self.source.sequences), sizes, following

    @property
    def longest(self) -> int:
        """The most tokens that a sequence can have."""
        return self.source.longest

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Return ``int64 [N]``: tokens of sequences with their special tokens."""
        sizes = np.empty(len(numbers), dtype=np.int64)
        for source, here, own in self._parts(numbers):
            sizes[here] = source.sizes(own)
        return sizes

    def documents(self, numbers: np.ndarray) -> list[int | str]:
        """Return the documents of ``int64 [N]`` sequences: their numbers in the shards, from 0."""
        found: list[int | str] = []
        for source, _, own in self._parts(numbers):
            which = source.documents_of(own)
            found += which if source is self.source else [f"replay {number}" for number in which]
        return found

    def micro_batches(
        self,
        cursor: Cursor,
        numbers: np.ndarray,
        rate: float,
        parts: int,
        rank: int = 0,
        world: int = 1,
        make: MakeBatch = masked_batch,
    ) -> list[Batch]:
        """Return the micro-batches of this process, of about equal numbers of tokens.

        One process has at most ``parts``; of several, which do about the same work, each has exactly so many, and some
        may have no sequences, since all take part in every message. ``make`` makes a batch of packed sequences.
        """
        if world > 1:
            numbers = numbers[deal(self.sizes(numbers), world)[rank]]
        slices = split_evenly(self.sizes(numbers), parts)
        return [
            self._batch(cursor, numbers[part], rate, make)
            for part in slices
            if world > 1 or part.stop > part.start
        ]

    def parts(self, numbers: np.ndarray, most: int, world: int = 1) -> int:
        """Return how many micro-batches of about ``most`` tokens each of ``world`` processes needs."""
        sizes = self.sizes(numbers)
        tokens = max(int(sizes[hand].sum()) for hand in deal(sizes, world)) if world > 1 else int(sizes.sum())
        return max(1, -(-tokens // most))

    def _batch(self, cursor: Cursor, numbers: np.ndarray, rate: float, make: MakeBatch) -> Batch:
        if not len(numbers):
            return EMPTY
        batches = []
        for source, here, own in self._parts(numbers):
            epoch = cursor.epoch if source is self.source else cursor.replay_epoch
            batch = source.batch(own, MaskKey(self.seed, epoch), rate, make=make)
            batches.append(replace(batch, sequence_ids=numbers[here]))
        return batches[0] if len(batches) == 1 else join(batches)

    def _parts(self, numbers: np.ndarray) -> Iterator[tuple[StepSource, np.ndarray, np.ndarray]]:
        """Yield each text that has some of the sequences, ``bool [N]`` which, and their numbers in that text."""
        count = len(self.source.sequences)
        of_replay = numbers >= count
        if not of_replay.all():
            yield self.source, ~of_replay, numbers[~of_replay]
        if self.replay is not None and of_replay.any():
            yield self.replay, of_replay, numbers[of_replay] - count


def _known_tokens(tokens: int | None, epoch: int, used: int) -> int | None:
    """Return the tokens before a position; there are none at the beginning."""
    return 0 if not epoch and not used else tokens
