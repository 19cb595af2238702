"""Initialise the output bias of a new model with the frequencies of the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from unmask.model.layers import head_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def set_unigram_bias(model: PreTrainedModel, counts: np.ndarray) -> bool:
    """Set the bias over the vocabulary to the logarithm of the tokens' relative frequencies.

    New weights give every token nearly the same logit, so that the first loss is the entropy of the text's unigrams and
    not the logarithm of the vocabulary's size; learning the one from the other costs a run its first hundred steps.

    Args:
        model: a masked-LM model with new weights.
        counts: ``int64 [n]`` of each token; those that were never seen count as seen once, and so do further rows.

    Returns:
        Whether the model has such a bias.
    """
    rows = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    output = model.get_output_embeddings()
    bias = getattr(output, "bias", None)
    if output is None or len(output.weight) != rows:  # another layer of the head, as in some forms of DeBERTa
        bias = next((weight for weight in head_weights(model) if weight.shape == (rows,)), None)
    if not isinstance(bias, torch.Tensor):
        return False
    seen = np.ones(len(bias))
    seen[: len(counts)] = np.maximum(counts, 1)
    bias.copy_(torch.from_numpy(np.log(seen / seen.sum())))
    return True
