"""Which weights of a model have a row for each token of the vocabulary, in any architecture."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def vocabulary_dims(model: PreTrainedModel) -> dict[str, int]:
    """Return the dimension of the vocabulary in each weight that has one, by the name of the weight.

    The class of the model is built twice without memory, for vocabularies of different sizes; where shapes differ is the
    vocabulary. Names and methods of a class do not say it: the output matrix may be split (MobileBERT), a bias may have
    a copy (BERT with untied embeddings), and what is called output embeddings may be another layer (DeBERTa-v2).
    """
    now, larger = (_shapes(model, model.config.vocab_size + more) for more in (0, 1))
    return {
        name: next(dim for dim, (a, b) in enumerate(zip(shape, larger[name], strict=True)) if a != b)
        for name, shape in now.items()
        if shape != larger[name]
    }


def _shapes(model: PreTrainedModel, rows: int) -> dict[str, torch.Size]:
    config: Any = deepcopy(model.config)
    config.vocab_size = rows
    config._attn_implementation = "eager"
    with torch.device("meta"):
        other: Any = type(model)(config)
    return {name: weight.shape for name, weight in other.state_dict().items()}
