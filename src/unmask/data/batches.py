"""Masked batches: the sequences of a text, and the arrays that a model is given of some of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unmask.data.corpus import Corpus, token_counts
from unmask.data.document_set import DocumentSet, slices
from unmask.data.masking.mask import mask
from unmask.data.masking.random_bits import EVALUATION_KEY, MaskKey
from unmask.data.masking.units import MaskingPlan, in_terms, plan_of
from unmask.data.packing import (
    Packed,
    Sequences,
    SequenceSplit,
    frame_positions,
    split_by_tokens,
)
from unmask.data.tokenizer import Vocabulary
from unmask.errors import DataError, plural
from unmask.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from unmask.config.settings import MaskingSettings

_TERM_SAMPLE = 2_000  # sequences
_COUNTED = 20_000_000
_FEW = 100_000  # of nearly every text these tell as much

Arrays = Mapping[str, np.ndarray]


class StepRows(NamedTuple):
    """What an objective compares of all sequences of a step, of every micro-batch and process.

    Attributes:
        arrays: ``[n, ...]`` each, without a gradient.
        first: the first row of this micro-batch.
    """

    arrays: tuple[Tensor, ...]
    first: int


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
        of_tokens: more arrays of an objective by name, ``[T]`` each; ``token_type_ids`` are handed to the model.
        of_sequences: the same, ``[N]`` each.
        of_targets: the same, ``[M]`` each.
        of_step: for an objective that compares sequences, in a step of several micro-batches.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    cu_seqlens: np.ndarray
    target_index: np.ndarray
    target_ids: np.ndarray
    sequence_ids: np.ndarray
    of_tokens: Arrays = field(default_factory=dict)
    of_sequences: Arrays = field(default_factory=dict)
    of_targets: Arrays = field(default_factory=dict)
    of_step: StepRows | None = None

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    def beginning(self, tokens: int) -> Batch:
        """Return the first sequences, of about as many tokens, or as many as it takes to have a target."""
        count = max(1, int(np.searchsorted(self.cu_seqlens, tokens, side="right")) - 1)
        if len(self.target_index):
            count = max(count, int(np.searchsorted(self.cu_seqlens, self.target_index[0], side="right")))
        end = self.cu_seqlens[min(count, len(self.sequence_ids))]
        targets = int(np.searchsorted(self.target_index, end))
        return Batch(
            self.input_ids[:end],
            self.position_ids[:end],
            self.cu_seqlens[: count + 1],
            self.target_index[:targets],
            self.target_ids[:targets],
            self.sequence_ids[:count],
        )


_NONE = np.zeros(0, dtype=np.int64)
EMPTY = Batch(_NONE, _NONE, np.zeros(1, dtype=np.int32), _NONE, _NONE, _NONE)
"""Of no sequence."""

MakeBatch = Callable[[Packed, MaskingPlan, MaskKey, float], Batch]
"""From packed sequences, how they are masked, a key of random bits and a mask rate to a batch, whose ``sequence_ids`` are
filled in by its source: a pure function of these, sequence by sequence, so that no draw depends on what shares a batch."""


def masked_batch(packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float) -> Batch:
    """Mask packed sequences, which makes the batch of masked language modelling."""
    return batch_of(packed, *mask(packed, plan.vocabulary, plan, key, rate))


def unmasked_batch(input_ids: np.ndarray, cu_seqlens: np.ndarray) -> Batch:
    """Return sequences, end to end in descending order of length, as a batch without targets."""
    numbers = np.arange(len(cu_seqlens) - 1)
    return Batch(input_ids, frame_positions(cu_seqlens), cu_seqlens.astype(np.int32), _NONE, _NONE, numbers)


def batch_of(
    packed: Packed, input_ids: np.ndarray, target_index: np.ndarray, target_ids: np.ndarray
) -> Batch:
    """Return packed sequences as a batch with other ``input_ids`` and its targets."""
    cu_seqlens = packed.cu_seqlens.astype(np.int32)
    return Batch(input_ids, frame_positions(packed.cu_seqlens), cu_seqlens, target_index, target_ids, _NONE)


class TextSource:
    """Masked batches of some documents of a corpus.

    Args:
        corpus: the tokenised documents.
        documents: those to use, or their ``int64`` numbers in ascending order; by default all.
        vocabulary: of the tokenizer that made the corpus.
        masking: masking settings, or their plan.
        max_length: most tokens of a sequence, special tokens included.
        overlap: text tokens that consecutive sequences of a document share.

    Raises:
        ConfigError: the strategy does not fit the tokenizer, or lacks the file it needs.
        DataError: there are no tokens in these documents.
    """

    def __init__(
        self,
        corpus: Corpus,
        documents: DocumentSet | np.ndarray | None,
        vocabulary: Vocabulary,
        masking: MaskingSettings | MaskingPlan,
        max_length: int,
        overlap: int = 0,
    ) -> None:
        self.corpus, self.vocabulary = corpus, vocabulary
        self.documents = DocumentSet.of(documents, len(corpus))
        self.plan = masking if isinstance(masking, MaskingPlan) else plan_of(vocabulary, masking)
        self.masking = self.plan.settings
        split = SequenceSplit(max_length - vocabulary.overhead, overlap)
        self.sequences = Sequences(corpus.lengths, split, self.documents)
        self._first: tuple[int | None, np.ndarray] | None = None
        if not len(self.sequences):
            raise DataError(
                "there is no text to make batches from: every document is empty", path=corpus.folder
            )

    def pack(self, numbers: np.ndarray, key: MaskKey = EVALUATION_KEY) -> Packed:
        """Concatenate ``int64 [N]`` sequences with their special tokens.

        Args:
            numbers: of the sequences.
            key: of the draws of a source whose sequences are drawn; those of documents are not.
        """
        documents, start, body = self.sequences.find(numbers)
        prefix, suffix = self.vocabulary.prefix, self.vocabulary.suffix
        cu_seqlens = np.zeros(len(numbers) + 1, dtype=np.int64)
        np.cumsum(body + self.vocabulary.overhead, out=cu_seqlens[1:])
        input_ids = self.corpus.gather(documents, start - len(prefix), np.diff(cu_seqlens))
        for place, token in enumerate(prefix):
            input_ids[cu_seqlens[:-1] + place] = token
        for place, token in enumerate(suffix):
            input_ids[cu_seqlens[1:] - len(suffix) + place] = token
        return Packed(input_ids, cu_seqlens, self.corpus.keys[documents], start - len(prefix))

    def batch(
        self,
        numbers: np.ndarray,
        key: MaskKey,
        rate: float,
        *,
        hidden: bool = False,
        make: MakeBatch = masked_batch,
    ) -> Batch:
        """Make the batch of ``int64 [N]`` sequences; ``hidden`` replaces every target by the mask token."""
        plan = self.plan.hidden if hidden else self.plan
        return replace(make(self.pack(numbers, key), plan, key, rate), sequence_ids=numbers)

    def by_length(self, numbers: np.ndarray) -> np.ndarray:
        """Return the numbers, longest sequence first, ties by number."""
        return numbers[np.lexsort((numbers, -self.sizes(numbers)))]

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Return ``int64 [N]``: tokens of sequences with their special tokens."""
        return self.sequences.find(numbers)[2] + self.vocabulary.overhead

    def documents_of(self, numbers: np.ndarray) -> list[int]:
        """Return the documents of ``int64 [N]`` sequences, each once: their numbers in the shards, from 0."""
        found: list[int] = np.unique(self.sequences.find(numbers)[0]).tolist()
        return found

    @property
    def longest(self) -> int:
        """The most tokens that a sequence can have."""
        return self.sequences.split.body + self.vocabulary.overhead

    @property
    def tokens(self) -> int:
        """Tokens of one pass, special tokens included."""
        return self.sequences.tokens + self.vocabulary.overhead * len(self.sequences)

    def counted_step(self, most: int = _COUNTED) -> int:
        """Return n, if one in n documents is enough to count ``most`` tokens or a little more."""
        return max(1, self.sequences.text_tokens // most)

    def token_counts(self, most: int = _COUNTED) -> np.ndarray:
        """Return ``int64 [V]`` token counts of the text, or of one in :meth:`counted_step` of its documents."""
        counts = np.zeros(self.vocabulary.size, dtype=np.int64)
        for block in self._some_documents(most):
            counts += token_counts(self.corpus, block, self.vocabulary.size)
        return counts

    def part(self, documents: DocumentSet | np.ndarray) -> TextSource:
        """Return some of its documents, in the same sequences."""
        split = self.sequences.split
        length = split.body + self.vocabulary.overhead
        return TextSource(self.corpus, documents, self.vocabulary, self.plan, length, split.overlap)

    def sample(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return every n-th document, about ``most`` tokens in all.

        Returns:
            Their tokens end to end, and where each begins with the number of tokens at the end, ``int64`` both.
        """
        lengths, tokens = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for block in self._some_documents(most):
            for sizes, ids in self.corpus.read(block):
                lengths.append(sizes)
                tokens.append(ids)
        return np.concatenate(tokens), np.cumsum(np.concatenate(lengths))

    def _some_documents(self, most: int) -> Iterator[np.ndarray]:
        """Yield the numbers of every n-th document, so that they have about ``most`` tokens."""
        step, skip = self.counted_step(most), 0
        for block in self.documents.blocks():
            yield block[skip::step]
            skip = (skip - len(block)) % step

    def has_targets(self, most: int) -> bool:
        """Return whether an evaluation on ``most`` tokens has a target: a text of a few words may have none."""
        return any(len(batch.target_ids) for batch in self.evaluation_batches(most, most))

    def targeted(self, most: int) -> np.ndarray:
        """Return ``bool [D]``: which documents an evaluation on ``most`` tokens has a target in; short ones may have none."""
        found = np.zeros(len(self.documents), dtype=bool)
        for batch in self.evaluation_batches(most, most):
            sequence = np.searchsorted(batch.cu_seqlens, batch.target_index, side="right") - 1
            found[self.sequences.locate(batch.sequence_ids)[0][sequence]] = True
        return found

    def sequence_sample(self, most: int) -> np.ndarray:
        """Return the numbers of at most so many sequences, spread evenly over the text."""
        count = len(self.sequences)
        return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))

    def can_have_targets(self) -> bool:
        """Return whether there is a token that may be masked."""
        return any(
            self.token_counts(most)[~self.vocabulary.special].any() for most in (_FEW, _COUNTED, sys.maxsize)
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

    def warn_of_no_term(self, progress: Progress) -> None:
        """Warn where no term of the masking settings occurs in a sample of the text, as with a list for another language."""
        if self.plan.phrases is None or not len(self.sequences):
            return
        packed = self.pack(self.sequence_sample(_TERM_SAMPLE))
        found = in_terms(packed, self.plan)
        if not found.any():
            progress.warning(
                f"no term of {self.masking.terms or self.masking.terms_pattern!r} occurs in {plural(len(found), 'word')} of the training "
                f"text, so all words are masked alike; is the list for this text?"
            )

    def evaluation_batches(
        self,
        budget: int,
        most: int | None = None,
        *,
        hidden: bool = True,
        rank: int = 0,
        world: int = 1,
        make: MakeBatch = masked_batch,
    ) -> Iterator[Batch]:
        """Yield batches with fixed masks, of at most ``most`` tokens in all.

        The sequences used are chosen by the hash of their document, so that no part of the corpus is preferred.

        Args:
            budget: tokens of a batch.
            most: tokens of all batches.
            hidden: replace every target by the mask token; otherwise the same targets are replaced as in training.
            rank, world: yield the share of one of several processes, to which the batches are dealt in turn. Each has as
                many, so the last may be empty.
            make: makes a batch of packed sequences.
        """
        if self._first is None or self._first[0] != most:
            self._first = most, self._by_hash(most)
        numbers = self.by_length(self._first[1])
        parts = list(split_by_tokens(self.sizes(numbers), budget))
        for part in parts[rank::world]:
            yield self.batch(numbers[part], EVALUATION_KEY, self.masking.rate, hidden=hidden, make=make)
        if rank >= len(parts) % world > 0:
            yield EMPTY

    def _by_hash(self, most: int | None) -> np.ndarray:
        """Return the sequences of the documents whose hashes come first, of at most ``most`` tokens, by hash."""
        numbers, keys = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64)
        for part in slices(len(self.sequences)):
            more = np.arange(part.start, part.stop)
            numbers = np.concatenate([numbers, more])
            keys = np.concatenate([keys, self.corpus.keys[self.sequences.find(more)[0]]])
            order = np.argsort(keys, kind="stable")
            if most is not None:
                total = np.cumsum(self.sizes(numbers[order]))
                order = order[: max(1, int(np.searchsorted(total, most, side="right")))]
            numbers, keys = numbers[order], keys[order]
        return numbers


def join(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches, the longest sequence first."""
    lengths = np.concatenate([np.diff(batch.cu_seqlens) for batch in batches]).astype(np.int64)
    order = np.argsort(-lengths, kind="stable")
    begins = np.cumsum(lengths) - lengths
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths[order])])
    index = np.repeat(begins[order] - cu_seqlens[:-1], lengths[order]) + np.arange(cu_seqlens[-1])
    # Which target a token is, of all of them, or -1.
    which, before = np.full(len(index), -1), 0
    for batch, first in zip(batches, np.cumsum([0, *(batch.tokens for batch in batches)]), strict=False):
        which[batch.target_index + first] = before + np.arange(len(batch.target_ids))
        before += len(batch.target_ids)
    moved = which[index]
    targets = np.flatnonzero(moved >= 0)

    def joined(name: str, order: np.ndarray) -> np.ndarray:
        return np.concatenate([getattr(batch, name) for batch in batches])[order]

    def all_joined(name: str, order: np.ndarray) -> dict[str, np.ndarray]:
        arrays = [getattr(batch, name) for batch in batches]
        return {key: np.concatenate([each[key] for each in arrays])[order] for key in arrays[0]}

    return Batch(
        joined("input_ids", index),
        joined("position_ids", index),
        cu_seqlens.astype(np.int32),
        targets,
        joined("target_ids", moved[targets]),
        joined("sequence_ids", order),
        all_joined("of_tokens", index),
        all_joined("of_sequences", order),
        all_joined("of_targets", moved[targets]),
    )
