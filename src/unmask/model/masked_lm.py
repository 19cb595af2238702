"""A masked-LM model of transformers that runs on packed batches, its LM head at the targets only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from unmask.data.batches import Batch
from unmask.data.packing import frame_positions
from unmask.data.tokenizer import Vocabulary, vocabulary_of
from unmask.data.tokenizer_files import check_size
from unmask.errors import ConfigError
from unmask.model.attention import NAME, PackedLayout, register
from unmask.model.cpu.allocator import disable_malloc_trim
from unmask.model.cpu.norms import use_bf16_norms
from unmask.model.cpu.shapes import pad_to_round_size
from unmask.model.head import TargetSelector, find_head
from unmask.model.last_layer import shorten_last_layer
from unmask.model.softmax import target_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOLERANCE = 1e-4
_TRIAL = (5, 3)  # lengths of the documents of a trial
_PADDING_WASTE = 1.15


class MaskedLM:
    """A model, its tokenizer, and how to run batches through it.

    Whether the architecture can take packed rows is found by trial: two short documents packed together must give
    what each gives alone. Where it cannot, batches are padded by length.

    Args:
        model: any ``AutoModelForMaskedLM`` of transformers.
        tokenizer: its tokenizer.
        autocast: compute in bf16 under autocast; weights stay as they are.

    Attributes:
        vocabulary: what masking needs to know of the tokenizer.
        max_length: tokens that a sequence may have, special tokens included.
        packed: whether packed rows are used.
        short_last_layer: whether the last layer is computed at the targets alone.

    Raises:
        ConfigError: the tokenizer and the model's embeddings do not fit, or the model is no encoder.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, autocast: bool = False
    ) -> None:
        require_encoder(model, type(model).__name__)
        self.model, self.tokenizer, self.autocast = model, tokenizer, autocast
        self._weight: nn.Parameter = next(model.parameters())  # whose device is that of the model
        if self.device.type == "cpu":
            disable_malloc_trim()
            if autocast:
                use_bf16_norms(model)
        self.vocabulary: Vocabulary = vocabulary_of(tokenizer)
        self.encoder: nn.Module = getattr(model, model.base_model_prefix, model)
        self._check_vocabulary()
        self._parameters = set(inspect.signature(model.forward).parameters)
        self._gate = TargetSelector(find_head(model, self.encoder, self._probe(4)))
        self._offset = 0
        self._own_attention = str(model.config._attn_implementation)
        self.packed = self._try_packing()
        self.short_last_layer = self.packed and self._try_last_layer()
        self.max_length = self._find_max_length()

    @property
    def device(self) -> torch.device:
        return self._weight.device

    @property
    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(weight.numel() for weight in self.model.parameters())

    def target_logits(self, batch: Batch, *, filled: bool = False) -> Tensor:
        """Run a batch.

        Args:
            batch: packed, its targets in order.
            filled: a packed row may be padded where that is faster, see :mod:`unmask.model.cpu.shapes`; there may
                then be more rows at the end, of which no loss must be computed.

        Returns:
            ``[M, V]`` logits at the targets, in the dtype the head computes in.
        """
        with self.precision():
            if not self.packed:
                return self._padded_logits(batch)
            if filled and self.device.type == "cpu":
                batch = pad_to_round_size(batch, self.vocabulary.pad_id)
            return self._packed_logits(batch)

    def hidden_states(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> Tensor:
        """Run the encoder without its LM head.

        Args:
            input_ids: ``int64 [T]``, sequences end to end in descending order of length.
            cu_seqlens: ``int64 [N + 1]``, the first token of each sequence, then ``T``.

        Returns:
            ``[T, H]`` output of the last layer.
        """
        with self.precision():
            if self.packed:
                row = self._row(input_ids, frame_positions(cu_seqlens), cu_seqlens.astype(np.int32))
                packed: Tensor = self.encoder(**row).last_hidden_state[0]
                return packed
            parts = []
            for first, last in _buckets(np.diff(cu_seqlens)):
                ids, real = self._block(input_ids, cu_seqlens[first : last + 1])
                mask = self._mask(real)
                hidden = self.encoder(input_ids=self._tensor(ids), **mask).last_hidden_state
                parts.append(hidden[self._tensor(real)])
            return torch.cat(parts)

    def precision(self) -> AbstractContextManager[Any]:
        """The autocast context in which this model is run."""
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @contextmanager
    def in_fp32(self) -> Iterator[None]:
        """Compute in fp32 for the time being."""
        autocast, self.autocast = self.autocast, False
        try:
            with torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            self.autocast = autocast

    @torch.no_grad()
    def bf16_error(self, batch: Batch) -> str | None:
        """Say how far log-probabilities at the targets of a batch are off fp32; nothing if the model computes in fp32."""
        if not self.autocast or not len(batch.target_ids):
            return None
        targets = self._tensor(batch.target_ids)
        with self.evaluating():
            half = target_losses(self.target_logits(batch), targets)
            with self.in_fp32():
                gap = np.abs(half - target_losses(self.target_logits(batch), targets))
        return (
            f"bf16: the log-probabilities of the first {len(gap):,} masked tokens are {gap.mean():.3f} nats off those in "
            f"fp32 on average, {gap.max():.3f} at most"
        )

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode for the time being."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    @contextmanager
    def plain(self) -> Iterator[PreTrainedModel]:
        """The bare transformers model with its own attention, as its users would call it."""
        attention = str(self.model.config._attn_implementation)
        self.model.set_attn_implementation(self._own_attention)
        try:
            yield self.model
        finally:
            self.model.set_attn_implementation(attention)

    def _check_vocabulary(self) -> None:
        rows = len(self.model.get_input_embeddings().weight)  # type: ignore[arg-type]
        check_size(self.vocabulary.size, rows, "the tokenizer")

    def _probe(self, length: int) -> Tensor:
        ids = self.vocabulary.replacements[: max(length, 1)]
        return torch.from_numpy(np.resize(ids, length)).unsqueeze(0).to(self.device)

    # Packed rows

    def _packed_logits(self, batch: Batch) -> Tensor:
        index = self._tensor(batch.target_index)
        row = batch.input_ids, batch.position_ids, batch.cu_seqlens
        if self.short_last_layer:
            return self._run_packed(*row, index)
        self._gate.index = index
        try:
            return self._run_packed(*row)
        finally:
            self._gate.index = None

    def _run_packed(
        self,
        input_ids: np.ndarray,
        position_ids: np.ndarray,
        cu_seqlens: np.ndarray,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of all rows, or of ``int64 [M]`` targets where the last layer is short."""
        logits: Tensor = self.model(**self._row(input_ids, position_ids, cu_seqlens, targets)).logits
        return logits.reshape(-1, logits.shape[-1])

    def _row(
        self,
        input_ids: np.ndarray,
        position_ids: np.ndarray,
        cu_seqlens: np.ndarray,
        targets: Tensor | None = None,
    ) -> dict[str, Any]:
        """Return what the model or its encoder is called with for a packed row."""
        ids = self._tensor(input_ids).unsqueeze(0)
        extra: dict[str, Any] = {"layout": PackedLayout.of(cu_seqlens, self.device, targets)}
        if "position_ids" in self._parameters:
            extra["position_ids"] = self._tensor(position_ids).unsqueeze(0) + self._offset
        if "token_type_ids" in self._parameters:
            extra["token_type_ids"] = torch.zeros_like(ids)
        return {"input_ids": ids, **extra}

    def _try_packing(self) -> bool:
        """Find out whether packed rows give what each document gives alone, and where positions begin."""
        model = self.model
        if "position_ids" not in self._parameters or not getattr(model, "_supports_attention_backend", False):
            return False
        training = model.training
        model.eval()
        alone = torch.cat([self._alone(length) for length in _TRIAL])
        register()
        try:
            model.set_attn_implementation(NAME)
            for offset in (0, self.vocabulary.pad_id + 1):
                self._offset = offset
                if _close(self._trial(), alone):
                    return True
        except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError):
            # The trial is the test: an architecture that cannot take a packed row fails here.
            pass
        finally:
            model.train(training)
        self._offset = 0
        model.set_attn_implementation(self._own_attention)
        return False

    @torch.no_grad()
    def _alone(self, length: int) -> Tensor:
        logits: Tensor = self.model(input_ids=self._probe(8)[:, :length]).logits[0]
        return logits

    @torch.no_grad()
    def _trial(self, targets: Tensor | None = None) -> Tensor:
        """Return the logits of two short documents in a packed row, or of some places in it."""
        ids = self._probe(8)[0].cpu().numpy()
        row = np.concatenate([ids[:length] for length in _TRIAL])
        positions = np.concatenate([np.arange(length) for length in _TRIAL])
        return self._run_packed(row, positions, np.concatenate([[0], np.cumsum(_TRIAL)]), targets)

    def _try_last_layer(self) -> bool:
        """Find out whether the last layer can be computed for some places alone."""
        training = self.model.training
        self.model.eval()
        index = torch.tensor([1, 2, sum(_TRIAL) - 1], device=self.device)
        wanted = self._trial()[index]
        try:
            return shorten_last_layer(self.model, self._trial, lambda: _close(self._trial(index), wanted))
        finally:
            self.model.train(training)

    def _find_max_length(self) -> int:
        config = self.model.config
        limits = [int(self.tokenizer.model_max_length)]
        for name in ("max_position_embeddings", "n_positions", "max_seq_length"):
            if isinstance(limit := getattr(config, name, None), int) and limit > 0:
                limits.append(limit - self._position_padding())
        return min(limits)

    def _position_padding(self) -> int:
        """Rows of the position table that no token uses (RoBERTa's positions begin after the padding index)."""
        if self._offset:
            return self._offset
        tables = (m for n, m in self.encoder.named_modules() if n.endswith("position_embeddings"))
        used = [
            table.padding_idx for table in tables if isinstance(table, nn.Embedding) and table.padding_idx
        ]
        return used[0] + 1 if used else 0

    @property
    def takes_token_types(self) -> bool:
        """Whether the model tells segments apart by ``token_type_ids``."""
        return "token_type_ids" in self._parameters and getattr(self.model.config, "type_vocab_size", 1) > 1

    # Padded batches, for architectures without the attention interface

    def _padded_logits(self, batch: Batch) -> Tensor:
        pieces = [self._run_padded(batch, first, last) for first, last in _buckets(np.diff(batch.cu_seqlens))]
        return torch.cat(pieces)

    def _run_padded(self, batch: Batch, first: int, last: int) -> Tensor:
        """Run sequences ``first`` to ``last`` of a batch, which is in order of length, as one padded block."""
        cu = batch.cu_seqlens[first : last + 1].astype(np.int64)
        ids, real = self._block(batch.input_ids, cu)
        begin, end = np.searchsorted(batch.target_index, [cu[0], cu[-1]])
        index = batch.target_index[begin:end]
        row = np.searchsorted(cu, index, side="right") - 1
        self._gate.index = self._tensor(row * real.shape[1] + index - cu[row])
        mask = self._mask(real)
        try:
            logits: Tensor = self.model(input_ids=self._tensor(ids), **mask).logits
            return logits.reshape(-1, logits.shape[-1])
        finally:
            self._gate.index = None

    def _block(self, input_ids: np.ndarray, cu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``int64 [N, L]`` ids of sequences, padded, and ``bool [N, L]``, which of them are no padding."""
        lengths = np.diff(cu)
        real = np.arange(int(lengths.max())) < lengths[:, None]
        ids = np.full(real.shape, self.vocabulary.pad_id, dtype=np.int64)
        ids[real] = input_ids[cu[0] : cu[-1]]
        return ids, real

    def _mask(self, real: np.ndarray) -> dict[str, Tensor]:
        return {} if real.all() else {"attention_mask": self._tensor(real.astype(np.int64))}

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def require_encoder(model: PreTrainedModel, name: str) -> None:
    """Refuse a model in which a mask is not predicted from the text on both sides of it.

    Raises:
        ConfigError: the model has a decoder, or its attention looks back only.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        why = "an encoder and a decoder: the decoder predicts each token from those before it"
    elif getattr(config, "is_decoder", False) or getattr(config, "causal", False):
        why = "attention that looks back only (is_decoder or causal in its config.json)"
    else:
        return
    raise ConfigError(
        f"'{name}' ({config.model_type}) has {why}. Masked language modelling needs an encoder with an LM head, such "
        f"as BERT, RoBERTa, DeBERTa or ModernBERT"
    )


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=_TOLERANCE, atol=_TOLERANCE)


def _buckets(lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cut lengths in descending order where padding them together would waste too much."""
    first = 0
    for last in range(1, len(lengths) + 1):
        if last == len(lengths) or lengths[first] > _PADDING_WASTE * lengths[last] + 2:
            yield first, last
            first = last
