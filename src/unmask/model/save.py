"""Save a model, and check that what was saved is that model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unmask.data.tokenizer import Vocabulary
from unmask.errors import ConfigError, UnmaskError
from unmask.model.load import read_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENS = 12
# Of the largest logit: far above rounding errors of any device, far below what a wrong row or bias does.
_TOLERANCE = 5e-3


@torch.no_grad()
def sample_logits(model: PreTrainedModel, vocabulary: Vocabulary) -> Tensor:
    """Return ``[L, V]`` fp32 logits at a sequence of tokens from the whole vocabulary, in evaluation mode."""
    body = vocabulary.replacements
    chosen = body[np.linspace(0, len(body) - 1, _TOKENS).astype(int)].tolist()
    ids = torch.tensor([[*vocabulary.prefix, *chosen, vocabulary.mask_id, *vocabulary.suffix]])
    training = model.training
    model.eval()
    try:
        return model(input_ids=ids.to(model.device)).logits[0].float().cpu()
    finally:
        model.train(training)


def save_trained(model: PreTrainedModel, folder: Path, new_head: Sequence[str]) -> None:
    """Save a model without the weights of an LM head that were never trained, so that the saved one lacks them too."""
    trained = {name: weight for name, weight in model.state_dict().items() if name not in new_head}
    model.save_pretrained(folder, state_dict=trained)


def save_checked(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    folder: Path,
    expected: Tensor | None = None,
    new_head: Sequence[str] = (),
) -> None:
    """Save a model, load it again and compare its logits.

    Args:
        model: any masked-LM model.
        vocabulary: whose tokens are compared.
        folder: where its files are written.
        expected: :func:`sample_logits`, of the first tokens of the vocabulary; by default those of ``model``.
        new_head: names of LM-head weights that were never trained, which are left out (:func:`save_trained`).

    Raises:
        UnmaskError: the saved model cannot be loaded, or gives other logits.
    """
    expected = sample_logits(model, vocabulary) if expected is None else expected
    save_trained(model, folder, new_head)
    name = type(model).__name__
    try:
        again, missing = read_checkpoint(str(folder), offline=True)
    except ConfigError as error:
        raise UnmaskError(
            f"the {name} was saved, but cannot be loaded again, so it is not kept: {error}"
        ) from error
    missing = sorted({*missing} - {*new_head})
    head = {name: weight for name, weight in model.state_dict().items() if name in new_head}
    again.load_state_dict(head, strict=False)  # to compare the rest
    found = sample_logits(again, vocabulary)[:, : expected.shape[-1]]
    finite = expected.isfinite()
    same_shape = found.shape == expected.shape
    off = (found - expected)[finite].abs().max().item() if same_shape and finite.any() else 0.0
    if missing or not same_shape or not off <= _TOLERANCE * max(1.0, expected[finite].abs().max().item()):
        what = f"lacks {missing[0]}" if missing else f"gives other logits (by up to {off:.3g})"
        raise UnmaskError(
            f"the {name} was saved, but loaded again it {what}, so it is not kept. This is an error of unmask or of "
            f"transformers in this architecture; please report it with the name of the model"
        )
