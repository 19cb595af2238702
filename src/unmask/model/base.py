"""What filling, scoring, embedding and evaluation need of a masked language model, whatever computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from unmask.data.batches import Batch
from unmask.data.tokenizer import TextEncoder, Vocabulary, vocabulary_of
from unmask.errors import ConfigError
from unmask.run_folder import saved_generator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batching = Literal["packed", "padded", "equal", "alone"]
"""Packed rows; batches padded by length; batches of sequences of one length; or each sequence by itself."""
BATCHINGS: tuple[Batching, ...] = ("packed", "padded", "equal")
"""What is tried in PyTorch, in this order."""

_PADDING_WASTE = 1.15
_NO_TARGETS = np.empty(0, dtype=np.int64)


class LanguageModel(ABC):
    """A masked language model with its tokenizer: :class:`~unmask.model.masked_lm.MaskedLM` in PyTorch, or
    :class:`~unmask.model.exported.ExportedModel`.

    Attributes:
        tokenizer: of transformers.
        vocabulary: what masking needs to know of it.
        max_length: tokens that a sequence may have, special tokens included.
        shortest: the fewest tokens that the model computes; shorter sequences are padded to it.
        batching: how batches are computed.
        new_head: names of weights of the LM head that the checkpoint lacked.
        sharded: whether every pass sends messages between processes, each of which must then make as many: the sequences of
            a batch are padded together, whatever the waste, and a batch without targets is computed too.
    """

    max_length: int
    shortest = 1
    batching: Batching = "padded"
    new_head: Sequence[str] = ()
    sharded = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.vocabulary: Vocabulary = vocabulary_of(tokenizer)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Encodes texts for this model. It is made at the first use, as it holds a copy of the tokenizer."""
        return TextEncoder(self.tokenizer)

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the checkpoint, or else of the class."""

    @property
    @abstractmethod
    def architecture(self) -> str:
        """Class of the model in transformers."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    @abstractmethod
    def precision_name(self) -> str:
        """``fp32``, ``bf16`` or ``int8``."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """Numbers in a hidden state; 0 where an exported model returns none."""

    @property
    @abstractmethod
    def takes_token_types(self) -> bool:
        """Whether the model tells segments apart by ``token_type_ids``."""

    @abstractmethod
    def target_logits(self, batch: Batch) -> Tensor:
        """Return ``[M, V]`` logits at the targets of a packed batch, which are in order."""

    @abstractmethod
    def hidden_states(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> Tensor:
        """Run the encoder without its LM head.

        Args:
            input_ids: ``int64 [T]``, sequences end to end in descending order of length.
            cu_seqlens: ``int64 [N + 1]``, the first token of each sequence, then ``T``.

        Returns:
            ``[T, H]`` output of the last layer.
        """

    @abstractmethod
    def document_logits(self, input_ids: np.ndarray, token_type_ids: np.ndarray | None = None) -> Tensor:
        """Return the ``[T, V]`` logits of one document, computed by itself, at every position; types are 0 by default."""

    @abstractmethod
    def before_each_pass(self, check: Callable[[], None]) -> None:
        """Call something before every pass through the model from now on; it may raise to stop it."""

    def require_head(self) -> None:
        """Raise :class:`ConfigError` where the LM head has new weights, so that its predictions say nothing."""
        if self.new_head and (generator := saved_generator(self.name)):
            raise ConfigError(
                f"'{self.name}' says which tokens were replaced and has no LM head, so it predicts nothing for a mask; the generator "
                f"that was trained with it does: {generator}"
            )
        if self.new_head:
            raise ConfigError(
                f"'{self.name}' has no LM head (its checkpoint lacks {', '.join(self.new_head[:3])}), so what it predicts "
                f"for a mask says nothing. Train it first: unmask train TEXT --model {self.name}; its embeddings can be "
                f"used as they are"
            )

    def shared_copy(self) -> LanguageModel | None:
        """Return a copy that shares the weights, to compute in another thread at the same time, where that is faster."""
        return None

    def precision(self) -> AbstractContextManager[Any]:
        """The context in which the model is run."""
        return nullcontext()

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode for the time being."""
        return nullcontext()

    def bf16_error(self, batch: Batch) -> str | None:
        """Say how far log-probabilities at the targets of a batch are off fp32; nothing if the model computes in fp32."""
        return None

    def together(self, lengths: np.ndarray) -> Iterator[tuple[int, int]]:
        """Cut lengths in descending order where padding them together would waste too much, or change the output."""
        if self.sharded:
            yield 0, len(lengths)
            return
        if self.batching == "alone":
            yield from pairwise(range(len(lengths) + 1))
            return
        waste, spare = (1.0, 0) if self.batching == "equal" else (_PADDING_WASTE, 2)
        first = 0
        for last in range(1, len(lengths) + 1):
            if last == len(lengths) or lengths[first] > waste * lengths[last] + spare:
                yield first, last
                first = last

    def blocks(
        self, input_ids: np.ndarray, cu_seqlens: np.ndarray, targets: np.ndarray = _NO_TARGETS
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Cut sequences, which lie end to end in descending order of length, into those that are padded together.

        Args:
            input_ids: ``int64 [T]``.
            cu_seqlens: ``[N + 1]``, the first token of each sequence, then ``T``.
            targets: ``int64 [M]``, places among the ``T`` tokens, in order.

        Yields:
            The ids of a block, the lengths of its sequences, and the targets in it, as places among its ids.
        """
        cuts = cu_seqlens.astype(np.int64)
        for first, last in self.together(np.diff(cuts)):
            begin, end = cuts[first], cuts[last]
            inside = slice(*np.searchsorted(targets, [begin, end]))
            yield input_ids[begin:end], np.diff(cuts[first : last + 1]), targets[inside] - begin

    def pad(self, input_ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pad sequences, which lie end to end in ``int64 [T]``, to the longest, or to what the model needs.

        Returns:
            ``int64 [N, W]`` ids, and ``bool [N, W]``, where tokens are.
        """
        real = np.arange(max(int(lengths.max()), self.shortest)) < lengths[:, None]
        ids = np.full(real.shape, self.vocabulary.pad_id, dtype=np.int64)
        ids[real] = input_ids
        return ids, real
