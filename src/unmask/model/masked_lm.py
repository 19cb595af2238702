"""A masked-LM model of transformers that runs on packed batches, its LM head at the targets only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from unmask.data.batches import Batch, unmasked_batch
from unmask.data.tokenizer_files import check_size
from unmask.errors import ConfigError
from unmask.model.attention import NAME, register
from unmask.model.base import BATCHINGS, Batching, LanguageModel
from unmask.model.cpu.allocator import disable_malloc_trim
from unmask.model.cpu.linear import share_onednn_weights
from unmask.model.head import TargetSelector, find_head, pad_output_layer, require_encoder, run_head
from unmask.model.last_layer import shorten_last_layer
from unmask.model.layers import encoder_layers, networks, usable_positions
from unmask.model.norms import use_bf16_norms
from unmask.model.packed_layout import PackedLayout, on_device
from unmask.model.shapes import pad_to_round_size
from unmask.model.softmax import target_losses
from unmask.model.trial import UNABLE, close, find_shortest, gives, reason_of, trial_batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_ATTACHED = "objective"
"""Name of the modules of an objective in the model that they are trained with."""

_MOST_COMPILED = 64  # shapes of a kind of layer; torch's own limit of 8 is too low for models with windows
_COMPARED_TOKENS = 2048  # computed again in fp32


class MaskedLM(LanguageModel):
    """A model of transformers, its tokenizer, and how to run batches through it.

    How it computes batches is found by trial: short documents, with different shares of masks, must give together what
    each gives alone. Packed rows come first, then padded batches, then batches of sequences of one length.

    Args:
        model: any ``AutoModelForMaskedLM`` of transformers.
        tokenizer: its tokenizer.
        autocast: compute in bf16 under autocast; weights stay as they are.

    Attributes:
        head: the first module after the encoder.
        short_last_layer: whether the last layer is computed at the targets alone.
        computes_on: the device, where it is not that of the weights.
        compiled: whether its layers are compiled for training.
        verified: whether :func:`unmask.model.verify.verify` has passed it.

    Raises:
        ConfigError: the tokenizer and the model's embeddings do not fit, the model is no encoder, its output for a document
            depends on the other documents of any batch, or it cannot compute in bf16.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, autocast: bool = False
    ) -> None:
        require_encoder(model, type(model).__name__)
        super().__init__(tokenizer)
        self.model, self.autocast, self.verified, self.compiled = model, False, False, False
        self.computes_on: torch.device | None = None
        if self.device.type == "cpu":
            disable_malloc_trim()
        self.encoder: nn.Module = getattr(model, model.base_model_prefix, model)
        self._check_vocabulary()
        self._parameters = set(inspect.signature(model.forward).parameters)
        with self.evaluating(), torch.no_grad():
            self.shortest = find_shortest(
                lambda length: model(input_ids=self._probe(length)), type(model).__name__
            )
        self.head = find_head(model, self.encoder, self._probe(max(4, self.shortest)))
        self._gate = TargetSelector(self.head)
        self._offset = 0
        self._own_attention = str(model.config._attn_implementation)
        self.batching = "equal"
        self.find_batching()
        limit = usable_positions(model, self.encoder, self._offset)
        self.max_length = min(int(tokenizer.model_max_length), limit)
        if autocast and (reason := self.use_bf16()):
            raise ConfigError(f"{reason}; use --precision fp32")

    @property
    def name(self) -> str:
        return str(self.model.config.name_or_path or self.architecture)

    @property
    def architecture(self) -> str:
        return type(self.model).__name__

    @property
    def precision_name(self) -> str:
        return "bf16" if self.autocast else "fp32"

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        return self.computes_on or next(self.model.parameters()).device

    @property
    def packed(self) -> bool:
        return self.batching == "packed"

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    def target_logits(self, batch: Batch, *, filled: bool = False) -> Tensor:
        """Run a batch.

        Args:
            batch: packed, its targets in order.
            filled: a packed row may be filled up, see :mod:`unmask.model.shapes`; there may then be more rows at the end,
                of which no loss must be computed.

        Returns:
            ``[M, V]`` logits at the targets, in the dtype the head computes in.
        """
        with self.precision():
            if not self.packed:
                return self._padded_logits(batch)
            if filled:
                batch = pad_to_round_size(batch, self.vocabulary.pad_id, compiled=self.compiled)
            return self._packed_logits(batch)

    def encode(self, batch: Batch, *, causal: bool = False, input_ids: Tensor | None = None) -> Tensor:
        """Run the encoder on a batch, with a gradient where one is wanted.

        Args:
            batch: packed; its targets are not looked at.
            causal: a token sees itself and those before it in its sequence; a model that packs alone can do that.
            input_ids: ``int64 [T]`` on the device, in place of those of the batch.

        Returns:
            ``[T, H]`` output of the last layer at every token, for :meth:`predict` and for heads of an objective.
        """
        if causal and not self.packed:
            raise ConfigError(f"{self.architecture} cannot pack, so its attention cannot be made causal")
        with self.precision():
            if self.packed:
                filled = pad_to_round_size(batch, self.vocabulary.pad_id, compiled=self.compiled)
                row = self._row(filled, causal=causal)
                if input_ids is not None:
                    row["input_ids"] = torch.cat([input_ids, row["input_ids"][0, batch.tokens :]])[None]
                return self._encoded(row)[0, : batch.tokens]
            parts, done = [], 0
            ids = batch.input_ids if input_ids is None else input_ids.cpu().numpy()
            types = batch.of_tokens.get("token_type_ids") if self.takes_token_types else None
            for block, lengths, _ in self.blocks(ids, batch.cu_seqlens):
                inputs, real = self.padded(block, lengths)
                if types is not None:
                    padded_types = np.zeros(real.shape, dtype=np.int64)
                    padded_types[real] = types[done : done + len(block)]
                    inputs["token_type_ids"] = self._tensor(padded_types)
                done += len(block)
                parts.append(self._encoded(inputs)[self._tensor(real)])
            return torch.cat(parts)

    def _encoded(self, inputs: dict[str, Any]) -> Tensor:
        """Return the output of the encoder for what the model is called with."""
        found: list[Tensor] = []
        hook = self.encoder.register_forward_hook(lambda _, __, output: found.append(output[0]))
        # The whole model is called, since FSDP gathers its weights there; the head sees one token.
        self._gate.index = torch.zeros(1, dtype=torch.int64, device=self.device)
        try:
            self.model(**inputs)
        finally:
            self._gate.index = None
            hook.remove()
        return found[0]

    def predict(self, states: Tensor) -> Tensor:
        """Return the ``[M, V]`` logits of the LM head at ``[M, H]`` of the states of :meth:`encode`."""
        with self.precision():
            return run_head(self.model, self.encoder, states)

    def hidden_states(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> Tensor:
        with self.precision():
            if self.packed:
                row = self._row(unmasked_batch(input_ids, cu_seqlens))
                packed: Tensor = self.encoder(**row).last_hidden_state[0]
                return packed
            parts = []
            for ids, lengths, _ in self.blocks(input_ids, cu_seqlens):
                inputs, real = self.padded(ids, lengths)
                parts.append(self.encoder(**inputs).last_hidden_state[self._tensor(real)])
            return torch.cat(parts)

    def document_logits(self, input_ids: np.ndarray, token_type_ids: np.ndarray | None = None) -> Tensor:
        inputs, real = self.padded(input_ids, np.array([len(input_ids)]))
        if self.takes_token_types:
            types = np.zeros(real.shape, dtype=np.int64)
            if token_type_ids is not None:
                types[0, : len(token_type_ids)] = token_type_ids
            inputs["token_type_ids"] = self._tensor(types)
        with self.plain() as model, self.precision(), self.evaluating():
            logits: Tensor = model(**inputs).logits[0, : len(input_ids)]
        return logits

    def attach(self, **modules: nn.Module) -> None:
        """Train modules of an objective with the model, such as a sentence head.

        They are moved to its device, are part of its checkpoints, and are trained by its optimizers; :meth:`plain` leaves
        them out.
        """
        self.model.add_module(_ATTACHED, nn.ModuleDict(modules).to(self.device))

    def detach(self) -> None:
        """Take away what was attached."""
        self.model._modules.pop(_ATTACHED, None)

    @property
    def attached(self) -> nn.ModuleDict:
        """The modules of :meth:`attach` by their names."""
        found = getattr(self.model, _ATTACHED, None)
        return found if isinstance(found, nn.ModuleDict) else nn.ModuleDict()

    def before_each_pass(self, check: Callable[[], None]) -> None:
        self.encoder.register_forward_pre_hook(lambda *_: check())

    def shared_copy(self) -> MaskedLM | None:
        if self.device.type != "cpu":  # one batch uses up any other device
            return None
        shared = (
            self.tokenizer,
            self.vocabulary,
            self.text_encoder,
            *self.model.parameters(),
            *self.model.buffers(),
        )
        copy = deepcopy(self, {id(one): one for one in shared})
        share_onednn_weights(self.model, copy.model)
        return copy

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
        batch = batch.beginning(_COMPARED_TOKENS)
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
        """Evaluation mode for the time being, in which nothing is compiled, since shapes may be of any number."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                yield
        finally:
            self.model.train(training)

    def compile_layers(self, backend: str = "inductor") -> None:
        """Compile the encoder's layers for training, each on its own, so that those of one kind are compiled once.

        Args:
            backend: of ``torch.compile``.

        Raises:
            ConfigError: batches are not packed in round sizes, or not on a GPU, where every length would be compiled anew.
        """
        if not (self.packed and (self.device.type == "cuda" or backend != "inductor")):
            raise ConfigError(
                f"train.compile needs a GPU and a model whose batches are packed; {self.architecture} is computed in "
                f"{self.batching} batches on {self.device.type}"
            )
        torch._dynamo.config.recompile_limit = _MOST_COMPILED
        for network in networks(self.model).values():
            for layer in encoder_layers(network)[1]:
                layer.compile(dynamic=False, backend=backend)
        self.compiled = True

    @contextmanager
    def plain(self) -> Iterator[PreTrainedModel]:
        """The bare transformers model with its own attention, as its users would call it."""
        attention = str(self.model.config._attn_implementation)
        self.model.set_attn_implementation(self._own_attention)
        attached = self.model._modules.pop(_ATTACHED, None)
        try:
            yield self.model
        finally:
            self.model.set_attn_implementation(attention)
            if attached is not None:
                self.model.add_module(_ATTACHED, attached)

    def _check_vocabulary(self) -> None:
        rows = len(self.model.get_input_embeddings().weight)  # type: ignore[arg-type]
        check_size(self.vocabulary.size, rows, "the tokenizer")

    def _probe(self, length: int) -> Tensor:
        return self._tensor(np.resize(self.vocabulary.replacements, length)).unsqueeze(0)

    # Packed rows

    def _packed_logits(self, batch: Batch) -> Tensor:
        index = self._tensor(batch.target_index)
        if self.short_last_layer:
            return self._run_packed(batch, index)
        self._gate.index = index
        try:
            return self._run_packed(batch)
        finally:
            self._gate.index = None

    def _run_packed(self, batch: Batch, targets: Tensor | None = None) -> Tensor:
        """Return the logits of all rows, or of ``int64 [M]`` targets where the last layer is short."""
        logits: Tensor = self.model(**self._row(batch, targets)).logits
        return logits.reshape(-1, logits.shape[-1])

    def _row(self, batch: Batch, targets: Tensor | None = None, *, causal: bool = False) -> dict[str, Any]:
        """Return what the model or its encoder is called with for a packed row."""
        ids = self._tensor(batch.input_ids).unsqueeze(0)
        extra: dict[str, Any] = {"layout": PackedLayout.of(batch.cu_seqlens, self.device, targets, causal)}
        if "position_ids" in self._parameters:
            extra["position_ids"] = self._tensor(batch.position_ids).unsqueeze(0) + self._offset
        if "token_type_ids" in self._parameters:
            types = batch.of_tokens.get("token_type_ids")
            extra["token_type_ids"] = (
                torch.zeros_like(ids) if types is None else self._tensor(types).unsqueeze(0)
            )
        return {"input_ids": ids, **extra}

    # Trials

    def find_batching(self, offered: Sequence[Batching] = BATCHINGS) -> None:
        """Compute batches in the first way that gives each document of a trial what it gives alone.

        Raises:
            ConfigError: there is none.
        """
        self.short_last_layer = False
        self.model.set_attn_implementation(self._own_attention)
        batch = trial_batch(self.vocabulary, self.shortest)
        with self.evaluating(), torch.no_grad():
            wanted = torch.cat([self.alone(ids) for ids in np.split(batch.input_ids, batch.cu_seqlens[1:-1])])
            for batching in offered:
                self.batching = batching
                if self._pack(batch, wanted) if self.packed else gives(self._padded_logits, batch, wanted):
                    self.short_last_layer = self.packed and self._try_last_layer(batch)
                    return
        raise ConfigError(
            f"{type(self.model).__name__} gives a text other probabilities when other texts, even of the same length, are "
            f"in the batch, so no figure of it can be trusted; use a model of another architecture"
        )

    def _pack(self, batch: Batch, wanted: Tensor) -> bool:
        """Use packed rows if they give what is wanted, and find where positions begin."""
        model = self.model
        if "position_ids" in self._parameters and getattr(model, "_supports_attention_backend", False):
            register()
            try:
                model.set_attn_implementation(NAME)
            except UNABLE:
                return False
            for offset in (0, self.vocabulary.pad_id + 1):
                self._offset = offset
                if gives(self._packed_logits, batch, wanted):
                    return True
        self._offset = 0
        model.set_attn_implementation(self._own_attention)
        return False

    def _try_last_layer(self, batch: Batch) -> bool:
        """Find out whether the last layer can be computed for some places alone."""
        index = torch.tensor([1, 2, batch.tokens - 1], device=self.device)

        def run(targets: Tensor | None = None) -> Tensor:
            return self._run_packed(batch, targets)

        wanted = run()[index]
        return shorten_last_layer(self.model, run, lambda: close(run(index), wanted))

    def use_bf16(self) -> str:
        """Compute in bf16 under autocast, if a batch and its gradient can be computed so; else return why not."""
        batch = trial_batch(self.vocabulary, self.shortest)
        with self.evaluating(), torch.no_grad():
            wanted = self.target_logits(batch)
        self.autocast = True
        use_bf16_norms(self.model)
        pad_output_layer(self.model)
        devices = [self.device] if self.device.type == "cuda" else []
        training = self.model.training
        try:
            with torch.random.fork_rng(devices=devices), torch.enable_grad():
                for mode in (False, True):
                    self.model.train(mode)
                    logits = self.target_logits(batch, filled=True)
                    if not mode and not close(logits.float(), wanted, torch.bfloat16):
                        raise ValueError("its logits are far from those in fp32")
                    weights = [weight for weight in self.model.parameters() if weight.requires_grad]
                    if weights:
                        torch.autograd.grad(logits.float().sum(), weights[:1], allow_unused=True)
        except UNABLE as error:
            self.autocast = False
            return f"{type(self.model).__name__} cannot compute in bf16 ({reason_of(error)})"
        finally:
            self.model.train(training)
        return ""

    @property
    def takes_token_types(self) -> bool:
        return "token_type_ids" in self._parameters and getattr(self.model.config, "type_vocab_size", 1) > 1

    # Padded batches, for architectures that cannot take packed rows

    def padded(self, input_ids: np.ndarray, lengths: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
        """Pad sequences, which lie end to end in ``int64 [T]``, to the longest, or to what the model needs.

        Returns:
            ``input_ids [N, W]``, with ``attention_mask`` where anything is padded; and ``bool [N, W]``, where tokens are.
        """
        ids, real = self.pad(input_ids, lengths)
        mask = {} if real.all() else {"attention_mask": self._tensor(real.astype(np.int64))}
        return {"input_ids": self._tensor(ids), **mask}, real

    def alone(self, input_ids: np.ndarray) -> Tensor:
        """Return the ``[T, V]`` logits of one sequence by transformers alone; call it inside :meth:`plain`."""
        inputs, _ = self.padded(input_ids, np.array([len(input_ids)]))
        logits: Tensor = self.model(**inputs).logits[0, : len(input_ids)]
        return logits

    def _padded_logits(self, batch: Batch) -> Tensor:
        blocks = self.blocks(batch.input_ids, batch.cu_seqlens, batch.target_index)
        return torch.cat([self._run_padded(*block) for block in blocks])

    def _run_padded(self, input_ids: np.ndarray, lengths: np.ndarray, targets: np.ndarray) -> Tensor:
        """Return the logits at the targets of a block of :meth:`blocks`."""
        inputs, real = self.padded(input_ids, lengths)
        self._gate.index = self._tensor(np.flatnonzero(real)[targets])
        try:
            logits: Tensor = self.model(**inputs).logits
            return logits.reshape(-1, logits.shape[-1])
        finally:
            self._gate.index = None

    def _tensor(self, array: np.ndarray) -> Tensor:
        return on_device(array, self.device)
