"""The sentence head of BERT and its kin: a pooler at the first token and two logits of a pair of passages.

transformers has it in the class of a model that was pretrained with both losses (``BertForPreTraining``,
``AlbertForPreTraining``); ``BertForMaskedLM`` leaves it out. Here it is a module beside the masked-LM model, and both are saved
as that class, which loads as either.

Shapes: N pairs, L tokens, H hidden size.
"""

from __future__ import annotations

import inspect
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from unmask.data.tokenizer import Vocabulary
from unmask.errors import ConfigError, UnmaskError
from unmask.model.load import read_as
from unmask.model.masked_lm import MaskedLM
from unmask.model.save import sample_logits, save_checked
from unmask.model.trial import close

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_LABELS = ("next_sentence_label", "sentence_order_label")
_CLASSIFIERS = ("cls.seq_relationship", "sop_classifier")


class SentenceHead(nn.Module):
    """Pooler and classifier, taken from a model with both heads.

    Args:
        both: a model with both heads.

    Attributes:
        new: whether the weights are new, since the checkpoint has none of such a head.
    """

    def __init__(self, both: PreTrainedModel, *, new: bool) -> None:
        super().__init__()
        self.new = new
        self.pooler: nn.Module = both.base_model.pooler  # type: ignore[assignment]
        self.activation = getattr(both.base_model, "pooler_activation", None) or nn.Identity()
        names = dict(both.named_modules())
        self._classifier_name = next(name for name in _CLASSIFIERS if name in names)
        self.classifier = names[self._classifier_name]
        self._pooler_name = f"{both.base_model_prefix}.pooler"

    def forward(self, states: Tensor) -> Tensor:
        """Return the ``[N, 2]`` logits of pairs from ``[N, H]`` states of the encoder at their first tokens."""
        # A pooler with a class of its own picks the first token itself.
        inputs = states if isinstance(self.pooler, nn.Linear) else states[:, None]
        logits: Tensor = self.classifier(self.activation(self.pooler(inputs)))
        return logits

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by their names in the model with both heads."""
        parts = {self._pooler_name: self.pooler, self._classifier_name: self.classifier}
        return {
            f"{name}.{key}": weight
            for name, part in parts.items()
            for key, weight in part.state_dict().items()
        }


def class_with_both_heads(config: PretrainedConfig) -> Any:
    """Return the class of transformers with both heads for the architecture of a configuration, or ``None``."""
    from transformers import MODEL_FOR_PRETRAINING_MAPPING

    found: Any = MODEL_FOR_PRETRAINING_MAPPING.get(type(config), None)
    parameters = inspect.signature(found.forward).parameters if found is not None else ()
    return found if any(label in parameters for label in _LABELS) else None


def load_sentence_head(model: PreTrainedModel, seed: int) -> SentenceHead:
    """Return the sentence head of the checkpoint that a masked-LM model was loaded from, or else a new one.

    Args:
        model: the masked-LM model.
        seed: of new weights.

    Raises:
        ConfigError: its architecture has none that can be computed from the state of the first token.
    """
    kind = class_with_both_heads(model.config)
    if kind is None:
        raise ConfigError(
            f"{type(model).__name__} has no sentence head in transformers; use a BERT or ALBERT, or --objective mlm"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        both, missing = read_as(kind, model)
        head = _tried(both, model)
    head.new = any(name in missing for name in head.weights())
    return head


@torch.no_grad()
def _tried(both: PreTrainedModel, model: PreTrainedModel) -> SentenceHead:
    """Take the head from a model, and make sure that it computes what that model does."""
    both.eval()
    ids = torch.arange(3).remainder(both.config.vocab_size)[None]
    try:
        head = SentenceHead(both, new=True).eval()
        states = both.base_model(input_ids=ids).last_hidden_state
        works = close(head(states[:, 0]), both(input_ids=ids)[1])
    except (StopIteration, AttributeError, TypeError, RuntimeError):
        works = False
    if not works:
        raise ConfigError(
            f"the sentence head of {type(both).__name__} cannot be computed beside {type(model).__name__}; use a BERT or "
            f"ALBERT, or --objective mlm"
        )
    return head


@torch.no_grad()
def pair_probabilities(
    lm: MaskedLM, input_ids: np.ndarray, token_type_ids: np.ndarray
) -> tuple[float, float] | None:
    """Return the probabilities of labels 0 and 1 of a pair; ``None`` where the checkpoint has no sentence head.

    Args:
        lm: the model.
        input_ids: ``int64 [L]`` of the pair with its special tokens.
        token_type_ids: ``int64 [L]``.
    """
    with lm.plain() as raw, lm.precision(), lm.evaluating():
        if class_with_both_heads(raw.config) is None or (head := load_sentence_head(raw, 0)).new:
            return None
        ids, types = (torch.from_numpy(row)[None].to(lm.device) for row in (input_ids, token_type_ids))
        states = raw.base_model(input_ids=ids, token_type_ids=types).last_hidden_state[:, 0]
        first, second = head.eval().to(lm.device)(states)[0].float().softmax(-1).tolist()
    return first, second


def save_with_sentence_head(
    model: PreTrainedModel, head: SentenceHead, vocabulary: Vocabulary, folder: Path
) -> None:
    """Save a masked-LM model and its sentence head as the class with both heads, and check what was saved.

    Args:
        model: the masked-LM model.
        head: of it.
        vocabulary: whose tokens are compared.
        folder: where its files are written.

    Raises:
        UnmaskError: the saved model cannot be loaded, or is another.
    """
    kind = class_with_both_heads(model.config)
    with torch.random.fork_rng(devices=[]):
        both = kind(deepcopy(model.config))
    found = both.load_state_dict(
        {name: weight.cpu() for name, weight in (model.state_dict() | head.weights()).items()}, strict=False
    )
    if found.missing_keys or found.unexpected_keys:
        name = (found.missing_keys + found.unexpected_keys)[0]
        raise UnmaskError(
            f"{name} of {type(model).__name__} has no place in {kind.__name__}; please report this"
        )
    save_checked(both.eval(), vocabulary, folder, sample_logits(model, vocabulary))
    again = kind.from_pretrained(folder, local_files_only=True).state_dict()
    for name, weight in head.weights().items():
        if not torch.equal(again[name].float(), weight.cpu().float()):
            raise UnmaskError(f"{name} was saved, and is another when loaded again, so the model is not kept")
