"""Masked batches: the order of sequences in an epoch, the resumable cursor, and the arrays of a step.

The batch of a step depends on the cursor alone; it is split over processes and micro-batches afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unmask.config.settings import MaskingSettings
from unmask.data.corpus import Corpus, token_counts
from unmask.data.masking.mask import mask
from unmask.data.masking.random_bits import EVALUATION_KEY, MaskKey, shuffled
from unmask.data.masking.units import plan_of
from unmask.data.packing import (
    Packed,
    Sequences,
    SequenceSplit,
    deal,
    frame_positions,
    next_batch,
    split_by_tokens,
    split_evenly,
)
from unmask.data.tokenizer import Vocabulary
from unmask.errors import DataError, plural

_COUNTED = 20_000_000


@dataclass(frozen=True)
class Batch:
    """One micro-batch: ``N`` concatenated sequences, ``T`` tokens, ``M`` targets, no padding.

    Attributes:
        input_ids: ``int64 [T]``, already masked.
        position_ids: ``int64 [T]``, from 0 in every sequence.
        cu_seqlens: ``int32 [N + 1]``, the first token of each sequence, then ``T``; the longest sequence is first.
        target_index: ``int64 [M]``, positions of the targets.
        target_ids: ``int64 [M]``, their original ids.
        sequence_ids: ``int64 [N]``, numbers of the sequences, for error messages.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    cu_seqlens: np.ndarray
    target_index: np.ndarray
    target_ids: np.ndarray
    sequence_ids: np.ndarray

    @property
    def tokens(self) -> int:
        return len(self.input_ids)


_NONE = np.zeros(0, dtype=np.int64)
_EMPTY = Batch(_NONE, _NONE, np.zeros(1, dtype=np.int32), _NONE, _NONE, _NONE)


@dataclass(frozen=True)
class Cursor:
    """Position in the stream of batches.

    Attributes:
        epoch: completed passes over the text.
        used: sequences of the current pass that were used.
        replay_epoch: completed passes over the replay text.
        replay_used: sequences of its current pass that were used.
    """

    epoch: int = 0
    used: int = 0
    replay_epoch: int = 0
    replay_used: int = 0


class TextSource:
    """Masked batches of some documents of a corpus.

    Args:
        corpus: the tokenised documents.
        documents: ``int64`` numbers of those to use.
        vocabulary: of the tokenizer that made the corpus.
        masking: masking settings.
        max_length: most tokens of a sequence, special tokens included.
        overlap: text tokens that consecutive sequences of a document share.

    Raises:
        ConfigError: the strategy does not fit the tokenizer, or lacks the file it needs.
        DataError: there are no tokens in these documents.
    """

    def __init__(
        self,
        corpus: Corpus,
        documents: np.ndarray,
        vocabulary: Vocabulary,
        masking: MaskingSettings,
        max_length: int,
        overlap: int = 0,
    ) -> None:
        self.corpus, self.documents, self.vocabulary, self.masking = corpus, documents, vocabulary, masking
        self.plan = plan_of(vocabulary, masking)
        split = SequenceSplit(max_length - vocabulary.overhead, overlap)
        self.sequences = Sequences(corpus.lengths[documents], split)
        if not len(self.sequences):
            raise DataError(
                "there is no text to make batches from: every document is empty", path=corpus.folder
            )

    def pack(self, numbers: np.ndarray) -> Packed:
        """Concatenate ``int64 [N]`` sequences with their special tokens."""
        which, start, body = self.sequences.locate(numbers)
        documents = self.documents[which]
        prefix, suffix = self.vocabulary.prefix, self.vocabulary.suffix
        cu_seqlens = np.zeros(len(numbers) + 1, dtype=np.int64)
        np.cumsum(body + self.vocabulary.overhead, out=cu_seqlens[1:])
        input_ids = self.corpus.gather(documents, start - len(prefix), np.diff(cu_seqlens))
        for place, token in enumerate(prefix):
            input_ids[cu_seqlens[:-1] + place] = token
        for place, token in enumerate(suffix):
            input_ids[cu_seqlens[1:] - len(suffix) + place] = token
        return Packed(input_ids, cu_seqlens, self.corpus.keys[documents], start - len(prefix))

    def batch(self, numbers: np.ndarray, key: MaskKey, rate: float, *, hidden: bool = False) -> Batch:
        """Make the masked batch of ``int64 [N]`` sequences; ``hidden`` replaces every target by the mask token."""
        packed = self.pack(numbers)
        masked = mask(packed, self.vocabulary, self.plan.hidden if hidden else self.plan, key, rate)
        return Batch(
            masked.input_ids,
            frame_positions(packed.cu_seqlens),
            packed.cu_seqlens.astype(np.int32),
            masked.target_index,
            masked.target_ids,
            numbers,
        )

    def by_length(self, numbers: np.ndarray) -> np.ndarray:
        """Return the numbers, longest sequence first, ties by number."""
        return numbers[np.lexsort((numbers, -self.sizes(numbers)))]

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Return ``int64 [N]``: tokens of sequences with their special tokens."""
        return self.sequences.locate(numbers)[2] + self.vocabulary.overhead

    @property
    def tokens(self) -> int:
        """Tokens of one pass, special tokens included."""
        return int(self.sizes(np.arange(len(self.sequences))).sum())

    def token_counts(self, most: int = _COUNTED) -> np.ndarray:
        """Return ``int64 [V]`` token counts of the text, estimated on every n-th document beyond ``most`` tokens."""
        lengths = self.corpus.lengths[self.documents]
        documents = self.documents[:: max(1, int(lengths.sum()) // most)]
        return token_counts(self.corpus, documents, self.vocabulary.size)

    def part(self, documents: np.ndarray) -> TextSource:
        """Return some of its documents, in the same sequences."""
        split = self.sequences.split
        length = split.body + self.vocabulary.overhead
        return TextSource(self.corpus, documents, self.vocabulary, self.masking, length, split.overlap)

    def has_targets(self, most: int) -> bool:
        """Return whether an evaluation on ``most`` tokens has a target: a text of a few words may have none."""
        return any(len(batch.target_ids) for batch in self.evaluation_batches(most, most))

    def can_have_targets(self) -> bool:
        """Return whether there is a token that may be masked."""
        return any(
            self.token_counts(most)[~self.vocabulary.special].any() for most in (_COUNTED, sys.maxsize)
        )

    def why_no_target(self, what: str) -> str:
        """Return why no token of this text is masked, for a message that calls it ``what``."""
        if not self.can_have_targets():
            return (
                f"every token of {what} is unknown to the tokenizer, or special, and these are never masked; use a model "
                f"whose tokenizer covers this text ('unmask check' counts unknown tokens)"
            )
        return (
            f"no token of {what} ({plural(self.tokens, 'token')}) is masked at a rate of {self.masking.rate:g}; give more text, or "
            f"a higher --mask-rate"
        )

    def evaluation_batches(
        self, budget: int, most: int | None = None, *, hidden: bool = True
    ) -> Iterator[Batch]:
        """Yield batches with fixed masks, of at most ``most`` tokens in all.

        The sequences used are chosen by the hash of their document, so that no part of the corpus is preferred.

        Args:
            budget: tokens of a batch.
            most: tokens of all batches.
            hidden: replace every target by the mask token; otherwise the same targets are replaced as in training.
        """
        numbers = np.arange(len(self.sequences))
        which, _, _ = self.sequences.locate(numbers)
        numbers = numbers[np.argsort(self.corpus.keys[self.documents[which]], kind="stable")]
        if most is not None:
            total = np.cumsum(self.sizes(numbers))
            numbers = numbers[: max(1, int(np.searchsorted(total, most, side="right")))]
        numbers = self.by_length(numbers)
        for part in split_by_tokens(self.sizes(numbers), budget):
            yield self.batch(numbers[part], EVALUATION_KEY, self.masking.rate, hidden=hidden)


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
        source: TextSource,
        batch_tokens: int,
        seed: int,
        replay: TextSource | None = None,
        replay_share: float = 0.0,
    ) -> None:
        self.source, self.replay, self.batch_tokens, self.seed = source, replay, batch_tokens, seed
        self.replay_share = replay_share if replay is not None else 0.0
        self._orders = [_Order(text, seed) for text in (source, replay) if text is not None]

    def take(self, cursor: Cursor) -> tuple[np.ndarray, Cursor]:
        """Return the ``int64 [N]`` sequences of the step at ``cursor``, longest first, and the next cursor."""
        general, at = self._take_replay(cursor, self.batch_tokens)
        left = self.batch_tokens - int(self.sizes(general).sum())
        numbers, (epoch, used) = self._orders[0].take(
            cursor.epoch, cursor.used, left, at_least_one=not len(general)
        )
        numbers = np.concatenate([numbers, general])
        return numbers[np.lexsort((numbers, -self.sizes(numbers)))], Cursor(epoch, used, *at)

    def _take_replay(self, cursor: Cursor, budget: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Take as much replay text as makes ``replay_share`` of all tokens up to and including this step.

        A sequence that does not fit is used in a later step, so the share also holds for small steps.
        """
        at = cursor.replay_epoch, cursor.replay_used
        if self.replay is None:
            return np.zeros(0, dtype=np.int64), at
        text, general = self._orders
        done = general.tokens_before(*at)
        owed = self.replay_share * (text.tokens_before(cursor.epoch, cursor.used) + done + budget) - done
        numbers, at = general.take(*at, min(int(owed), budget), at_least_one=False)
        return numbers + len(self.source.sequences), at

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
            which = np.unique(source.documents[source.sequences.locate(own)[0]]).tolist()
            found += which if source is self.source else [f"replay {number}" for number in which]
        return found

    def micro_batches(
        self, cursor: Cursor, numbers: np.ndarray, rate: float, parts: int, rank: int = 0, world: int = 1
    ) -> list[Batch]:
        """Return the micro-batches of this process, of about equal numbers of tokens.

        One process has at most ``parts``; of several, which do about the same work, each has exactly so many, and some
        may have no sequences, since all take part in every message.
        """
        if world > 1:
            numbers = numbers[deal(self.sizes(numbers), world)[rank]]
        slices = split_evenly(self.sizes(numbers), parts)
        return [
            self._batch(cursor, numbers[part], rate) for part in slices if world > 1 or part.stop > part.start
        ]

    def parts(self, numbers: np.ndarray, most: int, world: int = 1) -> int:
        """Return how many micro-batches of about ``most`` tokens each of ``world`` processes needs."""
        sizes = self.sizes(numbers)
        tokens = max(int(sizes[hand].sum()) for hand in deal(sizes, world)) if world > 1 else int(sizes.sum())
        return max(1, -(-tokens // most))

    def _batch(self, cursor: Cursor, numbers: np.ndarray, rate: float) -> Batch:
        if not len(numbers):
            return _EMPTY
        batches = []
        for source, here, own in self._parts(numbers):
            epoch = cursor.epoch if source is self.source else cursor.replay_epoch
            batch = source.batch(own, MaskKey(self.seed, epoch), rate)
            batches.append(replace(batch, sequence_ids=numbers[here]))
        return batches[0] if len(batches) == 1 else join(batches)

    def _parts(self, numbers: np.ndarray) -> Iterator[tuple[TextSource, np.ndarray, np.ndarray]]:
        """Yield each text that has some of the sequences, ``bool [N]`` which, and their numbers in that text."""
        count = len(self.source.sequences)
        of_replay = numbers >= count
        if not of_replay.all():
            yield self.source, ~of_replay, numbers[~of_replay]
        if self.replay is not None and of_replay.any():
            yield self.replay, of_replay, numbers[of_replay] - count


class _Order:
    """The shuffled order of a text's sequences, a new one every epoch."""

    def __init__(self, source: TextSource, seed: int) -> None:
        self.source, self.seed, self._epoch = source, seed, -1

    def take(
        self, epoch: int, used: int, budget: int, *, at_least_one: bool = True
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the next ``int64 [N]`` sequences that fit a budget of tokens, and the position after them."""
        self._load(epoch)
        end = next_batch(self._before, used, budget)
        if not at_least_one and self._before[end] - self._before[used] > budget:
            end = used
        following = (epoch, end) if end < len(self._order) else (epoch + 1, 0)
        return self._order[used:end], following

    def tokens_before(self, epoch: int, used: int) -> int:
        """Return the number of tokens before a position."""
        self._load(epoch)
        return int(epoch * self._before[-1] + self._before[used])

    def _load(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._order = shuffled(len(self.source.sequences), MaskKey(self.seed, epoch))
        self._before = np.concatenate([[0], np.cumsum(self.source.sizes(self._order))])
        self._epoch = epoch


def join(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches, the longest sequence first."""
    lengths = np.concatenate([np.diff(batch.cu_seqlens) for batch in batches]).astype(np.int64)
    order = np.argsort(-lengths, kind="stable")
    begins = np.cumsum(lengths) - lengths
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths[order])])
    index = np.repeat(begins[order] - cu_seqlens[:-1], lengths[order]) + np.arange(cu_seqlens[-1])
    labels = [np.full(batch.tokens, -1) for batch in batches]
    for label, batch in zip(labels, batches, strict=True):
        label[batch.target_index] = batch.target_ids
    moved = np.concatenate(labels)[index]
    targets = np.flatnonzero(moved >= 0)
    return Batch(
        np.concatenate([batch.input_ids for batch in batches])[index],
        np.concatenate([batch.position_ids for batch in batches])[index],
        cu_seqlens.astype(np.int32),
        targets,
        moved[targets],
        np.concatenate([batch.sequence_ids for batch in batches])[order],
    )
