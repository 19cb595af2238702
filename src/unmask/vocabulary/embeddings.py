"""Add rows for new vocabulary entries to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unmask.errors import ConfigError
from unmask.model.vocabulary_rows import vocabulary_dims

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def add_rows(model: PreTrainedModel, first: int, replaced: Sequence[Sequence[int]]) -> None:
    """Add rows for new tokens to a model, initialised to the mean of the rows of the tokens that each replaces.

    All weights over the vocabulary get rows; tied weights stay tied, untied ones get means of their own. The resizing of
    transformers samples new rows around the mean of all rows, and loses biases of models with untied embeddings.

    Args:
        model: any masked-LM model, changed in place with its config. Unused rows are used first.
        first: id of the first new token; the others follow.
        replaced: ids of the tokens that each new token replaces.

    Raises:
        ConfigError: the model has fewer rows than the tokenizer has entries.
    """
    have = model.config.vocab_size
    if have < first:
        raise ConfigError(
            f"the tokenizer has {first:,} entries but the model only {have:,} rows of embeddings; "
            f"use the model's own tokenizer"
        )
    rows = max(have, first + len(replaced))
    new: dict[int, Tensor] = {}
    for name, dim in vocabulary_dims(model).items():
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        old = getattr(owner, attribute)
        if id(old) not in new:
            table = _extended(old.data, dim, rows, first, replaced)
            new[id(old)] = nn.Parameter(table, old.requires_grad) if isinstance(old, nn.Parameter) else table
        setattr(owner, attribute, new[id(old)])
        if isinstance(owner, nn.Embedding):
            owner.num_embeddings = rows
        elif isinstance(owner, nn.Linear):
            setattr(owner, "in_features" if dim else "out_features", rows)
    model.config.vocab_size = rows


def _extended(table: Tensor, dim: int, rows: int, first: int, replaced: Sequence[Sequence[int]]) -> Tensor:
    old = table.movedim(dim, 0)
    new = torch.cat([old, old.new_zeros(rows - len(old), *old.shape[1:])])
    new[first : first + len(replaced)] = torch.stack([old[list(ids)].mean(0) for ids in replaced])
    return new.movedim(0, dim).contiguous()
