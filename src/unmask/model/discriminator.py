"""The discriminator of replaced token detection: an encoder and a head that says at each token whether it was replaced.

For ELECTRA (Clark et al. 2020) transformers has it as ``ElectraForPreTraining``. For other architectures it is their class for
token classification, with the labels ``original`` and ``replaced``: the difference of its two logits is the one logit.

Its token embeddings are those of the generator and a difference of its own (gradient-disentangled embedding sharing, He et
al. 2021): the loss of the discriminator changes the difference alone, the generator's loss the shared part alone. Saved is
the sum.

Shapes: T tokens, J tokens that are judged, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.data.batches import Batch
from unmask.errors import ConfigError, UnmaskError
from unmask.model.head import run_head
from unmask.model.load import read_as
from unmask.model.masked_lm import MaskedLM
from unmask.model.trial import UNABLE, close, trial_batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LABELS = {0: "original", 1: "replaced"}
_networks: WeakKeyDictionary[MaskedLM, Any] = WeakKeyDictionary()
"""With their heads, by the model of their checkpoint, so that one that is served is read once."""


class Discriminator(nn.Module):
    """The encoder of a model with a new head, or that of its checkpoint; it shares its token embeddings with a generator.

    Args:
        lm: the model, of which the LM head is not used.
        generator: has a table of embeddings of the same shape.
        seed: of a new head.

    Attributes:
        network: the model of transformers; its token embeddings are the difference to those of the generator.
        new_head: whether the head has new weights.
        replacements: ``bool [V]``, entries that may replace a token.

    Raises:
        ConfigError: transformers has no class for it, or its head cannot be computed by itself.
    """

    def __init__(self, lm: MaskedLM, generator: MaskedLM, seed: int) -> None:
        super().__init__()
        self._lm, self._generator = lm, (generator,)  # in a tuple, so that it is no part of this module
        with lm.plain() as raw:
            self.network, self.new_head = _with_head(raw, seed)
        setattr(self.network, self.network.base_model_prefix, lm.encoder)
        self.network.to(lm.device)  # type: ignore[arg-type]
        table: Any = lm.model.get_input_embeddings()
        allowed = torch.zeros(len(table.weight), dtype=torch.bool)
        allowed[torch.from_numpy(lm.vocabulary.replacements)] = True
        self.replacements = nn.Buffer(allowed, persistent=False)
        with torch.no_grad():
            table.weight -= self._shared
        table.register_forward_hook(self._add_shared)
        self._try()
        self.train(generator.model.training)

    @property
    def _shared(self) -> Tensor:
        table: Any = self._generator[0].model.get_input_embeddings()
        weight: Tensor = table.weight.detach()
        return weight

    @property
    def architecture(self) -> str:
        return type(self.network).__name__

    def logits(self, batch: Batch, input_ids: Tensor, places: Tensor) -> Tensor:
        """Return ``fp32 [J]`` logits that a token was replaced.

        Args:
            batch: the sequences.
            input_ids: ``int64 [T]``, what is in their places.
            places: ``int64 [J]`` of the tokens that are judged.
        """
        lm, generator = self._lm, self._generator[0]
        lm.autocast, lm.compiled = generator.autocast, generator.compiled
        states = lm.encode(batch, input_ids=input_ids).index_select(0, places)
        with lm.precision():
            found = run_head(self.network, lm.encoder, states).float()
        return found if found.ndim == 1 else found[:, 1] - found[:, 0]

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Save it as its class in transformers, and check what was saved.

        Raises:
            UnmaskError: the saved model gives other logits.
        """
        kind = type(self.network)
        with torch.random.fork_rng(devices=[]):
            whole = kind(deepcopy(self.network.config))
        state = {name: weight.detach().cpu() for name, weight in self.network.state_dict().items()}
        table = self._lm.model.get_input_embeddings().weight
        named = self.network.named_parameters()
        name = next(name for name, weight in named if weight is table)
        state[name] = state[name] + self._shared.cpu()
        whole.load_state_dict(state)
        whole.save_pretrained(folder)
        again = kind.from_pretrained(folder, local_files_only=True).eval().to(self._lm.device)
        ids, ours = self._sample()
        if not close(ours, _logits(again(input_ids=ids))):
            raise UnmaskError(
                f"the {self.architecture} was saved, and gives other logits when loaded again, so it is not kept; please report this "
                f"with the name of the model"
            )

    def _sample(self) -> tuple[Tensor, Tensor]:
        """Return ``[1, L]`` tokens and their ``[L]`` logits, computed in fp32 among other sequences."""
        batch = trial_batch(self._lm.vocabulary, self._lm.shortest)
        ids = torch.from_numpy(batch.input_ids).to(self._lm.device)
        places = torch.arange(int(batch.cu_seqlens[1]), device=ids.device)
        with self._generator[0].in_fp32(), self._evaluating():
            return ids[None, places], self.logits(batch, ids, places)

    def _try(self) -> None:
        """Make sure that the head gives beside the encoder what the model of transformers gives."""
        try:
            ids, ours = self._sample()
            with self._lm.plain(), self._evaluating():
                works = close(ours, _logits(self.network(input_ids=ids)))
        except UNABLE:
            works = False
        if not works:
            raise ConfigError(
                f"--objective rtd cannot be used with {self._lm.architecture}: in a trial the head of {self.architecture} could not be "
                f"computed by itself. Use an ELECTRA, BERT or ModernBERT, or --objective mlm"
            )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            with self._generator[0].evaluating(), torch.no_grad():
                yield
        finally:
            self.train(training)

    def _add_shared(self, _: nn.Module, args: tuple[Any, ...], rows: Tensor) -> Tensor:
        return rows + F.embedding(args[0], self._shared)


@torch.no_grad()
def replacement_logits(lm: MaskedLM, input_ids: np.ndarray, token_type_ids: np.ndarray) -> Tensor:
    """Return ``fp32 [L]`` logits that each token of a sequence was replaced.

    Args:
        lm: read from the checkpoint of a discriminator.
        input_ids: ``int64 [L]``.
        token_type_ids: ``int64 [L]``, unused where the model has none.
    """
    rows = {"input_ids": input_ids} | ({"token_type_ids": token_type_ids} if lm.takes_token_types else {})
    tensors = {name: torch.from_numpy(row)[None].to(lm.device) for name, row in rows.items()}
    with lm.plain() as raw, lm.precision(), lm.evaluating():
        network = _networks.get(lm)
        if network is None:
            network = _networks[lm] = _with_head(raw, 0)[0].eval().to(lm.device)
        return _logits(network(**tensors))


def _logits(output: Any) -> Tensor:
    """Return the ``[L]`` logits of one sequence, from the output of a model of transformers."""
    found: Tensor = output.logits[0].float()
    return found if found.ndim == 1 else found[:, 1] - found[:, 0]


def _with_head(model: PreTrainedModel, seed: int) -> tuple[PreTrainedModel, bool]:
    """Return a model with the head of a discriminator, and whether that is new: a checkpoint may have one."""
    from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING, ElectraForPreTraining

    kind: Any = ElectraForPreTraining
    config = deepcopy(model.config)
    has_head = True
    if config.model_type != "electra":
        kind = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING.get(type(config), None)
        has_head = config.id2label == _LABELS
        config.id2label, config.label2id = dict(_LABELS), {name: label for label, name in _LABELS.items()}
    if kind is None:
        raise ConfigError(
            f"--objective rtd needs a class with a head at each token, and transformers has none for {type(model).__name__}; use an "
            f"ELECTRA, BERT or ModernBERT, or --objective mlm"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, missing = read_as(kind, model) if has_head else (kind(config), {""})
    return network, bool(missing)
