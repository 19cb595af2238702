"""Add rows for new vocabulary entries to a model, or keep the rows of some entries alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    _replace_tables(model, rows, lambda old: _extended(old, rows, first, replaced))


@torch.no_grad()
def keep_rows(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Keep some rows of all weights over the vocabulary; tied weights stay tied.

    Args:
        model: any masked-LM model, changed in place with the vocabulary size of its config.
        kept: the old id of each new one.
    """
    index = torch.tensor(kept)
    _replace_tables(model, len(kept), lambda old: old[index.to(old.device)])


def _replace_tables(model: PreTrainedModel, rows: int, make: Callable[[Tensor], Tensor]) -> None:
    """Replace all weights over the vocabulary; ``make`` gets one with the vocabulary as its first dimension."""
    new: dict[int, Tensor] = {}
    for name, dim in vocabulary_dims(model).items():
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        old = getattr(owner, attribute)
        if id(old) not in new:
            table = make(old.data.movedim(dim, 0)).movedim(0, dim).contiguous()
            new[id(old)] = nn.Parameter(table, old.requires_grad) if isinstance(old, nn.Parameter) else table
        setattr(owner, attribute, new[id(old)])
        if isinstance(owner, nn.Embedding):
            owner.num_embeddings = rows
        elif isinstance(owner, nn.Linear):
            setattr(owner, "in_features" if dim else "out_features", rows)
    model.config.vocab_size = rows


def _extended(old: Tensor, rows: int, first: int, replaced: Sequence[Sequence[int]]) -> Tensor:
    new = torch.cat([old, old.new_zeros(rows - len(old), *old.shape[1:])])
    new[first : first + len(replaced)] = torch.stack([old[list(ids)].mean(0) for ids in replaced])
    return new
