"""Replaced token detection on one text: what the generator draws, and what the discriminator makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.data.masking.mask import Masked
from unmask.data.masking.random_bits import MaskKey
from unmask.data.packing import Packed
from unmask.data.tokenizer import token_names
from unmask.model.base import LanguageModel
from unmask.model.discriminator import replacement_logits
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM
from unmask.objectives.rtd import draw_tokens
from unmask.run_folder import saved_generator

_generators: WeakKeyDictionary[LanguageModel, LanguageModel] = WeakKeyDictionary()
"""By discriminator, so that one that is served loads its generator once."""


@dataclass(frozen=True, slots=True)
class Detection:
    """What a discriminator makes of a text of ``T`` tokens in which its generator has filled the masked places.

    Attributes:
        discriminator: its name.
        tokens: the text that it reads.
        input_ids: their ids.
        replaced: whether a token is another than the original, which is the label; a draw may be the original.
        probabilities: by the discriminator, that a token was replaced; ``None`` for special tokens, which are not judged.
        token_loss: binary cross-entropy in nats, ``None`` for special tokens.
        loss: the mean over the tokens that are judged, or ``None`` if there are none.
    """

    discriminator: str
    tokens: list[str]
    input_ids: list[int]
    replaced: list[bool]
    probabilities: list[float | None]
    token_loss: list[float | None]
    loss: float | None


def with_generator(lm: LanguageModel) -> tuple[LanguageModel, MaskedLM | None]:
    """Return the model that predicts masked tokens, and the discriminator that was trained with it, if ``lm`` is one."""
    if not (isinstance(lm, MaskedLM) and lm.new_head and (folder := saved_generator(lm.name))):
        return lm, None
    if (found := _generators.get(lm)) is None:
        precision = "bf16" if lm.autocast else "fp32"
        found = load_for_inference(folder, device=lm.device.type, precision=precision, offline=True)
        _generators[lm] = found
    return found, lm


def detect(
    discriminator: MaskedLM,
    packed: Packed,
    token_type_ids: np.ndarray,
    masked: Masked,
    logits: Tensor,
    key: MaskKey,
) -> Detection:
    """Fill the masked places with the draws of training, and let a discriminator judge every token.

    Args:
        discriminator: read from the checkpoint of one.
        packed: the text as one sequence.
        token_type_ids: ``int64 [T]``.
        masked: its masks.
        logits: ``[T, V]`` of the generator, or their logarithmic softmax.
        key: of the draw.
    """
    vocabulary, device = discriminator.vocabulary, logits.device
    places = torch.from_numpy(masked.target_index).to(device)
    allowed = torch.zeros(logits.shape[1], dtype=torch.bool, device=device)
    allowed[torch.from_numpy(vocabulary.replacements).to(device)] = True
    shown = packed.input_ids.copy()
    shown[masked.target_index] = draw_tokens(packed, masked.target_index, key, logits[places], allowed)
    replaced = shown != packed.input_ids
    found = replacement_logits(discriminator, shown, token_type_ids).cpu().double()
    losses = F.binary_cross_entropy_with_logits(found, torch.from_numpy(replaced).double(), reduction="none")
    judged = ~vocabulary.special[packed.input_ids]
    return Detection(
        discriminator=discriminator.name,
        tokens=token_names(discriminator.tokenizer, vocabulary, shown.tolist()),
        input_ids=shown.tolist(),
        replaced=replaced.tolist(),
        probabilities=_where(judged, found.sigmoid().numpy()),
        token_loss=_where(judged, losses.numpy()),
        loss=float(losses.numpy()[judged].mean()) if judged.any() else None,
    )


def _where(judged: np.ndarray, values: np.ndarray) -> list[float | None]:
    return [float(value) if known else None for value, known in zip(values, judged, strict=True)]
